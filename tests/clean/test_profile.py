"""Measures of columns, against Polars."""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

import polars as pl
import pyarrow as pa
import pytest
from pyspark.sql import SparkSession

from pipeline.clean.profile import LONGEST_VALUE, QUANTILES, TOP_VALUES
from pipeline.clean.quality import QUALITY_SCHEMA
from pipeline.clean.stage import clean
from pipeline.lake import Lake
from pipeline.operate.report.quality import read_quality
from tests.clean import examples

ROWS = 3_000
COLUMNS = {
    "id": {"type": "bigint", "required": True},
    "month": {"type": "int", "required": True},
    "amount": {"type": "double"},
    "place": {"type": "string"},
    "free": {"type": "string"},
    "paid": {"type": "boolean"},
    "photo": {"type": "binary"},
}
RAW = pa.schema(
    [
        ("id", pa.int64()),
        ("month", pa.int64()),
        ("amount", pa.float64()),
        ("place", pa.string()),
        ("free", pa.string()),
        ("paid", pa.bool_()),
        ("photo", pa.binary()),
    ]
)
CHANGES = {
    "source.columns": COLUMNS,
    "features.leakage": [],
    "features.label": {"name": "late", "expression": "amount > 1"},
}


def some(count: int, seed: int) -> list[dict[str, Any]]:
    draw = random.Random(seed)  # noqa: S311  made-up rows
    return [
        {
            "id": number,
            "month": 1 + number % 4,
            "amount": None if draw.random() < 0.1 else draw.lognormvariate(2, 2),
            "place": draw.choices(["a", "b", "c", "", None], [5, 3, 1, 1, 1])[0],
            "free": str(number) + "x" * draw.randrange(2 * LONGEST_VALUE),
            "paid": draw.choice([True, False, None]),
            "photo": draw.randbytes(4),
        }
        for number in range(count)
    ]


@pytest.fixture(scope="module")
def measured(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> Lake:
    """Two versions of a table, the second one with other rows."""
    root = tmp_path_factory.mktemp("profile")
    pipeline = examples.pipeline(root, CHANGES)
    lake = Lake(pipeline.lake)
    for seed in (1, 2):
        rows = some(ROWS + seed, seed)
        for part in range(3):
            examples.write_raw(root / "raw" / f"{part}.parquet", rows[part::3], RAW)
        clean(spark, pipeline, lake)
    return lake


def newest(lake: Lake) -> dict[tuple[str, str], float]:
    rows = examples.table(lake, "quality")
    rows = rows.filter(
        pl.col("measured_at") == rows["measured_at"].max(), pl.col("table") == "clean"
    )
    return {(row["subject"], row["measure"]): row["value"] for row in rows.to_dicts()}


def test_counts_and_lengths_are_exact(measured: Lake) -> None:
    found, kept = newest(measured), examples.table(measured, "clean")
    for name in COLUMNS:
        assert found[name, "nulls"] == kept[name].null_count()
    for name in ("place", "free", "period"):
        lengths = kept[name].str.len_chars()
        assert found[name, "shortest text"] == lengths.min()
        assert found[name, "longest text"] == lengths.max()
        assert found[name, "mean length"] == pytest.approx(lengths.mean())
    assert {measure for name, measure in found if name == "photo"} == {"nulls"}


def test_distinct_values_and_quantiles_are_near(measured: Lake) -> None:
    found, kept = newest(measured), examples.table(measured, "clean")
    for name in ("id", "amount", "place", "free", "paid"):
        distinct = kept[name].drop_nulls().n_unique()
        assert found[name, "distinct approximately"] == pytest.approx(distinct, rel=0.15)
    for name in ("id", "month", "amount"):
        values = kept[name].drop_nulls().cast(pl.Float64)
        for share in QUANTILES:
            value = found[name, f"quantile {share:g} approximately"]
            below, up_to = (values < value).sum(), (values <= value).sum()
            assert below <= (share + 0.01) * len(values)
            assert up_to >= (share - 0.01) * len(values)


def test_frequent_values_are_counted_and_rare_ones_are_not_told(measured: Lake) -> None:
    found, kept = newest(measured), examples.table(measured, "clean")
    for name, as_text in (("place", str), ("month", str), ("paid", lambda v: str(v).lower())):
        counted = Counter(map(as_text, kept[name].drop_nulls().to_list())).most_common(TOP_VALUES)
        told = {
            measure.removeprefix("rows with: "): rows
            for (column, measure), rows in found.items()
            if column == name and measure.startswith("rows with: ")
        }
        assert told == dict(counted)
    assert not [m for name, m in found if name in ("free", "id") and m.startswith("rows with")]


def test_the_table_has_the_schema_that_it_had_and_the_page_the_version_before(
    measured: Lake,
) -> None:
    table = measured.table("quality").snapshot()
    assert table.schema.names == QUALITY_SCHEMA.names
    quality = read_quality(table, measured.table("clean"), measured.table("clean").snapshot())
    assert (quality.clean, quality.clean_before) == (ROWS + 2, ROWS + 1)
    (amount,) = [column for column in quality.columns if column.name == "amount"]
    assert [share for share, _ in amount.quantiles] == ["5%", "25%", "50%", "75%", "95%"]
    assert set(amount.before) == set(amount.measures)
    assert amount.before["mean"] != amount.measures["mean"]
    (place,) = [column for column in quality.columns if column.name == "place"]
    assert [value for value, _ in place.top][:2] == ["a", "b"]
