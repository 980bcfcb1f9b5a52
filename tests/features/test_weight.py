from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pyspark.sql import SparkSession

from pipeline.clean.stage import clean
from pipeline.config import Pipeline
from pipeline.errors import LeakageError, SpecError
from pipeline.features.fit import fit
from pipeline.features.prepared import prepared
from pipeline.features.spec import FeatureSpec
from pipeline.features.stage import featurize
from pipeline.lake import Lake
from pipeline.training.splits import layout_of
from tests.clean.examples import files_below, pipeline, some_rows, table, write_raw
from tests.features import examples

MONTHS = {month: some_rows(1000 * month, 20, month) for month in (1, 2, 3, 4)}
ROWS = [row for rows in MONTHS.values() for row in rows]
WEIGHT = "CASE WHEN day < 3 THEN 1 + amount WHEN place = 'a' THEN 0 ELSE 0.1 END"

Described = Callable[[str | None], Pipeline]


def weight_of(row: dict[str, Any]) -> float:
    """What `WEIGHT` says, in plain Python."""
    if row["id"] % 7 < 3:
        return float(np.float32(1 + row["amount"]))
    return 0.0 if row["place"] == "a" else float(np.float32(0.1))


@pytest.fixture(scope="module")
def described(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> Described:
    """The description of a lake that has `clean`, with a weight or without."""
    root = tmp_path_factory.mktemp("weight")
    for month, rows in MONTHS.items():
        write_raw(root / "raw" / f"{month}.parquet", rows)

    def with_weight(weight: str | None) -> Pipeline:
        changes: dict[str, Any] = {"features.derive": {"day": "id % 7"}}
        return pipeline(root, changes | ({} if weight is None else {"features.weight": weight}))

    how = with_weight(None)
    clean(spark, how, Lake(how.lake))
    return with_weight


def test_a_weight_is_a_column_of_the_features(spark: SparkSession, described: Described) -> None:
    how = described(WEIGHT)
    lake = Lake(how.lake)
    _, spec = featurize(spark, how, lake)
    stored = table(lake, spec.table)
    assert str(stored.schema["_weight"]) == "Float32"
    assert dict(stored.select("id", "_weight").iter_rows()) == {
        row["id"]: weight_of(row) for row in ROWS
    }
    assert "_weight" not in (*spec.feature_columns, *spec.label_columns)
    assert layout_of(spec, with_weight=True).scalars["weight"] == "_weight"
    assert "weight" not in layout_of(spec).scalars, "only training asks for it"
    assert spec.weight == WEIGHT
    assert FeatureSpec.from_json(spec.to_json()) == spec
    done, again = featurize(spark, how, lake)
    assert (done.unchanged, again.hash) == (True, spec.hash)
    _, plain = featurize(spark, described(None), lake)
    assert plain.hash != spec.hash
    assert "weight" not in plain.model_dump()
    assert "weight" not in described(None).features.model_dump()


BAD: dict[str, Callable[[int], bool]] = {
    "IF(id % 7 = 0, NULL, 1)": lambda n: n % 7 == 0,
    "CASE id WHEN 1001 THEN -0.001 WHEN 4002 THEN -1 ELSE 1 END": lambda n: n in (1001, 4002),
    # Not in the train split: the fit does not see them.
    "IF(id >= 4018, double('NaN'), 0.5)": lambda n: n >= 4018,
    "IF(id = 3001, double('inf'), IF(id = 3002, 1e39, 1))": lambda n: n in (3001, 3002),
    "1 / (id - 3005)": lambda n: 0 < n <= 3005,
}  # fmt: skip


@pytest.mark.parametrize("weight", BAD)
def test_bad_weights_are_counted_and_nothing_is_written(
    spark: SparkSession, described: Described, weight: str
) -> None:
    how = described(weight)
    bad = [row for row in ROWS if BAD[weight](row["id"])]
    # The fit looks at the train split before any other row is.
    counted = len([row for row in bad if row["month"] <= 2]) or len(bad)
    before = files_below(Path(how.lake) / "features")
    told = f"features.weight: {weight!r} is null, negative or not finite in {counted} rows. Nothing"
    with pytest.raises(SpecError, match=f"^{re.escape(told)}"):
        featurize(spark, how, Lake(how.lake))
    after = files_below(Path(how.lake) / "features")
    assert not [name for name in after - before if name.endswith(".parquet")]


@pytest.mark.parametrize(
    ("weight", "error", "told"),
    [
        ("delay + 1", LeakageError, r"^features\.weight: 'delay \+ 1' uses a column listed under"),
        ("place", SpecError, r"^features\.weight: 'place' is string\. Write a number"),
        ("late", SpecError, r"^features\.weight: 'late': "),
        ("_label_0", SpecError, r"^features\.weight: '_label_0': "),
        ("rand()", SpecError, r"^features\.weight: .* not deterministic"),
        ("id < 0", SpecError, r"is 0 in all rows of the train split"),
    ],
)
def test_a_weight_that_cannot_be_is_refused(
    spark: SparkSession, weight: str, error: type[Exception], told: str
) -> None:
    how = examples.described(weight=weight)
    rows = [examples.clean_row(number) for number in range(10)]
    with pytest.raises(error, match=told):
        fit(prepared(examples.frame(spark, rows), how), how, "small", "period")


def test_no_condition_sees_the_weight(spark: SparkSession) -> None:
    splits = {"train": "_weight > 0", "validation": "month = 3", "test": "month = 4"}
    how = examples.described(weight="id", splits=splits)
    with pytest.raises(SpecError, match=r"features\.splits\.train"):
        prepared(examples.frame(spark, []), how)
