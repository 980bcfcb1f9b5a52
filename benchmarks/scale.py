"""Claim: time per row and memory do not grow with the table: 10, 30 and 100 million rows.

Spark makes raw flights (`benchmarks/scaling/data.py`: 13 columns, a file for each 250,000 rows, a
month for each 1,000,000; some broken, some delivered twice), and the stages as users run them take
them further: clean, featurize (a fit over all train rows, and the transform), stream (an epoch of
all rows in shuffled batches of 4,096), score. One model, trained on 100,000 rows and registered,
scores them all. Each size has a fresh process and a lake of its own, which is removed afterwards;
what clean has to make of the rows is known, and checked.

`local-cluster` has the driver and each executor in a Java process of its own, as on a cluster, with
the memory that Spark and `pipeline/session.py` give by default. Memory is what is resident, looked
at four times a second: of a role the largest process, in each stage. Seconds of a size's first
stage hold what starts once, so the slope between two sizes is told, too.

usage: python benchmarks/scale.py [--sizes 10 30 100] [--folder FOLDER] [--master MASTER]
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # for `benchmarks`

import pyspark
from pyspark.sql import SparkSession

from benchmarks.loading.measure import told_by
from benchmarks.scaling.data import BLOCK_ROWS, SEED, Expected, described, write_raw
from benchmarks.scaling.memory import ROLES, Watch
from pipeline.clean.stage import clean
from pipeline.config import Pipeline
from pipeline.features.spec import FeatureSpec
from pipeline.features.stage import featurize
from pipeline.lake import Lake
from pipeline.operate.walk import walk
from pipeline.scoring.models import scorers
from pipeline.scoring.stage import score
from pipeline.session import spark_session
from pipeline.stream import Stream
from pipeline.training.splits import layout_of

STAGES = ("clean", "featurize", "stream", "score")
MASTER = "local-cluster[2,1,1536]"
BATCH_ROWS = 4_096
DISK_BYTES_PER_ROW = 330
"""Most at once: 10, 30 and 100 million rows took 262 to 264, most of it what Spark keeps on the way
through clean; and a quarter to spare."""


@dataclass(frozen=True, kw_only=True)
class Stage:
    """What one stage took at one size."""

    seconds: float
    peak_mb: Mapping[str, float]
    """By role."""
    table_bytes: Mapping[str, int]
    """Of the tables that it wrote."""


@dataclass(frozen=True, kw_only=True)
class Size:
    """What all stages took at one size."""

    rows: int
    raw_bytes: int
    disk_bytes: int
    """Most that was taken at any time, raw rows included; other users of the disk count too."""
    stages: Mapping[str, Stage]

    @property
    def seconds(self) -> float:
        """Of all stages."""
        return sum(stage.seconds for stage in self.stages.values())

    def peak_mb(self, role: str) -> float:
        """Of all stages."""
        return max(stage.peak_mb[role] for stage in self.stages.values())


def main() -> None:
    """Measures size after size; prints a table for each, and a JSON line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--sizes", type=float, nargs="+", default=[10, 30, 100], help="in millions of rows"
    )
    parser.add_argument("--folder", type=Path, help="a disk with room; by default a temporary one")
    parser.add_argument("--master", default=MASTER)
    parser.add_argument("--measure", type=int, help=argparse.SUPPRESS)  # how it calls itself
    given = parser.parse_args()
    if given.measure is not None:
        measure(given.measure, given.folder, given.master)
        return
    wanted = [_whole_blocks(size) for size in given.sizes]
    with tempfile.TemporaryDirectory(prefix="scale-", dir=given.folder) as folder:
        sizes = _fitting(Path(folder), wanted)
        _isolate(Path(folder))
        told_by(__file__, "--measure", "0", "--folder", folder, "--master", given.master)
        found = []
        for rows in sizes:
            arguments = ("--measure", str(rows), "--folder", folder, "--master", given.master)
            found.append(_size_of(told_by(__file__, *arguments)))
            show(found[-1])
    print(json.dumps(summary(found, given.master)))


def _whole_blocks(millions: float) -> int:
    rows = round(millions * 1_000_000)
    if rows < BLOCK_ROWS or rows % BLOCK_ROWS:
        raise SystemExit(f"{millions} million rows are not whole blocks of {BLOCK_ROWS:,}")
    return rows


def _fitting(folder: Path, sizes: Sequence[int]) -> list[int]:
    """The sizes that the disk has room for, one after the other; the others are named."""
    free = shutil.disk_usage(folder).free
    print(f"{free / 1e9:.1f} GB of disk are free", flush=True)
    fitting = [rows for rows in sizes if rows * DISK_BYTES_PER_ROW <= free]
    for rows in sizes:
        if rows not in fitting:
            print(f"{rows:,} rows refused: they take {rows * DISK_BYTES_PER_ROW / 1e9:.1f} GB")
    if not fitting:
        raise SystemExit("name smaller --sizes, or a --folder with more room")
    return fitting


def _isolate(folder: Path) -> None:
    """Lets all sizes share one registry, and Spark keep its files where all is removed."""
    os.environ["MLFLOW_TRACKING_URI"] = f"sqlite:///{folder}/model/mlflow.db"
    os.environ["SPARK_LOCAL_DIRS"] = f"{folder}/spark"
    # The workers of a local-cluster write where Spark is installed, unless that is here.
    home = folder / "home"
    home.mkdir()
    for part in Path(pyspark.__file__).parent.iterdir():
        (home / part.name).symlink_to(part)
    os.environ["SPARK_HOME"] = str(home)


def measure(rows: int, folder: Path, master: str) -> None:
    """Measures one size in this process, or with 0 rows makes the model; tells it as JSON."""
    lake = Lake(folder / (str(rows) if rows else "model"))
    pipeline = described(Path(lake.root))
    told: dict[str, Any] = {}
    with Watch(folder) as watch:
        spark = spark_session("benchmark scale", master)
        try:
            raw_bytes = write_raw(spark, Path(lake.root), rows or BLOCK_ROWS)
            if rows:
                stages = _measured(spark, pipeline, lake, watch, rows)
                size = Size(
                    rows=rows, raw_bytes=raw_bytes, disk_bytes=watch.disk_bytes, stages=stages
                )
                told = asdict(size)
                shutil.rmtree(lake.root)
            else:
                _make_model(spark, pipeline, lake)
        finally:
            spark.stop()
    print(json.dumps(told), flush=True)


def _make_model(spark: SparkSession, pipeline: Pipeline, lake: Lake) -> None:
    # The registry is asked for where all sizes look, which is this lake's own place.
    del os.environ["MLFLOW_TRACKING_URI"]
    for outcome in walk(spark, pipeline, lake, ("clean", "featurize", "train")):
        print(f"model: {outcome.stage}, {outcome.rows_out:,} rows", file=sys.stderr, flush=True)


def _measured(
    spark: SparkSession, pipeline: Pipeline, lake: Lake, watch: Watch, rows: int
) -> dict[str, Stage]:
    """Runs the stages, and checks what each says of the rows."""
    expected = Expected.of(rows)
    spec = scorers(lake, pipeline)[0].bundle.spec
    stages: dict[str, Stage] = {}
    ways: dict[str, Callable[[], int]] = {
        "clean": lambda: _clean(spark, pipeline, lake, expected),
        "featurize": lambda: _featurize(spark, pipeline, lake, spec),
        "stream": lambda: _stream(lake, spec),
        "score": lambda: score(spark, pipeline, lake).rows_out,
    }
    tables: dict[str, tuple[str, ...]] = {
        "clean": ("clean", "quarantine", "quality"),
        "featurize": (spec.table,),
        "stream": (),
        "score": ("predictions",),
    }
    for name, way in ways.items():
        with watch.stage() as peaks:
            started = time.perf_counter()
            came = way()
            seconds = time.perf_counter() - started
        if came != expected.clean:
            raise SystemExit(f"{name}: {came:,} rows instead of {expected.clean:,}")
        stages[name] = Stage(
            seconds=seconds,
            peak_mb=peaks,
            table_bytes={
                table.partition("/")[0]: lake.table(table).snapshot().bytes
                for table in tables[name]
            },
        )
        print(f"{rows:,} rows: {name}, {seconds:.1f} s", file=sys.stderr, flush=True)
    return stages


def _clean(spark: SparkSession, pipeline: Pipeline, lake: Lake, expected: Expected) -> int:
    outcome = clean(spark, pipeline, lake)
    told = Expected(outcome.rows_out, outcome.rows_quarantined, outcome.rows_dropped)
    if told != expected:
        raise SystemExit(f"clean: {told}, and not {expected}")
    return outcome.rows_out


def _featurize(spark: SparkSession, pipeline: Pipeline, lake: Lake, of_model: FeatureSpec) -> int:
    outcome, spec = featurize(spark, pipeline, lake)
    if spec.hash != of_model.hash:
        raise SystemExit(f"featurize: spec {spec.hash}, the model's is {of_model.hash}")
    return outcome.rows_out


def _stream(lake: Lake, spec: FeatureSpec) -> int:
    """An epoch over all rows; how many came."""
    files = lake.table(spec.table).snapshot().uris()
    with Stream(files, layout_of(spec), rows_per_batch=BATCH_ROWS, seed=SEED) as stream:
        return sum(batch.rows for batch in stream.epoch(0))


def _size_of(told: Mapping[str, Any]) -> Size:
    """A size out of the JSON of the process that measured it."""
    stages = {name: Stage(**stage) for name, stage in told["stages"].items()}
    return Size(**{**told, "stages": stages})


def show(size: Size) -> None:
    """Prints one size."""
    expected = Expected.of(size.rows)
    print(
        f"\n{size.rows:,} rows in = {expected.clean:,} clean + {expected.quarantined:,} quarantined"
        f" + {expected.dropped:,} dropped; "
        f"{size.raw_bytes / 1e6:,.0f} MB raw, at most {size.disk_bytes / 1e6:,.0f} MB of disk"
    )
    heads = ("stage", "seconds", "rows/s", "us/row", *ROLES, "MB written")
    print(f"{heads[0]:10} " + " ".join(f"{head:>13}" for head in heads[1:]))
    for name, stage in size.stages.items():
        speed = size.rows / stage.seconds
        told = [f"{stage.seconds:.1f}", f"{speed:,.0f}", f"{1e6 / speed:.2f}"]
        told += [f"{stage.peak_mb[role]:,.0f}" for role in ROLES]
        tables = ", ".join(f"{t} {b / 1e6:,.1f}" for t, b in stage.table_bytes.items())
        print(f"{name:10} " + " ".join(f"{each:>13}" for each in told) + f"   {tables}")
    speed = size.rows / size.seconds
    print(f"{'all':10} {size.seconds:13.1f} {speed:13,.0f} {1e6 / speed:13.2f}", flush=True)


def summary(found: Sequence[Size], master: str) -> dict[str, object]:
    """What the JSON line holds."""
    smallest, largest = found[0], found[-1]
    seconds = {
        "all": [size.seconds for size in found],
        **{name: [size.stages[name].seconds for size in found] for name in STAGES},
    }
    rows = [size.rows for size in found]
    return {
        "benchmark": "scale",
        "seed": SEED,
        "master": master,
        "rows": rows,
        "seconds": {name: [round(s, 1) for s in each] for name, each in seconds.items()},
        "exponent": {name: _slope(rows, each) for name, each in seconds.items()},
        "us_per_row": [round(size.seconds / size.rows * 1e6, 2) for size in found],
        "us_per_further_row": [
            round((more.seconds - fewer.seconds) / (more.rows - fewer.rows) * 1e6, 2)
            for fewer, more in pairwise(found)
        ],
        "time_per_row_largest_to_smallest": round(
            largest.seconds / largest.rows * smallest.rows / smallest.seconds, 3
        ),
        "disk_mb": [round(size.disk_bytes / 1e6) for size in found],
        "peak_mb": {role: [round(size.peak_mb(role)) for size in found] for role in ROLES},
        "peak_mb_largest_to_smallest": {
            role: round(largest.peak_mb(role) / smallest.peak_mb(role), 3)
            for role in ROLES
            if smallest.peak_mb(role)
        },
    }


def _slope(rows: Sequence[int], seconds: Sequence[float]) -> float | None:
    """Of the straight line through the logarithms: 1 where time grows as rows do."""
    x, y = [math.log(n) for n in rows], [math.log(s) for s in seconds]
    if len(set(x)) < 2:
        return None
    mean_x, mean_y = sum(x) / len(x), sum(y) / len(y)
    over = sum((a - mean_x) * (b - mean_y) for a, b in zip(x, y, strict=True))
    return round(over / sum((a - mean_x) ** 2 for a in x), 3)


if __name__ == "__main__":
    main()
