from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from pyspark.sql import DataFrame, SparkSession

from pipeline.errors import SpecError
from pipeline.features.kinds.categorical import FittedCategory
from pipeline.features.kinds.cyclic import FittedCyclic
from pipeline.features.kinds.numeric import FittedNumber
from pipeline.features.kinds.scales import Plain, Standard, Steps
from pipeline.features.prepared import prepared
from pipeline.features.spec import FeatureSpec
from pipeline.features.transform import features
from tests.features import examples

SPEC = FeatureSpec(
    pipeline="small",
    keys=("id",),
    period_column="period",
    label=examples.described().label,
    splits=examples.described().splits,
    leakage=("delay",),
    derive={"day": "id % 7", "odd": "1 / (id % 2)"},
    parts=(
        FittedNumber(column="amount", indicator=True, scale=Standard(mean=20.0, deviation=4.0)),
        FittedNumber(column="month", indicator=False, scale=Steps(boundaries=(1.0, 2.0, 4.0, 9.0))),
        FittedNumber(column="odd", indicator=True, scale=Plain()),
        FittedCyclic(column="day", period=7.0),
        FittedCategory(column="place", words=("a", "b")),
        FittedCategory(column="month", words=("1", "2")),
        FittedCategory(column="day", words=()),
    ),
)


def transformed(clean: DataFrame, spec: FeatureSpec = SPEC) -> DataFrame:
    return features(prepared(clean, spec), spec)


def test_each_row_is_what_numpy_makes_of_it(spark: SparkSession) -> None:
    raw = [examples.clean_row(number) for number in range(60)]
    raw[7]["amount"], raw[8]["amount"], raw[9]["amount"] = math.nan, math.inf, 1e300
    raw[11]["month"] = None
    rows = {row["id"]: row for row in transformed(examples.frame(spark, raw)).collect()}
    assert len(rows) == len(raw)
    for row in raw:
        got, amount, month = rows[row["id"]], row["amount"], row["month"]
        usable = amount is not None and abs(amount) < 1e38
        assert got["num_amount"] == np.float32((amount - 20) / 4 if usable else 0)
        assert got["missing_amount"] == (0 if usable else 1)
        reached = sum(month >= boundary for boundary in (1, 2, 4, 9)) if month else None
        assert got["num_month"] == np.float32(reached / 2 - 1 if reached is not None else 0)
        assert got["num_odd"] == row["id"] % 2
        assert got["missing_odd"] == 1 - row["id"] % 2
        angle = 2 * math.pi * (row["id"] % 7) / 7
        assert got["sin_day"] == pytest.approx(math.sin(angle), abs=1e-6)
        assert got["cos_day"] == pytest.approx(math.cos(angle), abs=1e-6)
        assert got["cat_place"] == {None: 0, "a": 2, "b": 3}.get(row["place"], 1)
        assert got["cat_month"] == {None: 0, 1: 2, 2: 3}.get(month, 1)
        assert got["cat_day"] == 1
        assert got["late"] == (row["delay"] > 15)


def test_a_missing_angle_is_the_centre_of_the_circle(spark: SparkSession) -> None:
    spec = SPEC.model_copy(update={"parts": (FittedCyclic(column="amount", period=7.0),)})
    clean = examples.frame(spark, [examples.clean_row(1, amount=None)])
    (row,) = transformed(clean, spec).collect()
    assert (row["sin_amount"], row["cos_amount"]) == (0, 0)


def test_columns_are_those_the_spec_promises(spark: SparkSession) -> None:
    frame = transformed(examples.frame(spark, []))
    kinds = dict(frame.dtypes)
    numeric, categorical = SPEC.numeric_columns, SPEC.categorical_columns
    assert frame.columns == ["id", "late", *numeric, *categorical, "_missing_0", "split", "period"]
    assert kinds["_missing_0"] == "bigint"
    assert {kinds[name] for name in ("late", *numeric)} == {"float"}
    assert {kinds[name] for name in categorical} == {"int"}
    assert SPEC.cardinalities == (4, 4, 2)


def test_what_is_missing_is_told_bit_by_bit(spark: SparkSession) -> None:
    raw = [examples.clean_row(number) for number in range(60)]
    raw[7]["amount"], raw[8]["amount"], raw[11]["month"] = math.nan, math.inf, None
    assert SPEC.imputed_columns == ("amount", "month", "odd", "day")
    for row in transformed(examples.frame(spark, raw)).collect():
        amount, month = raw[row["id"]]["amount"], raw[row["id"]]["month"]
        unusable = amount is None or not math.isfinite(amount)
        missing = (unusable, month is None, row["id"] % 2 == 0, False)
        assert row["_missing_0"] == sum(1 << place for place, is_so in enumerate(missing) if is_so)


def test_more_numbers_than_a_bigint_has_bits_take_two(spark: SparkSession) -> None:
    numbers = tuple(
        FittedNumber(column=f"n{place}", indicator=False, scale=Plain()) for place in range(65)
    )
    derive = {part.column: "nullif(id, 1)" for part in numbers}
    spec = SPEC.model_copy(update={"parts": numbers, "derive": derive})
    clean = examples.frame(spark, [examples.clean_row(number) for number in range(2)])
    rows = {row["id"]: row for row in transformed(clean, spec).collect()}
    assert (rows[0]["_missing_0"], rows[0]["_missing_1"]) == (0, 0)
    assert (rows[1]["_missing_0"], rows[1]["_missing_1"]) == (2**63 - 1, 3)
    old = features(prepared(clean, spec), spec, with_missing=False)
    assert not any(name.startswith("_") for name in old.columns)


def test_rows_lie_in_splits_by_time_and_without_label_in_one_of_their_own(
    spark: SparkSession,
) -> None:
    raw = [examples.clean_row(n, month=n + 1) for n in range(5)]
    raw += [examples.clean_row(9, month=1, delay=None), examples.clean_row(10, month=None)]
    raw += [examples.clean_row(11, month=3, delay=None, place="lost")]
    rows = prepared(examples.frame(spark, raw), SPEC).collect()
    assert [(row["split"], row["_absent"]) for row in rows] == [
        ("train", None),
        ("train", None),
        ("validation", None),
        ("test", None),
        ("rest", None),
        ("unlabelled", "unmeasured"),
        ("rest", None),
        ("unlabelled", "lost"),
    ]
    assert [row["late"] is None for row in rows] == [row["delay"] is None for row in raw]
    unknown = SPEC.model_copy(update={"label": SPEC.label.model_copy(update={"absent": {}})})
    (row,) = prepared(examples.frame(spark, raw[5:6]), unknown).collect()
    assert row["_absent"] == "unknown"


def test_equal_rows_give_equal_features_however_they_are_partitioned(spark: SparkSession) -> None:
    clean = examples.frame(spark, [examples.clean_row(number) for number in range(200)])
    one = sorted(transformed(clean.coalesce(1)).collect())
    spark.conf.set("spark.sql.codegen.wholeStage", "false")
    try:
        other = sorted(transformed(clean.repartition(5, "place")).collect())
    finally:
        spark.conf.set("spark.sql.codegen.wholeStage", "true")
    assert one == other


@pytest.mark.parametrize("column", ["amount", "place", "id"])
def test_rows_that_lack_what_the_spec_needs_are_refused(spark: SparkSession, column: str) -> None:
    frame = prepared(examples.frame(spark, []), SPEC.model_copy(update={"derive": {}}))
    with pytest.raises(SpecError, match="is missing; there are"):
        features(frame.drop(column), SPEC)


words = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)


@settings(
    max_examples=4,
    deadline=None,
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
    suppress_health_check=[HealthCheck.too_slow],
)
@given(known=st.sets(words, min_size=1, max_size=200), others=st.lists(words, max_size=50))
def test_ids_are_those_of_a_plain_dictionary(
    spark: SparkSession, known: set[str], others: list[str]
) -> None:
    # Some that trouble hash functions, JSON and collations.
    known |= {"", " ", "a", "A", "a ", "\x00", '"', "\\", "\n", "é", "e\u0301", "ß", "😀", "null"}
    vocabulary = FittedCategory(column="place", words=tuple(sorted(known)))
    spec = SPEC.model_copy(update={"parts": (vocabulary,), "derive": {}})
    asked = [*known, *others, None, *(word + "x" for word in known)]
    raw = [examples.clean_row(number, place=word) for number, word in enumerate(asked)]
    rows = transformed(examples.frame(spark, raw), spec).collect()
    ids: dict[Any, int] = {word: place + 2 for place, word in enumerate(vocabulary.words)}
    got = {row["id"]: row["cat_place"] for row in rows}
    for row in raw:
        word = row["place"]
        wanted = 0 if word is None else ids.get(word, 1)
        assert got[row["id"]] == wanted, json.dumps(word)
