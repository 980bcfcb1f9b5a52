from __future__ import annotations

import json
import math
from datetime import UTC, date, datetime, timedelta
from io import BytesIO
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import given
from hypothesis import strategies as st

from pipeline.lake.statistics import LONGEST_STRING, delta_statistics


def statistics(table: pa.Table, rows_per_row_group: int = 3) -> dict[str, Any]:
    sink = BytesIO()
    pq.write_table(table, sink, row_group_size=rows_per_row_group)
    told: dict[str, Any] = json.loads(delta_statistics(pq.read_metadata(BytesIO(sink.getvalue()))))
    return told


def test_rows_nulls_and_bounds_over_all_row_groups() -> None:
    told = statistics(
        pa.table(
            {
                "n": [5, None, 3, 9, 1, None, None, None, None],
                "d": [date(2013, 1, day) for day in range(1, 10)],
                "tags": [["x"]] * 9,
                "gone": pa.nulls(9, pa.int64()),
            }
        )
    )
    assert told["numRecords"] == 9
    assert told["minValues"] == {"n": 1, "d": "2013-01-01"}
    assert told["maxValues"] == {"n": 9, "d": "2013-01-09"}
    assert told["nullCount"] == {"n": 5, "d": 0, "gone": 9}


def test_a_maximum_is_rounded_up_to_the_millisecond() -> None:
    stamp = datetime(2013, 1, 1, 0, 0, 0, 123_456, tzinfo=UTC)
    told = statistics(pa.table({"t": pa.array([stamp], pa.timestamp("us", tz="UTC"))}))
    assert told["minValues"]["t"] == "2013-01-01T00:00:00.123Z"
    assert told["maxValues"]["t"] == "2013-01-01T00:00:00.124Z"


@given(st.lists(st.none() | st.floats() | st.just(math.nan), min_size=1, max_size=9))
def test_bounds_of_floats_are_never_tighter_than_the_data(values: list[float | None]) -> None:
    told = statistics(pa.table({"x": pa.array(values, pa.float64())}))
    known = [v for v in values if v is not None and not math.isnan(v)]
    if "x" in told["minValues"]:
        assert told["minValues"]["x"] <= min(known)
        assert told["maxValues"]["x"] >= max(known)


@given(st.lists(st.text(max_size=80), min_size=1, max_size=9))
def test_bounds_of_strings_are_never_tighter_than_the_data(values: list[str]) -> None:
    told = statistics(pa.table({"s": values}))
    if "s" in told["minValues"]:
        key = [value.encode() for value in values]
        assert told["minValues"]["s"].encode() <= min(key)
        assert told["maxValues"]["s"].encode() >= max(key)
        assert len(told["maxValues"]["s"]) <= LONGEST_STRING


@given(st.lists(st.datetimes(datetime(1800, 1, 1), datetime(2200, 1, 1)), min_size=1, max_size=9))  # noqa: DTZ001
def test_bounds_of_times_are_never_tighter_than_the_data(values: list[datetime]) -> None:
    told = statistics(pa.table({"t": pa.array(values, pa.timestamp("us"))}))
    low = datetime.fromisoformat(told["minValues"]["t"])
    high = datetime.fromisoformat(told["maxValues"]["t"])
    assert min(values) - timedelta(milliseconds=1) < low <= min(values)
    assert max(values) <= high < max(values) + timedelta(milliseconds=1)
