"""What tests of sources share: a section of the YAML, and the rows that come of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pyspark.sql import DataFrame, SparkSession

from pipeline.clean.contract import REASONS, UNREADABLE, typed
from pipeline.config import Files, Storage
from pipeline.sources.format import Rows
from pipeline.sources.formats import open_rows

ROW = ("_source_file", "_source_position", REASONS, UNREADABLE)


def section(path: str | Path | Sequence[str], columns: Mapping[str, Any], **settings: Any) -> Files:
    """A source's section; a column may be given by its type alone."""
    full = {n: {"type": c} if isinstance(c, str) else c for n, c in columns.items()}
    places = path if isinstance(path, list | tuple) else [str(path)]
    return Files.model_validate({"path": list(places), "columns": full, **settings})


def opened(spark: SparkSession, files: Files) -> Rows:
    return open_rows(spark, files, "source", Storage())


def frames(spark: SparkSession, files: Files) -> list[DataFrame]:
    rows = opened(spark, files)
    return [typed(raw, rows.files.columns, files.time_zone) for raw in rows.frames(spark)]


def read(spark: SparkSession, files: Files) -> list[dict[str, Any]]:
    """All rows by file and position."""
    found = [
        row.asDict(recursive=True) for frame in frames(spark, files) for row in frame.collect()
    ]
    return sorted(found, key=lambda row: (row["_source_file"], row["_source_position"]))


def values(spark: SparkSession, files: Files) -> list[tuple[Any, ...]]:
    """Only the contract's columns, of rows without a fault."""
    rows = read(spark, files)
    assert not [row for row in rows if row[REASONS]], rows
    return [tuple(value for name, value in row.items() if name not in ROW) for row in rows]


def faults(spark: SparkSession, files: Files) -> list[list[str]]:
    """The reasons of each row."""
    return [row[REASONS] for row in read(spark, files)]


def write(path: Path, **columns: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path)
    return path
