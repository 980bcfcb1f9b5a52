"""A small pipeline, written as YAML, and raw files for it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from pipeline.config import Pipeline, load_pipeline
from pipeline.lake import Lake

BASE: dict[str, Any] = {
    "name": "small",
    "lake": "lake",
    "source": {
        "path": "raw",
        "columns": {
            "id": {"type": "bigint", "required": True},
            "month": {"type": "int", "required": True},
            "amount": {"type": "double"},
            "delay": {"type": "double"},
            "place": {"type": "string"},
        },
    },
    "clean": {"period": {"column": "period", "expression": "format_string('2013-%02d', month)"}},
    "features": {
        "keys": ["id"],
        "label": {"name": "late", "expression": "delay > 15"},
        "splits": {"train": "month <= 2", "validation": "month = 3", "test": "month >= 4"},
        "leakage": ["delay"],
        "numeric": {"amount": {}},
        "categorical": {"place": {"minimum_count": 1}},
    },
}
RAW = pa.schema(
    [
        ("id", pa.int64()),
        ("month", pa.int64()),
        ("amount", pa.float64()),
        ("delay", pa.float64()),
        ("place", pa.string()),
    ]
)


def pipeline(root: Path, changes: Mapping[str, Any] | None = None) -> Pipeline:
    """The pipeline with `changes` merged in, loaded from a YAML file in `root`.

    A key of `changes` may be a path such as `clean.rules`; its value replaces what is there.
    """
    tree = yaml.safe_load(yaml.safe_dump(BASE))
    tree["lake"] = str(root / "lake")
    tree["source"]["path"] = str(root / "raw")
    for path, value in (changes or {}).items():
        *parents, last = path.split(".")
        section = tree
        for parent in parents:
            section = section.setdefault(parent, {})
        section[last] = value
    file = root / "pipeline.yaml"
    file.write_text(yaml.safe_dump(tree, sort_keys=False))
    return load_pipeline(file)


def write_raw(path: Path, rows: Iterable[Mapping[str, Any]], schema: pa.Schema = RAW) -> Path:
    """One raw Parquet file; columns that a row does not name are null."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist([dict(row) for row in rows], schema=schema), path)
    return path


def some_rows(first: int, count: int, month: int) -> list[dict[str, Any]]:
    """Good rows with ids from `first`."""
    return [
        {
            "id": number,
            "month": month,
            "amount": float(number % 7),
            "delay": float(number % 40),
            "place": "abc"[number % 3],
        }
        for number in range(first, first + count)
    ]


def table(lake: Lake, name: str) -> pl.DataFrame:
    """A table, read by Polars."""
    return pl.read_delta(lake.table(name).root)


def ids(lake: Lake, name: str) -> Counter[int]:
    return Counter(table(lake, name)["id"].to_list())


def files_below(root: Path) -> set[str]:
    """All files, to see that a failed run leaves none behind."""
    return {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()}
