from __future__ import annotations

import math
from collections import Counter
from typing import Any

import numpy as np
import pytest
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from pipeline.config import Features
from pipeline.errors import SpecError
from pipeline.features import fit as module
from pipeline.features.fit import fit
from pipeline.features.kinds.categorical import FittedCategory
from pipeline.features.kinds.numeric import FittedNumber
from pipeline.features.kinds.scales import Plain, Quantile, Standard, rounded
from pipeline.features.prepared import SPLIT, TRAIN, prepared
from pipeline.features.spec import FeatureSpec
from tests.features import examples

ROWS = [examples.clean_row(number) for number in range(1, 400)]
TRAINED = [row for row in ROWS if row["month"] <= 2]


def fitted(rows: DataFrame, how: Features) -> FeatureSpec:
    return fit(prepared(rows, how).where(F.col(SPLIT) == TRAIN), how, "small", "period")


def scales_of(spec: FeatureSpec) -> dict[str, Any]:
    return {part.column: part.scale for part in spec.parts if isinstance(part, FittedNumber)}


def vocabularies_of(spec: FeatureSpec) -> dict[str, tuple[str, ...]]:
    return {part.column: part.words for part in spec.parts if isinstance(part, FittedCategory)}


def test_measures_are_those_of_the_labelled_train_rows(spark: SparkSession) -> None:
    how = examples.described(
        numeric={"amount": {"scale": "standard"}, "twice": {"scale": "quantile"}},
        categorical={"place": {"minimum_count": 3}, "day": {"minimum_count": 23}},
    )
    # Rows without a label are in no split.
    unlabelled = [examples.clean_row(n, month=1, amount=1e9, delay=None) for n in range(400, 420)]
    spec = fitted(examples.frame(spark, [*ROWS, *unlabelled]), how)
    amounts = np.array([row["amount"] for row in TRAINED if row["amount"] is not None])
    standard, quantile = scales_of(spec).values()
    assert isinstance(standard, Standard)
    assert standard.mean == pytest.approx(amounts.mean(), rel=1e-6)
    assert standard.deviation == pytest.approx(amounts.std(), rel=1e-6)
    assert isinstance(quantile, Quantile)
    # Of fewer than 10,000 rows, each quantile is exact: the value of that rank.
    exact = np.quantile(amounts * 2, np.arange(33) / 32, method="inverted_cdf")
    assert quantile.points == tuple(sorted(set(exact.tolist())))
    for point, place in zip(quantile.points, quantile.places, strict=True):
        assert place == pytest.approx((np.flatnonzero(exact == point) / 16 - 1).mean())
    for column, words, count in zip(
        ("place", "day"),
        ([row["place"] for row in TRAINED], [str(row["id"] % 7) for row in TRAINED]),
        (3, 23),
        strict=True,
    ):
        seen = Counter(word for word in words if word is not None)
        found = vocabularies_of(spec)[column]
        assert found == tuple(sorted(word for word, n in seen.items() if n >= count))
        assert found
    assert len(vocabularies_of(spec)["day"]) < 7, "no day is rare enough to prove anything"


def test_rows_outside_the_train_split_do_not_change_the_spec(spark: SparkSession) -> None:
    how = examples.described()
    other = [
        row if row["month"] <= 2 else {**row, "amount": 1e6, "place": "new", "delay": 0.0}
        for row in ROWS
    ]
    one = fitted(examples.frame(spark, ROWS), how)
    assert fitted(examples.frame(spark, other).repartition(5), how).hash == one.hash
    changed = [{**row, "amount": 1e6} if row is TRAINED[0] else row for row in ROWS]
    assert fitted(examples.frame(spark, changed), how).hash != one.hash


def test_what_is_no_number_counts_as_missing(spark: SparkSession) -> None:
    how = examples.described(
        derive={
            "day": "id % 7",
            "root": "sqrt(amount - 60)",  # NaN below 60
            "power": "exp(amount * 20)",  # too large for a float, or infinite
            "share": "amount / (id % 2)",  # an error for every second row
        },
        numeric={name: {"indicator": True} for name in ("root", "power", "share")},
    )
    spec = fitted(examples.frame(spark, ROWS), how)
    amounts = [row["amount"] for row in TRAINED if row["amount"] is not None]
    kept = {
        "root": [math.sqrt(a - 60) for a in amounts if a >= 60],
        "power": [math.exp(a * 20) for a in amounts if a * 20 < math.log(3.4e38)],
        "share": [r["amount"] for r in TRAINED if r["amount"] is not None and r["id"] % 2],
    }
    for column, number in scales_of(spec).items():
        assert isinstance(number, Standard)
        values = np.array(kept[column])
        assert len(values) < len(amounts)
        assert number.mean == pytest.approx(values.mean(), rel=1e-5), column
        assert number.deviation == pytest.approx(values.std(), rel=1e-5)


def test_a_constant_has_deviation_one(spark: SparkSession) -> None:
    how = examples.described(derive={"day": "id % 7", "c": "0.123456789D"}, numeric={"c": {}})
    (number,) = scales_of(fitted(examples.frame(spark, ROWS), how)).values()
    assert isinstance(number, Standard)
    assert number.deviation == 1.0
    assert number.mean == pytest.approx(0.123456789, abs=1e-6)


@pytest.mark.parametrize("scale", ["standard", "quantile", "none"])
def test_a_number_without_any_value_is_refused(spark: SparkSession, scale: str) -> None:
    how = examples.described(numeric={"amount": {"scale": scale}}, categorical={})
    rows = [{**row, "amount": None if row["month"] <= 2 else 1.0} for row in ROWS]
    with pytest.raises(SpecError, match=r"^features\.numeric\.amount: has no value among the 159"):
        fitted(examples.frame(spark, rows), how)


@pytest.mark.parametrize("categorical", [{}, {"place": {"minimum_count": 2}}])
def test_a_train_split_without_rows_is_refused(
    spark: SparkSession, categorical: dict[str, Any]
) -> None:
    how = examples.described(categorical=categorical)
    rows = [row for row in ROWS if row["month"] > 2]
    with pytest.raises(
        SpecError, match=r"^features\.splits\.train: no labelled row of clean meets"
    ):
        fitted(examples.frame(spark, rows), how)


def test_words_that_are_all_rare_make_an_empty_vocabulary(spark: SparkSession) -> None:
    how = examples.described(categorical={"place": {"minimum_count": 10_000}})
    spec = fitted(examples.frame(spark, ROWS), how)
    assert vocabularies_of(spec)["place"] == ()
    assert spec.cardinalities == (2,)
    assert list(scales_of(spec)) == ["amount"]


def test_a_label_that_is_no_class_is_refused(spark: SparkSession) -> None:
    how = examples.described(label={"name": "late", "expression": "delay"})
    with pytest.raises(
        SpecError, match=r"^features\.label\.expression: 'delay' is neither 0 nor 1"
    ):
        fitted(examples.frame(spark, ROWS), how)


@pytest.mark.parametrize(
    "changes",
    [
        {"numeric": {"place": {}}},
        {"cyclic": {"place": {"period": 7}}},
        {"derive": {"day": "1", "x": "array(amount)"}, "numeric": {"x": {}}},
        {"derive": {"day": "1", "x": "make_date(2013, 1, 1)"}, "numeric": {"x": {}}},
    ],
)
def test_a_number_made_of_something_else_is_refused(
    spark: SparkSession, changes: dict[str, Any]
) -> None:
    with pytest.raises(SpecError, match="and a feature is to be a number"):
        fitted(examples.frame(spark, []), examples.described(**changes))


def test_a_large_vocabulary_needs_a_lake(
    spark: SparkSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "INLINE_WORDS", 3)
    how = examples.described(categorical={"day": {"minimum_count": 1}})
    with pytest.raises(SpecError, match=r"categorical\.day: has more than 3 words, and no lake"):
        fitted(examples.frame(spark, ROWS), how)


def test_a_plain_number_is_not_measured(spark: SparkSession) -> None:
    how = examples.described(numeric={"amount": {"scale": "none", "indicator": True}})
    assert fitted(examples.frame(spark, ROWS), how).parts[:1] == (
        FittedNumber(column="amount", indicator=True, scale=Plain()),
    )


@pytest.mark.parametrize(
    ("value", "beside", "wanted"),
    [
        (123.456789123, 123.456789123, 123.4568),
        (1_357_000_123.456789, 2.5, 1_357_000_123.456789),
        (0.000123456789, 0.000123456789, 0.0001234568),
        (123456789.0, 123456789.0, 123456800.0),
        (5.25, 0.0, 5.25),
        (0.0, 0.0, 0.0),
    ],
)
def test_rounding_keeps_seven_digits_of_what_matters(
    value: float, beside: float, wanted: float
) -> None:
    assert rounded(value, beside) == wanted
