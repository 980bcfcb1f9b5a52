"""Claim: a column of 10,000,000 ids goes the whole way, by its vocabulary or hashed.

Each id is in the train split at least once and half of its rows are of few ids; the label is the
id's own, in 8 of 10 rows. Clean rows are made once; then featurize and train run as users run them,
an encoding after the other, each in a process of its own with a Spark of its own, `local[2]`. What
a hash gives up for its smaller memory is seen in the AUROC of the test split.

usage: python benchmarks/many_ids.py [--ids 10000000] [--rows 20000000] [--epochs 2]
           [--buckets 1000000] [--folder FOLDER]
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # for `benchmarks`

from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F

from benchmarks.loading.measure import told_by
from benchmarks.scaling.memory import Watch, reading
from pipeline.config import Pipeline, load_pipeline
from pipeline.features.catalogue import newest_spec
from pipeline.lake import Lake
from pipeline.operate.walk import walk
from pipeline.session import spark_session

SEED = 13
ENCODINGS = ("vocabulary", "hash")
FILES = 16
HELD_OUT_SHARE = 0.01
"""Rows of validation, and as many of test, for each of train."""
SHOWN = ("driver_jvm", "driver_python", "rank")

PIPELINE = f"""
name: many_ids
lake: lake
seed: {SEED}
source:
  path: raw
  columns:
    number: {{type: bigint, required: true}}
    user: {{type: string, required: true}}
    bought: {{type: int, required: true}}
    part: {{type: string, required: true}}
clean:
  period: {{column: period, expression: part}}
features:
  keys: [number]
  label: {{name: buys, expression: bought = 1}}
  splits: {{train: part = 'train', validation: part = 'validation', test: part = 'test'}}
  leakage: [bought]
  categorical:
    user: {{}}
train:
  model: {{family: mlp, hidden: [16], embedding_dimension: 8}}
  rows_per_batch: 65536
  learning_rate: 0.02
  checkpoint_every_steps: 1000000
"""


def raw_rows(spark: SparkSession, ids: int, rows: int) -> DataFrame:
    """Train rows with exactly so many ids, then those of validation and test.

    Args:
        spark: The session.
        ids: Number of distinct ones.
        rows: Of the train split.
    """
    held_out = round(rows * HELD_OUT_SHARE)
    number = F.col("id")

    def chance(of: Column, draw: int) -> Column:
        """Evenly from 0 to 1, by a hash."""
        return F.pmod(F.xxhash64(of, F.lit(SEED + draw)), F.lit(1_000_003)) / 1_000_003

    often = F.floor(F.pow(chance(number, 1), 4) * ids).cast("bigint")
    user = F.when(number < ids, number).otherwise(often)
    own = chance(user, 2) < 0.5
    part = F.when(number < rows, "train").when(number < rows + held_out, "validation")
    return spark.range(0, rows + 2 * held_out, 1, FILES).select(
        number.alias("number"),
        F.format_string("user-%010d", user).alias("user"),
        F.when(chance(number, 3) < 0.8, own).otherwise(~own).cast("int").alias("bought"),
        part.otherwise("test").alias("part"),
    )


def described(folder: Path, *settings: str) -> Pipeline:
    """The pipeline, its description written into the folder."""
    path = folder / "many_ids.yaml"
    path.write_text(PIPELINE)
    return load_pipeline(
        path, [f"lake={folder / 'lake'}", f"source.path={folder / 'raw'}", *settings]
    )


def make_clean(folder: Path, ids: int, rows: int) -> dict[str, Any]:
    """Raw rows and the table `clean`."""
    spark = spark_session("many ids", "local[2]")
    raw_rows(spark, ids, rows).write.parquet(str(folder / "raw"))
    pipeline = described(folder)
    [outcome] = walk(spark, pipeline, Lake.of(pipeline), ("clean",))
    spark.stop()
    return {"clean_rows": outcome.rows_out}


def measured(folder: Path, encoding: str, buckets: int, epochs: int) -> dict[str, Any]:
    """Seconds and peaks of featurize and train, and what the model is worth."""
    own = {"vocabulary": "minimum_count=1", "hash": f"buckets={buckets}"}[encoding]
    encoded = [f"features.categorical.user.{each}" for each in (f"encoding={encoding}", own)]
    pipeline = described(folder, f"train.epochs={epochs}", *encoded)
    lake = Lake.of(pipeline)
    spark = spark_session("many ids", "local[2]")
    spark.sparkContext.setLogLevel("ERROR")
    found: dict[str, Any] = {}
    with Watch(folder) as watch:
        with reading(watch, found, "featurize"):
            list(walk(spark, pipeline, lake, ("featurize",)))
        with reading(watch, found, "train"):
            [outcome] = walk(spark, pipeline, lake, ("train",))
    spark.stop()
    [column] = newest_spec(lake, pipeline.name).columns
    return {**found, "column": str(column), "auroc": outcome.metrics["test"]["auroc"]}


def benchmark(given: argparse.Namespace) -> None:
    """Measures the encodings; prints a table and a JSON line."""
    told: dict[str, object] = {"benchmark": "many_ids", "ids": given.ids, "rows": given.rows}
    with tempfile.TemporaryDirectory(prefix="many-ids-", dir=given.folder) as folder:
        told |= told_by(__file__, "--clean", folder, str(given.ids), str(given.rows))
        print("{:10} {:10} {:>8} {:>8} ".format("encoding", "step", "seconds", "CPU s"), *SHOWN)
        for encoding in ENCODINGS:
            asked = [folder, encoding, str(given.buckets), str(given.epochs)]
            told[encoding] = found = told_by(__file__, "--one", *asked)
            for step in ("featurize", "train"):
                each = found[step] = {k: round(v, 1) for k, v in found[step].items()}
                peaks = " ".join(f"{each[role]:,.0f} MB" for role in SHOWN)
                print(
                    f"{encoding:10} {step:10} {each['seconds']:8} {each['cpu_seconds']:8}  {peaks}"
                )
            print(f"{encoding:10} test AUROC {found['auroc']:.4f}", flush=True)
    print(json.dumps(told))


def main() -> None:
    """Measures, and prints a table and one JSON line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--ids", type=int, default=10_000_000)
    parser.add_argument("--rows", type=int, default=20_000_000, help="of the train split")
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--buckets", type=int, default=1_000_000)
    parser.add_argument("--folder", type=Path, help="where rows and tables go; removed afterwards")
    parser.add_argument("--clean", nargs=3, help=argparse.SUPPRESS)  # how this script calls itself
    parser.add_argument("--one", nargs=4, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.clean or given.one:
        logging.disable(logging.WARNING)
    if given.clean:
        folder, ids, rows = given.clean
        print(json.dumps(make_clean(Path(folder), int(ids), int(rows))))
    elif given.one:
        folder, encoding, buckets, epochs = given.one
        print(json.dumps(measured(Path(folder), encoding, int(buckets), int(epochs))))
    else:
        benchmark(given)


if __name__ == "__main__":
    main()
