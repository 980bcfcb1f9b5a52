"""Large files are compared in more tasks, to the same end."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest
from polars.testing import assert_frame_equal
from pyspark.sql import Observation, SparkSession

from pipeline.clean import batch, partitions, stage
from pipeline.clean.frames import judged
from pipeline.clean.increment import clean_increment
from pipeline.clean.partitions import TASK_BYTES, partitions_by_size
from pipeline.clean.quality import Counts, counts_of
from pipeline.clean.stage import clean
from pipeline.config import Pipeline
from pipeline.lake import Lake
from pipeline.sources.formats import open_rows
from tests.clean import examples

SETTING = "spark.sql.shuffle.partitions"


@pytest.fixture
def small(tmp_path: Path) -> Pipeline:
    """Two files, the second with a newer state of some rows of the first."""
    changes = {"clean.dedupe": {"keys": ["id"], "latest_by": ["amount"]}}
    examples.write_raw(tmp_path / "raw" / "first.parquet", examples.some_rows(0, 40, 1))
    newer = [{**row, "amount": 99.0} for row in examples.some_rows(30, 20, 2)]
    examples.write_raw(tmp_path / "raw" / "second.parquet", newer)
    return examples.pipeline(tmp_path, changes)


def planned(spark: SparkSession, pipeline: Pipeline, stored_bytes: int) -> str:
    """How Spark would compare the rows of files of so many bytes."""
    with partitions_by_size(spark, stored_bytes):
        frame = judged(
            spark, pipeline, open_rows(spark, pipeline.source, "source", pipeline.storage)
        )
        return str(frame._jdf.queryExecution().executedPlan().toString())


def test_rows_are_shuffled_by_size_and_never_into_fewer_partitions_than_set(
    spark: SparkSession, small: Pipeline
) -> None:
    as_set = spark.conf.get(SETTING)
    for stored_bytes, number in (
        (0, as_set),
        (TASK_BYTES, as_set),
        (300 * TASK_BYTES, 300),
        (300 * TASK_BYTES + 1, 301),
    ):
        (exchange,) = [
            line
            for line in planned(spark, small, stored_bytes).splitlines()
            if "hashpartitioning" in line
        ]
        assert f", {number}), ENSURE_REQUIREMENTS" in exchange
        assert spark.conf.get(SETTING) == as_set


def test_a_failure_leaves_the_session_as_it_was(spark: SparkSession) -> None:
    as_set = spark.conf.get(SETTING)
    with pytest.raises(ZeroDivisionError), partitions_by_size(spark, 300 * TASK_BYTES):
        _ = 1 / 0
    assert spark.conf.get(SETTING) == as_set


def tables(lake: Lake) -> dict[str, pl.DataFrame]:
    return {
        "clean": pl.read_delta(lake.table("clean").root).sort("id"),
        "quarantine": pl.read_delta(lake.table("quarantine").root).sort("row"),
    }


@pytest.mark.parametrize("incremental", [False, True])
def test_tables_do_not_depend_on_how_many_tasks_compare(
    spark: SparkSession,
    small: Pipeline,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    incremental: bool,
) -> None:
    by_one, by_many = Lake(tmp_path / "one"), Lake(tmp_path / "many")
    way = clean_increment if incremental else clean
    way(spark, small, by_one)
    seen: list[str | None] = []

    def counts_when_written(of_rows: Observation) -> Counts:
        seen.append(spark.conf.get(SETTING))
        return counts_of(of_rows)

    monkeypatch.setattr(batch if incremental else stage, "counts_of", counts_when_written)
    raw_bytes = open_rows(spark, small.source, "source", small.storage).found.bytes
    monkeypatch.setattr(partitions, "TASK_BYTES", raw_bytes / 49.5)
    way(spark, small, by_many)
    assert seen == ["50"]
    for name, rows in tables(by_one).items():
        assert_frame_equal(rows, tables(by_many)[name])
