from __future__ import annotations

import datetime as dt
import json
import math
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pytest

from pipeline.errors import RowError
from pipeline.serving.wire import from_json, to_json

SCHEMA = pa.schema(
    [
        ("at", pa.timestamp("us", tz="UTC")),
        ("local", pa.timestamp("us")),
        ("day", pa.date32()),
        ("price", pa.decimal128(10, 2)),
        ("raw", pa.binary()),
        ("n", pa.int32()),
    ]
)
ROW: dict[str, Any] = {
    "at": dt.datetime(2024, 2, 29, 12, tzinfo=dt.UTC),
    "local": dt.datetime(2024, 2, 29, 12),  # noqa: DTZ001 - what timestamp_ntz is
    "day": dt.date(2024, 2, 29),
    "price": Decimal("3.10"),
    "raw": b"\x00\xff",
    "n": 3,
}


def test_what_is_written_is_read_back() -> None:
    text = json.dumps(to_json(ROW))
    assert from_json([json.loads(text)], SCHEMA) == [ROW]
    assert from_json([dict.fromkeys(ROW)], SCHEMA) == [dict.fromkeys(ROW)]


def test_a_time_without_offset_is_in_utc() -> None:
    (row,) = from_json([{"at": "2024-02-29T12:00:00"}], SCHEMA)
    assert row == {"at": ROW["at"]}
    (row,) = from_json([{"at": "2024-02-29T13:00:00+01:00"}], SCHEMA)
    assert row == {"at": ROW["at"]}


def test_what_json_has_no_number_for_is_null() -> None:
    assert to_json({"a": math.nan, "b": [math.inf, 1.0]}) == {"a": None, "b": [None, 1.0]}


@pytest.mark.parametrize(
    ("field", "value", "told"),
    [
        ("at", "noon", "no timestamp"),
        ("day", "2024-02-30", "no date32"),
        ("price", "dear", "no decimal128"),
        ("raw", "%%", "no binary"),
    ],
)
def test_a_text_of_another_type_is_named(field: str, value: str, told: str) -> None:
    with pytest.raises(RowError, match=rf"^row 1, field {field}: is '{value}', {told}"):
        from_json([{}, {field: value}], SCHEMA)
