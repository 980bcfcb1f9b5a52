"""The demo, as `make demo` runs it, with fewer epochs, and a small one; read by a second engine."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from pipeline.lake import Lake
from tests.flights import EVERY, FLIGHTS, SMALL, all_flights, small_raw

# The demo itself is run first.
pytestmark = pytest.mark.timeout(900)

KEYS = ["time_hour", "carrier", "flight"]

Summary = dict[str, Any]


@dataclass(frozen=True)
class Demo:
    """A run of the demo, or of each 20th of its flights."""

    root: Path
    settings: tuple[str, ...]
    flights: pa.Table
    """The raw flights as the package ships them."""
    least_auroc: float
    """Of few flights, or in two epochs, less is learnt than by the demo: only that it learns."""

    def run(self) -> Summary:
        return lakestorm_run(self.root, *self.settings)


def lakestorm_run(root: Path, *settings: str) -> Summary:
    command = Path(sys.executable).with_name("lakestorm")
    done = subprocess.run(
        [
            *(str(command), "run", str(FLIGHTS), "--json"),
            *(part for each in (f"lake={root}", *settings) for part in ("--set", each)),
        ],
        cwd=root,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-5000:]
    summary: Summary = json.loads(done.stdout.splitlines()[-1])
    return summary


@pytest.fixture(scope="module", params=["small", pytest.param("whole", marks=pytest.mark.long)])
def demo(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Demo, Summary]:
    root = tmp_path_factory.mktemp("demo")
    flights = all_flights()
    if request.param == "small":
        small_raw(root)
        more = ("train.epochs=10", "train.rows_per_batch=256")
        demo = Demo(root, (*SMALL, *more), each_20th(flights), 0.6)
    else:
        demo = Demo(root, ("train.epochs=2",), flights, 0.65)
    return demo, demo.run()


def each_20th(flights: pa.Table) -> pa.Table:
    """Of each month's flights those that `small_raw` keeps."""
    months = (flights.filter(pc.equal(flights["month"], month)) for month in range(1, 13))
    return pa.concat_tables(rows.take(list(range(0, rows.num_rows, EVERY))) for rows in months)


def read(root: Path, table: str) -> pl.DataFrame:
    return pl.read_delta(Lake(root).table(table).root)


def raw_keys(flights: pa.Table) -> Counter[tuple[Any, ...]]:
    times = [datetime.fromisoformat(text) for text in flights["time_hour"].to_pylist()]
    return Counter(
        zip(times, flights["carrier"].to_pylist(), flights["flight"].to_pylist(), strict=True)
    )


def test_every_flight_is_clean_or_in_quarantine_once(demo: tuple[Demo, Summary]) -> None:
    (root, flights), summary = (demo[0].root, demo[0].flights), demo[1]
    clean = Counter(read(root, "clean").select(KEYS).iter_rows())
    rejected = [json.loads(row) for row in read(root, "quarantine")["row"]]
    quarantine = Counter(
        (datetime.fromisoformat(row["time_hour"]), row["carrier"], row["flight"])
        for row in rejected
    )
    assert clean + quarantine == raw_keys(flights)
    stage = summary["stages"][0]
    assert (stage["rows_in"], stage["rows_dropped"]) == (flights.num_rows, 0)
    assert (stage["rows_out"], stage["rows_quarantined"]) == (clean.total(), quarantine.total())


def test_joined_weather_and_planes_are_those_of_the_row(demo: tuple[Demo, Summary]) -> None:
    root = demo[0].root
    clean = read(root, "clean")
    planes = pl.read_parquet(root / "raw" / "planes" / "planes.parquet")
    weather = pl.read_parquet(root / "raw" / "weather" / "weather.parquet")
    joined = clean.select(*KEYS, "tailnum", "origin", "seats", "temp", "wind_dir").join(
        planes.select("tailnum", wanted_seats="seats"), on="tailnum", how="left"
    )
    hours = weather.with_columns(pl.col("time_hour").cast(clean.schema["time_hour"]))
    joined = joined.join(
        hours.select("origin", "time_hour", wanted_temp="temp", wanted_wind="wind_dir"),
        on=["origin", "time_hour"],
        how="left",
    )
    assert joined.height == clean.height
    for found, wanted in (
        ("seats", "wanted_seats"),
        ("temp", "wanted_temp"),
        ("wind_dir", "wanted_wind"),
    ):
        assert joined.filter(~pl.col(found).eq_missing(pl.col(wanted).cast(pl.Float64))).height == 0
    assert clean["temp"].null_count() < clean.height / 150


def test_features_hold_every_clean_row_in_its_split(demo: tuple[Demo, Summary]) -> None:
    root, summary = demo[0].root, demo[1]
    stage = summary["stages"][1]
    features = read(root, stage["table"])
    assert Counter(features.select(KEYS).iter_rows()) == Counter(
        read(root, "clean").select(KEYS).iter_rows()
    )
    flights = pl.DataFrame(demo[0].flights)
    late = flights.select(
        pl.col("time_hour").str.to_datetime(time_zone="UTC", time_unit="us"),
        pl.col("carrier"),
        pl.col("flight").cast(pl.Int32),
        pl.col("month"),
        wanted=(pl.col("arr_delay").cast(pl.Float64) > 15).cast(pl.Float32),
    )
    both = features.join(late, on=KEYS, how="left", validate="1:1")
    assert both.filter(~pl.col("late").eq_missing(pl.col("wanted"))).height == 0
    split = (
        pl.when(pl.col("wanted").is_null())
        .then(pl.lit("unlabelled"))
        .when(pl.col("month") <= 9)
        .then(pl.lit("train"))
        .when(pl.col("month") == 10)
        .then(pl.lit("validation"))
        .otherwise(pl.lit("test"))
    )
    assert both.filter(pl.col("split") != split).height == 0
    assert both["split"].value_counts().height == 4
    dense = [name for name in features.columns if name.startswith(("num_", "missing_", "cat_"))]
    assert features.select(pl.col(dense).null_count().sum()).sum_horizontal().item() == 0


def test_every_clean_flight_is_scored_once(demo: tuple[Demo, Summary]) -> None:
    root, summary = demo[0].root, demo[1]
    predictions = read(root, "predictions")
    assert Counter(predictions.select(KEYS).iter_rows()) == Counter(
        read(root, "clean").select(KEYS).iter_rows()
    )
    assert predictions.height == summary["predictions"]["rows"]
    assert predictions["score"].is_between(0, 1).all()
    assert set(predictions["spec_hash"]) == {summary["stages"][1]["table"].split("/")[1]}


def test_quality_and_specs_are_on_record(demo: tuple[Demo, Summary]) -> None:
    root, summary = demo[0].root, demo[1]
    quality = read(root, "quality")
    rows = dict(
        quality.filter(pl.col("measure") == "rows", pl.col("subject").is_null())
        .select("table", "value")
        .iter_rows()
    )
    assert rows["raw"] == rows["clean"] + rows["quarantine"] + rows["dropped"]
    assert rows["raw"] == demo[0].flights.num_rows
    (spec,) = read(root, "specs")["spec_hash"]
    assert summary["stages"][1]["table"] == f"features/{spec}"


def test_the_summary_has_what_it_promises(demo: tuple[Demo, Summary]) -> None:
    described, summary = demo
    assert [stage["stage"] for stage in summary["stages"]] == [
        "clean",
        "featurize",
        "train",
        "score",
        "report",
    ]
    for stage in summary["stages"]:
        assert stage["rows_in"] == (
            stage["rows_out"] + stage["rows_quarantined"] + stage["rows_dropped"]
        )
        assert stage["seconds"] > 0
    test = summary["metrics"]["test"]
    assert test["auroc"] > described.least_auroc
    assert 0 < test["log_loss"] < 0.6
    assert 0.7 < test["accuracy"] < 1


@pytest.mark.long
def test_running_the_demo_again_changes_nothing(demo: tuple[Demo, Summary]) -> None:
    described, first = demo
    again = described.run()
    assert all(stage["unchanged"] for stage in again["stages"])
    for before, after in zip(first["stages"], again["stages"], strict=True):
        for name in ("table", "version", "rows_in", "rows_out", "rows_quarantined"):
            assert before[name] == after[name]
        # Those of score tell what a run did: of all rows with a prediction none was scored now.
        counts = {"scored": 0} if before["stage"] == "score" else before["counts"]
        assert after["counts"] == counts
    assert first["metrics"] == again["metrics"]
    assert first["predictions"] == again["predictions"]
