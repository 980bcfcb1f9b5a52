"""A year as it passes: increments week by week come to what one run over everything comes to."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import yaml

from pipeline.lake import Lake
from pipeline.training.registry import Registry
from tests.command import lakestorm, shown
from tests.flights import FLIGHTS, SMALL, small_raw
from tests.operate.scheduled import job

KEYS = ["time_hour", "carrier", "flight", "origin", "dest"]
DAYS_A_WEEK = 7
TRAINED_ON = 10
"""Months that have passed when the model is trained."""


class Year:
    """A lake whose flights are delivered one file after the other, and a schedule for it.

    Args:
        folder: An empty one.
    """

    def __init__(self, folder: Path) -> None:
        self.lake = Lake(folder / "lake")
        small_raw(Path(self.lake.root))
        raw = Path(self.lake.root) / "raw" / "flights"
        self.months = [pq.read_table(path) for path in sorted(raw.iterdir())]
        shutil.rmtree(raw)
        self._delivered = folder / "delivered"
        self._delivered.mkdir()
        self._count = 0
        described = yaml.safe_load(FLIGHTS.read_text())
        jobs = {
            "clean": job(),
            "train": job(stages=["clean", "featurize", "train"]),
            "score": job(stages=["clean", "score"]),
        }
        described["schedule"] = {"health_port": 0, "jobs": jobs}
        self._path = folder / "flights.yaml"
        self._path.write_text(yaml.safe_dump(described))

    def deliver(self, rows: pa.Table) -> None:
        """Another file; what is told later is known later."""
        self._count += 1
        known_at = pa.array([self._count] * rows.num_rows, pa.int64())
        file = self._delivered / f"{self._count:02d}.parquet"
        pq.write_table(rows.append_column("known_at", known_at), file)

    def settings(self, lake: Lake) -> tuple[str, ...]:
        """The pipeline's YAML and what is changed of it."""
        changes = (
            *(f"lake={lake.root}", *SMALL, f"source.path={self._delivered}"),
            "source.columns.known_at={type: bigint}",
            "clean.dedupe.latest_by=[known_at]",
        )
        return str(self._path), *(option for change in changes for option in ("--set", change))

    def once(self, name: str) -> dict[str, Any]:
        """A run of a job, as cron would start it; its record."""
        record = lakestorm("schedule", *self.settings(self.lake), "--once", name)
        assert record["outcome"] == "succeeded"
        return record


def weeks(rows: pa.Table) -> Iterator[pa.Table]:
    week = pc.divide(pc.subtract(rows["day"].cast(pa.int64()), 1), DAYS_A_WEEK)
    for number in sorted(set(week.to_pylist())):
        yield rows.filter(pc.equal(week, number))


def corrected(rows: pa.Table) -> pa.Table:
    """The same flights with other delays and distances."""
    for name, values in (
        ("arr_delay", np.arange(rows.num_rows, dtype=np.float64)),
        ("distance", np.full(rows.num_rows, 999.0)),
    ):
        rows = rows.set_column(rows.schema.get_field_index(name), name, pa.array(values))
    return rows


@pytest.mark.long
@pytest.mark.timeout(5400)  # some twenty runs, each a process with a Spark of its own
def test_a_year_week_by_week_ends_as_one_run_over_all_of_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    year = Year(tmp_path)
    for rows in year.months[: TRAINED_ON - 1]:
        year.deliver(rows)
        year.once("clean")
    year.deliver(year.months[TRAINED_ON - 1])
    year.once("train")
    assert Registry(year.lake, "flights").champion() == 1
    november, december = year.months[TRAINED_ON:]
    held_back = november.slice(0, 40)
    calendar = [*weeks(november.slice(40)), *weeks(december)]
    for number, rows in enumerate(calendar, 1):
        year.deliver(rows)
        if number == 3:
            year.deliver(corrected(year.months[6].slice(5, 30)))
        if number == 6:
            year.deliver(held_back)
        year.once("score")
    with capsys.disabled():
        print("", shown("runs", "--lake", year.lake.root, "--limit", "100"), sep="\n")  # noqa: T201
    runs = lakestorm("runs", "--lake", year.lake.root, "--limit", "100")["runs"]
    expected = ["clean"] * (TRAINED_ON - 1) + ["train"] + ["score"] * len(calendar)
    assert [run["job"] for run in reversed(runs)] == expected
    assert {run["outcome"] for run in runs} == {"succeeded"}

    by_weeks = pl.read_delta(year.lake.table("predictions").root)
    # The same model over everything at once, in a lake that knows it and nothing else of the year.
    whole = Lake(tmp_path / "whole")
    shutil.copytree(year.lake.root, whole.root)
    for table in ("clean", "quarantine", "quality", "features", "predictions", "drift", "ingest"):
        shutil.rmtree(Path(whole.root) / table)
    lakestorm("run", *year.settings(whole), "--stages", "clean,score")
    at_once = pl.read_delta(whole.table("predictions").root)
    assert Counter(by_weeks.select(KEYS).iter_rows()) == Counter(at_once.select(KEYS).iter_rows())
    both = by_weeks.join(at_once, on=KEYS, suffix="_whole", validate="1:1")
    assert both.height == by_weeks.height == at_once.height
    assert (both["period"] == both["period_whole"]).all()
    assert both["model_version"].unique().to_list() == [1]
    largest = (both["score"] - both["score_whole"]).abs().max()
    assert isinstance(largest, float)
    assert largest <= 1e-6
