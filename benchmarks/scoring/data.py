"""The table and the network: 13 floats and 26 ints a row, as in the Criteo data; made up."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pyspark.sql import SparkSession

from pipeline.config import Pipeline, load_pipeline
from pipeline.lake import Lake
from pipeline.operate.walk import walk

SEED = 13
FLOATS, INTS = 13, 26
VALUES = 1000
"""That an int column takes, the small ones more often."""

ROWS_PER_FILE = 500_000
TRAIN_ROWS = 100_000
"""Rows that the network learns from; how well it does is not what is measured."""

DAYS = 10

PIPELINE = f"""
name: clicks
lake: lake
seed: {SEED}
source:
  path: ${{lake}}/raw
  format: parquet
  columns:
    id: {{type: bigint, required: true}}
    day: {{type: int, required: true}}
    clicked: {{type: boolean, required: true}}
{"".join(f"    f{n}: {{type: float, required: true}}{chr(10)}" for n in range(FLOATS))}
{"".join(f"    i{n}: {{type: int, required: true}}{chr(10)}" for n in range(INTS))}
clean:
  period: {{column: period, expression: string(day)}}
features:
  keys: [id]
  label: {{name: click, expression: clicked}}
  splits:
    train: id < {TRAIN_ROWS}
    validation: id BETWEEN {TRAIN_ROWS} AND {TRAIN_ROWS + 9_999}
    test: id >= {TRAIN_ROWS + 10_000}
  leakage: [clicked]
  numeric:
{"".join(f"    f{n}: {{scale: standard}}{chr(10)}" for n in range(FLOATS))}
  categorical:
{"".join(f"    i{n}: {{minimum_count: 1}}{chr(10)}" for n in range(INTS))}
  rows_per_row_group: 65536
train:
  model: {{family: mlp, hidden: [64], embedding_dimension: 8}}
  epochs: 1
  rows_per_batch: 1024
"""


def prepare(spark: SparkSession, folder: Path, rows: int) -> Pipeline:
    """Writes raw rows, and takes them as far as a registered model; keeps what is there already.

    Args:
        spark: Cleans and featurizes.
        folder: Where the lake and its description go.
        rows: How many.
    """
    described = folder / "clicks.yaml"
    described.parent.mkdir(parents=True, exist_ok=True)
    described.write_text(PIPELINE)
    lake = Lake(str(folder / "lake"))
    raw = Path(lake.root) / "raw"
    if not raw.exists():
        raw.mkdir(parents=True)
        for number, first in enumerate(range(0, rows, ROWS_PER_FILE)):
            _write(raw / f"{number:04d}.parquet", first, min(ROWS_PER_FILE, rows - first), rows)
    pipeline = load_pipeline(described, [f"lake={lake.root}"])
    for outcome in walk(spark, pipeline, lake, ("clean", "featurize", "train")):
        print(f"{outcome.stage}: {outcome.rows_out:,} rows, {outcome.seconds:.0f} s", flush=True)
    return pipeline


def _write(path: Path, first: int, rows: int, of: int) -> None:
    random = np.random.default_rng([SEED, first])
    ids = np.arange(first, first + rows)
    floats = {f"f{n}": random.normal(n, n + 1, rows).astype(np.float32) for n in range(FLOATS)}
    ints = {f"i{n}": (VALUES * random.random(rows) ** 2).astype(np.int32) for n in range(INTS)}
    clicked = floats["f0"] + ints["i0"] / VALUES + random.normal(0, 1, rows) > 1
    days = (ids * DAYS // of).astype(np.int32)
    table = pa.table({"id": ids, "day": days, "clicked": clicked, **floats, **ints})
    pq.write_table(table, path)
