"""The good set: three raw files of 120 rows each, in any format, and the pipeline that reads them.

Every value of every type is there, and text is as awkward as CSV and JSON allow: commas, doubled
quotes, line breaks, and letters of more than one byte.
"""

from __future__ import annotations

import csv
import io
import json
import random
from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any, Literal, TypeAlias

import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from pipeline.config import Pipeline, load_pipeline

Format: TypeAlias = Literal["parquet", "csv", "json"]
Row: TypeAlias = Mapping[str, Any]
FORMATS: tuple[Format, ...] = ("parquet", "csv", "json")
ROWS_PER_FILE = 120
ROWS_PER_GROUP = 40
FILES = ("a", "b", "c")
VICTIM = FILES[-1]
"""The file that is spoiled; the others must be read as ever, or nothing at all."""
TYPES = {
    "id": "bigint",
    "month": "int",
    "amount": "double",
    "flag": "boolean",
    "day": "date",
    "at": "timestamp",
    "name": "string",
}
COLUMNS = tuple(TYPES)
ARROW = {
    "bigint": pa.int64(),
    "int": pa.int32(),
    "double": pa.float64(),
    "boolean": pa.bool_(),
    "date": pa.date32(),
    "timestamp": pa.timestamp("us", tz="UTC"),
    "string": pa.string(),
}
SCHEMA = pa.schema([(name, ARROW[kind]) for name, kind in TYPES.items()])
RFC_4180: dict[str, str] = {}
"""Options of Spark for quoted line breaks and doubled quotes."""
_NAMES = (
    "plain",
    "Smith, John",
    'the "best" one',
    'two\nlines, "quoted"',
    "naïve Ünïcode ☃",
    "日本語",
    " spaced ",
    "back\\slash",
    "tab\there",
    "emoji 🎉",
)


def good_rows(seed: int) -> dict[str, list[dict[str, Any]]]:
    """The rows of each file, by its name without an ending; ids grow over all of them."""
    rng = random.Random(seed)  # noqa: S311 (data of a benchmark)
    return {
        file: [_row(rng, place * ROWS_PER_FILE + number) for number in range(ROWS_PER_FILE)]
        for place, file in enumerate(FILES)
    }


def _row(rng: random.Random, number: int) -> dict[str, Any]:
    at = datetime(2013, 1, 1, tzinfo=UTC) + timedelta(microseconds=rng.randrange(10**14))
    values = {
        "id": 1_000_000 + number,
        "month": rng.randrange(1, 4),
        "amount": round(rng.uniform(-1e4, 1e4), 3),
        "flag": rng.random() < 0.5,
        "day": date(2013, 1, 1) + timedelta(days=rng.randrange(365)),
        "at": at,
        "name": f"{rng.choice(_NAMES)} {number}",
    }
    optional = [name for name in COLUMNS if name not in ("id", "month")]
    return values | {name: None for name in optional if rng.random() < 0.05}


def ending(kind: Format) -> str:
    """The ending of a format's files."""
    return f".{kind}"


def write_good(folder: Path, kind: Format, rows: Mapping[str, Sequence[Row]]) -> None:
    """Writes the good set into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, some in rows.items():
        (folder / f"{name}{ending(kind)}").write_bytes(encoded(kind, some))


def encoded(kind: Format, rows: Sequence[Row]) -> bytes:
    """Rows as the bytes of one file."""
    if kind == "parquet":
        return parquet(rows)
    lines = csv_lines(rows) if kind == "csv" else json_lines(rows)
    return "".join(f"{line}\n" for line in lines).encode()


def parquet(rows: Sequence[Row], schema: pa.Schema = SCHEMA, **options: Any) -> bytes:
    """Rows as Parquet, in row groups of 40.

    Args:
        rows: Values by column.
        schema: Of the file.
        options: Of `pyarrow.parquet.write_table`.
    """
    sink = io.BytesIO()
    table = pa.Table.from_pylist([dict(row) for row in rows], schema=schema)
    pq.write_table(table, sink, **{"row_group_size": ROWS_PER_GROUP, **options})
    return sink.getvalue()


def csv_lines(rows: Sequence[Row], columns: Sequence[str] = COLUMNS) -> list[str]:
    """The header, then one text a row; quoted line breaks are within the text."""
    told = [[as_text(row[name]) for name in columns] for row in rows]
    return [_csv_line(list(columns)), *(_csv_line(values) for values in told)]


def _csv_line(values: Sequence[str | None]) -> str:
    sink = io.StringIO()
    csv.writer(sink, lineterminator="").writerow(values)
    return sink.getvalue()


def json_lines(rows: Sequence[Row]) -> list[str]:
    """One object a row."""
    return [json.dumps(json_values(row), ensure_ascii=False) for row in rows]


def json_values(row: Row) -> dict[str, Any]:
    """A row's values as JSON has them: dates and times as text."""
    return {
        name: as_text(value) if isinstance(value, date) else value for name, value in row.items()
    }


def as_text(value: Any) -> str | None:
    """A value as CSV spells it."""
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, bool):
        return str(value).lower()
    return value.isoformat() if isinstance(value, date) else str(value)


def described(root: Path, kind: Format, options: Mapping[str, str]) -> Pipeline:
    """The pipeline that cleans `root/raw` into `root/lake`, loaded from a YAML file.

    Args:
        root: Folder of one trial.
        kind: Format of its raw files.
        options: Of Spark's reader.
    """
    columns = {name: {"type": kind_of} for name, kind_of in TYPES.items()}
    tree = {
        "name": "broken",
        "lake": str(root / "lake"),
        "source": {
            "path": str(root / "raw"),
            "format": kind,
            "options": dict(options),
            "columns": columns | {"id": {"type": "bigint", "required": True}},
        },
        "clean": {"period": {"column": "period", "expression": "format_string('m%02d', month)"}},
        "features": {
            "keys": ["id"],
            "label": {"name": "late", "expression": "amount > 0"},
            "splits": {"train": "month <= 2", "validation": "month = 3", "test": "month >= 4"},
            "leakage": ["amount"],
            "categorical": {"flag": {"minimum_count": 1}},
        },
    }
    file = root / "pipeline.yaml"
    file.write_text(yaml.safe_dump(tree, sort_keys=False))
    return load_pipeline(file)
