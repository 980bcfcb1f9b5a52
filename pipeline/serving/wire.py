"""Rows as JSON: what arrives as text and means a time, a decimal or bytes, and the way back."""

from __future__ import annotations

import base64
import binascii
import datetime as dt
import math
from collections.abc import Mapping, Sequence
from decimal import Decimal, InvalidOperation
from typing import Any

import pyarrow as pa

from pipeline.errors import RowError


def from_json(rows: Sequence[Mapping[str, Any]], schema: pa.Schema) -> list[dict[str, Any]]:
    """Rows with the texts of times, decimals and bytes read.

    Args:
        rows: As JSON has them.
        schema: The types of the fields; others are left alone.

    Raises:
        RowError: A text is none of its type.
    """
    readers = {field.name: field.type for field in schema if _reader(field.type) is not None}
    return [
        {
            name: _read(value, readers[name], f"row {place}, field {name}")
            if name in readers
            else value
            for name, value in row.items()
        }
        for place, row in enumerate(rows)
    ]


def to_json(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row whose values JSON can hold: ISO 8601 for times, base64 for bytes, null for NaN."""
    return {name: _written(value) for name, value in row.items()}


def _read(value: Any, kind: pa.DataType, where: str) -> Any:
    reader = _reader(kind)
    if reader is None or not isinstance(value, str):
        return value
    try:
        return reader(value)
    except (ValueError, InvalidOperation, binascii.Error) as error:
        raise RowError(where, f"is {value[:40]!r}, no {kind}", _written_as(kind)) from error


def _reader(kind: pa.DataType) -> Any:
    """What reads the text of a type that JSON has not; None for the others."""
    if pa.types.is_timestamp(kind):
        return _time_in_utc if kind.tz else dt.datetime.fromisoformat
    if pa.types.is_date(kind):
        return dt.date.fromisoformat
    if pa.types.is_decimal(kind):
        return Decimal
    if pa.types.is_binary(kind):
        return lambda text: base64.b64decode(text, validate=True)
    return None


def _time_in_utc(text: str) -> dt.datetime:
    """A moment; without an offset it is in UTC."""
    moment = dt.datetime.fromisoformat(text)
    return moment if moment.tzinfo else moment.replace(tzinfo=dt.UTC)


def _written_as(kind: pa.DataType) -> str:
    if pa.types.is_binary(kind):
        return "Give base64."
    return "Give a decimal number." if pa.types.is_decimal(kind) else "Give ISO 8601."


def _written(value: Any) -> Any:
    if isinstance(value, dt.date | dt.datetime):
        return value.isoformat()
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if isinstance(value, Decimal):
        return str(value)
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, list):
        return [_written(each) for each in value]
    return value
