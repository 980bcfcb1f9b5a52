"""Statistics of one data file, from its Parquet footer to Delta's JSON.

Source: Delta transaction log protocol, "Per-file Statistics". Readers skip files by them, so a
bound must never be tighter than the data: where a footer's bound is not exact, it is left out.
"""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Iterable
from datetime import UTC, date, datetime, timedelta
from typing import Any, TypeAlias

import pyarrow.parquet as pq

Bound: TypeAlias = int | float | str | bool

# Parquet writers may truncate longer strings; a truncated maximum would be too small.
LONGEST_STRING = 32
_LAST_MILLISECOND = datetime(9999, 12, 31, 23, 59, 59, 998_999)  # noqa: DTZ001 - of any zone


def delta_statistics(footer: pq.FileMetaData, without_bounds: Collection[str] = ()) -> str:
    """Rows, and per flat column nulls, minimum and maximum, as Delta's JSON.

    Args:
        footer: Footer of the Parquet file.
        without_bounds: Columns whose minimum and maximum are left out, being values themselves.

    Returns:
        JSON with `numRecords`, `nullCount`, `minValues` and `maxValues`.
    """
    nulls: dict[str, int] = {}
    lowest: dict[str, Bound] = {}
    highest: dict[str, Bound] = {}
    for index in range(footer.num_columns):
        column = footer.schema.column(index)
        if column.path != column.name:  # part of a list, map or struct
            continue
        chunks = [
            footer.row_group(group).column(index).statistics
            for group in range(footer.num_row_groups)
            if footer.row_group(group).num_rows
        ]
        if chunks and all(chunk is not None and chunk.has_null_count for chunk in chunks):
            nulls[column.name] = sum(chunk.null_count for chunk in chunks)
        bounds = None if column.name in without_bounds else _bounds(chunks)
        if bounds is not None:
            lowest[column.name], highest[column.name] = bounds
    return json.dumps(
        {
            "numRecords": footer.num_rows,
            "minValues": lowest,
            "maxValues": highest,
            "nullCount": nulls,
        }
    )


def _bounds(chunks: Iterable[Any]) -> tuple[Bound, Bound] | None:
    """Minimum and maximum over row groups; None where any row group does not know its own."""
    known = []
    for chunk in chunks:
        if chunk is None:
            return None
        if not chunk.has_min_max:
            # A row group of nulls alone has no bounds and needs none.
            if chunk.has_null_count and chunk.num_values == 0:
                continue
            return None
        try:
            known.append((chunk.min, chunk.max))
        except (OverflowError, ValueError):  # a date that Python has no word for
            return None
    if not known:
        return None
    low = _json_bound(min(pair[0] for pair in known), round_up=False)
    high = _json_bound(max(pair[1] for pair in known), round_up=True)
    return None if low is None or high is None else (low, high)


def _json_bound(value: Any, *, round_up: bool) -> Bound | None:
    """A bound as Delta writes it; None where it cannot be written exactly."""
    if isinstance(value, datetime):
        return _milliseconds(value, round_up=round_up)
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, str):
        return value if len(value) <= LONGEST_STRING else None
    return value if isinstance(value, bool | int) else None


def _milliseconds(value: datetime, *, round_up: bool) -> str | None:
    """Delta keeps milliseconds: a maximum is rounded up, so that no row lies beyond it."""
    rest = value.microsecond % 1000
    value -= timedelta(microseconds=rest)
    if rest and round_up:
        if value > _LAST_MILLISECOND.replace(tzinfo=value.tzinfo):
            return None
        value += timedelta(milliseconds=1)
    utc = value.astimezone(UTC) if value.tzinfo else value
    stamp = utc.replace(tzinfo=None).isoformat(timespec="milliseconds")
    return f"{stamp}Z" if value.tzinfo else stamp
