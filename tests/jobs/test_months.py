"""A year as it passes: increments month by month come to what one run over everything comes to."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from pyspark.sql import SparkSession

from pipeline.config import Pipeline
from pipeline.lake import Lake
from pipeline.operate.walk import Asked, walk
from pipeline.training.registry import Registry
from tests.flights import small_pipeline, small_raw

KEYS = ["time_hour", "carrier", "flight", "origin", "dest"]
STAGES = ("clean", "featurize", "train", "score")
DAYS_A_WEEK = 7


def pipeline_of(lake: Path, delivered: Path) -> Pipeline:
    return small_pipeline(
        lake,
        f"source.path={delivered}",
        "source.columns.known_at={type: bigint}",
        "clean.dedupe.latest_by=[known_at]",
    )


def known(rows: pa.Table, at: int) -> pa.Table:
    return rows.append_column("known_at", pa.array([at] * rows.num_rows, pa.int64()))


def weeks(rows: pa.Table) -> Iterator[pa.Table]:
    week = pc.divide(pc.subtract(rows["day"].cast(pa.int64()), 1), DAYS_A_WEEK)
    for number in sorted(set(week.to_pylist())):
        yield rows.filter(pc.equal(week, number))


@pytest.mark.long
def test_a_year_week_by_week_ends_as_one_run_over_all_of_it(
    spark: SparkSession, tmp_path: Path
) -> None:
    lake = Lake(tmp_path / "lake")
    small_raw(Path(lake.root))
    arrived = Path(lake.root) / "raw" / "flights"
    months = [pq.read_table(path) for path in sorted(arrived.iterdir())]
    shutil.rmtree(arrived)
    delivered = tmp_path / "delivered"
    delivered.mkdir()
    pipeline = pipeline_of(Path(lake.root), delivered)
    clock = 0

    def deliver(name: str, rows: pa.Table) -> None:
        nonlocal clock
        clock += 1
        pq.write_table(known(rows, clock), delivered / f"{clock:02d}-{name}.parquet")

    for number, rows in enumerate(months[:10], 1):
        deliver(f"month-{number}", rows)
        list(walk(spark, pipeline, lake, ("clean",), Asked(incremental=True)))
    list(walk(spark, pipeline, lake, STAGES, Asked(incremental=True)))
    assert Registry(lake, "flights").champion() == 1
    held_back = months[10].slice(0, 40)
    calendar = [*weeks(months[10].slice(40)), *weeks(months[11])]
    for number, rows in enumerate(calendar, 1):
        deliver(f"week-{number}", rows)
        if number == 3:
            some = months[6].slice(5, 30)
            delays = pa.array(np.arange(30, dtype=np.float64))
            far = pa.array(np.full(30, 999.0))
            some = some.set_column(some.schema.get_field_index("arr_delay"), "arr_delay", delays)
            some = some.set_column(some.schema.get_field_index("distance"), "distance", far)
            deliver("corrected", some)
        if number == 6:
            deliver("late", held_back)
        outcomes = list(walk(spark, pipeline, lake, STAGES, Asked(incremental=True)))
        assert [outcome.stage for outcome in outcomes] == ["clean", "featurize", "score"]
        assert not any(outcome.unchanged for outcome in outcomes)
    by_weeks = pl.read_delta(lake.table("predictions").root)
    # The same model over everything at once, in a lake that knows it and nothing else of the year.
    whole = Lake(tmp_path / "whole")
    shutil.copytree(lake.root, whole.root)
    for table in ("clean", "quarantine", "quality", "features", "predictions", "ingest"):
        shutil.rmtree(Path(whole.root) / table)
    list(walk(spark, pipeline_of(Path(whole.root), delivered), whole, ("clean", "score")))
    at_once = pl.read_delta(whole.table("predictions").root)
    assert Counter(by_weeks.select(KEYS).iter_rows()) == Counter(at_once.select(KEYS).iter_rows())
    both = by_weeks.join(at_once, on=KEYS, suffix="_whole", validate="1:1")
    assert both.height == by_weeks.height == at_once.height
    assert (both["period"] == both["period_whole"]).all()
    assert both["model_version"].unique().to_list() == [1]
    largest = (both["score"] - both["score_whole"]).abs().max()
    assert isinstance(largest, float)
    assert largest <= 1e-6
