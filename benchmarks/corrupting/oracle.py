"""What a spoiled file still says, by engines that share no code with Spark.

pyarrow reads Parquet (Polars where pyarrow refuses) and CSV. Their readers of JSON refuse a whole
file for one bad line, so JSON is read line by line by the standard library. A row of `clean` is
right if it is one of those rows, or one of the rows that were there before the file was spoiled.
"""

from __future__ import annotations

import gzip
import io
import json
import math
import re
import sys
import zlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq

from benchmarks.corrupting.good import COLUMNS, TYPES, Format, Row

FAULT = object()
"""In the place of a value that does not cast: no row of `clean` may have it."""
_DECODER = json.JSONDecoder(parse_int=str, parse_float=str, parse_constant=str)
"""Numbers stay as they are spelled."""
_WHOLE = re.compile(r"[+-]?[0-9]+")
_BITS = {"int": 31, "bigint": 63}
_TRUE, _FALSE = {"t", "true", "y", "yes", "1"}, {"f", "false", "n", "no", "0"}


def read(path: Path, kind: Format) -> list[Row] | None:
    """The rows that a file holds, as it spells them; None where no engine reads it."""
    readers: dict[Format, Callable[[Path], list[Row] | None]] = {
        "parquet": _parquet,
        "csv": _csv,
        "json": _json,
    }
    return readers[kind](path)


def _parquet(path: Path) -> list[Row] | None:
    try:
        file = pq.ParquetFile(path, page_checksum_verification=True)
        groups = [file.read_row_group(place) for place in range(file.num_row_groups)]
        return [row for group in groups for row in _rows(group)]
    except (OSError, pa.ArrowException, ValueError, KeyError):
        pass
    try:
        return list(pl.read_parquet(path).to_dicts())
    except (OSError, pl.exceptions.PolarsError, pl.exceptions.PanicException, ValueError):
        return None


def _rows(table: pa.Table) -> list[Row]:
    """The rows of a table; a cell for which Python has no value is `FAULT`."""
    cells = [[_cell(cell) for cell in column] for column in table.columns]
    return [dict(zip(table.column_names, row, strict=True)) for row in zip(*cells, strict=True)]


def _cell(cell: pa.Scalar) -> Any:
    try:
        return cell.as_py()
    except (OverflowError, ValueError):  # a year after 9999, or bytes that are no UTF-8
        return FAULT


def _csv(path: Path) -> list[Row] | None:
    """Every field as text; fields that are not UTF-8 as faults; ragged lines left out."""
    content = _content(path)
    if content is None:
        return None
    names = [
        name.strip() for name in content.split(b"\n", 1)[0].decode(errors="replace").split(",")
    ]
    binary = {name.lstrip("\ufeff"): pa.binary() for name in names}
    try:
        table = pa_csv.read_csv(
            io.BytesIO(content),
            read_options=pa_csv.ReadOptions(use_threads=False, block_size=1 << 26),
            parse_options=pa_csv.ParseOptions(
                newlines_in_values=True, invalid_row_handler=lambda _: "skip"
            ),
            convert_options=pa_csv.ConvertOptions(
                column_types=binary, strings_can_be_null=True, null_values=[""], check_utf8=False
            ),
        )
        return [{name: _decoded(it) for name, it in row.items()} for row in table.to_pylist()]
    except (pa.ArrowException, ValueError):
        return None


def _decoded(value: Any) -> Any:
    try:
        return value.decode() if isinstance(value, bytes) else value
    except UnicodeDecodeError:
        return FAULT


def _json(path: Path) -> list[Row] | None:
    """The objects of each line, of which there may be several; of other lines nothing."""
    content = _content(path)
    if content is None:
        return None
    return [row for line in re.split(rb"\r\n|\n|\r", content) for row in _objects(line)]


def _objects(line: bytes) -> Iterator[Row]:
    try:
        text = line.decode().strip()
        while text:
            with _deep():
                value, end = _DECODER.raw_decode(text)
            yield from (one for one in _listed(value) if isinstance(one, dict))
            text = text[end:].lstrip().lstrip(",").lstrip()
    except (ValueError, RecursionError):
        return


@contextmanager
def _deep() -> Iterator[None]:
    """Lets Python go down 10,000 levels of a value."""
    before = sys.getrecursionlimit()
    sys.setrecursionlimit(10_000)
    try:
        yield
    finally:
        sys.setrecursionlimit(before)


def _listed(value: Any) -> Sequence[Any]:
    return value if isinstance(value, list) else [value]


def _content(path: Path) -> bytes | None:
    content = path.read_bytes()
    if path.suffix != ".gz":
        return content
    try:
        return gzip.decompress(content)
    except (OSError, EOFError, zlib.error):
        return None


def cast(raw: Any, column: str) -> Any:
    """A value by the contract's type, null for NaN; `FAULT` where it does not cast."""
    if raw is None or raw is FAULT:
        return raw
    kind = TYPES[column]
    if kind in _BITS:
        return _whole(raw, _BITS[kind])
    casts = {"double": _double, "boolean": _boolean, "date": _date, "timestamp": _timestamp}
    return casts[kind](raw) if kind in casts else _text(raw)


def _whole(raw: Any, bits: int) -> Any:
    if isinstance(raw, bool):
        return int(raw)
    number = _double(raw)
    if number is None or number is FAULT:
        return number
    if isinstance(raw, str):
        if not _WHOLE.fullmatch(raw.strip()):
            return FAULT
        raw = int(raw)
    fits = math.isfinite(number) and raw == int(raw) and -(2**bits) <= raw < 2**bits
    return int(raw) if fits else FAULT


def _double(raw: Any) -> Any:
    try:
        number = float(raw)
    except (TypeError, ValueError, OverflowError):
        return FAULT
    if isinstance(raw, str) and math.isinf(number) and "inf" not in raw.lower():
        return FAULT
    return None if math.isnan(number) else number


def _boolean(raw: Any) -> Any:
    told = str(raw).strip().lower()
    return True if told in _TRUE else False if told in _FALSE else FAULT


def _date(raw: Any) -> Any:
    if isinstance(raw, str):
        raw = _parsed(raw)
    if isinstance(raw, datetime):
        return raw.date()
    return raw if isinstance(raw, date) else FAULT


def _timestamp(raw: Any) -> Any:
    if isinstance(raw, str):
        raw = _parsed(raw)
    if isinstance(raw, datetime):
        return raw.replace(tzinfo=UTC) if raw.tzinfo is None else raw.astimezone(UTC)
    return datetime(raw.year, raw.month, raw.day, tzinfo=UTC) if isinstance(raw, date) else FAULT


def _parsed(raw: str) -> Any:
    try:
        return datetime.fromisoformat(raw.strip())
    except ValueError:
        return FAULT


def _text(raw: Any) -> Any:
    if isinstance(raw, bool):
        return str(raw).lower()
    if isinstance(raw, list | dict):
        return _Nested(raw)
    return raw.decode(errors="replace") if isinstance(raw, bytes) else str(raw)


class _Nested:
    """An array or an object, equal to every text that spells it."""

    __hash__ = None  # type: ignore[assignment]

    def __init__(self, value: Any) -> None:
        self._value = value

    def __eq__(self, other: object) -> bool:
        if isinstance(other, _Nested):
            return bool(self._value == other._value)
        try:
            with _deep():
                return bool(self._value == _DECODER.decode(str(other)))
        except (ValueError, RecursionError):
            return False


def typed(row: Row) -> tuple[Any, ...]:
    """A row's values by the contract's types, in its order."""
    return tuple(cast(row.get(name), name) for name in COLUMNS)


class Pool:
    """Rows that `clean` may hold, each as often as it is there.

    Args:
        read: The rows that an engine reads from the files.
        before: The rows that were there before one was spoiled.
    """

    def __init__(self, read: Iterable[Row], before: Iterable[Row]) -> None:
        self._left: dict[Any, list[tuple[Any, ...]]] = defaultdict(list)
        for row in map(typed, read):
            self._left[row[0]].append(row)
        known = {key: list(rows) for key, rows in self._left.items()}
        for row in map(typed, before):
            same = known.get(row[0], [])
            if row in same:
                same.remove(row)
            else:
                self._left[row[0]].append(row)

    def take(self, row: tuple[Any, ...]) -> bool:
        """Whether a row of `clean` is among those left; it is taken out."""
        same = self._left.get(row[0], [])
        if row not in same:
            return False
        same.remove(row)
        return True
