"""Histories against loops in plain Python, and over a real lake: never ahead, and never behind."""

from __future__ import annotations

import math
import random
import re
from collections.abc import Mapping
from datetime import UTC, date, datetime, timedelta
from typing import Any, NamedTuple

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyspark.sql import DataFrame, SparkSession

from pipeline.config import History
from pipeline.features.histories import with_histories
from tests.features import history_oracle as oracle

VALUES: dict[str, oracle.Value] = {
    "x": lambda row: row["x"],
    "n": lambda row: row["n"],
    "s": lambda row: row["s"],
    "n * 2": lambda row: None if row["n"] is None else row["n"] * 2,
}
MEASURED = {
    "sum": "x",
    "mean": "x",
    "std": "n",
    "min": "x",
    "max": "n * 2",
    "last": "s",
    "distinct": "s",
    "count": "x",
}


class Kind(NamedTuple):
    """A type of time, and how a small number becomes a time of it."""

    spark: str
    over: str | int
    window: Any
    make: Any
    later: str


def _instant(number: int, zone: Any) -> datetime:
    # Every third lies a microsecond off the edges of windows.
    return datetime(2024, 2, 28, 6, tzinfo=zone) + timedelta(
        hours=12 * number, microseconds=(number % 3 == 2) - (number % 5 == 4)
    )


KINDS = {
    "timestamp": Kind(
        "timestamp", "36 hours", timedelta(hours=36), lambda n: _instant(n, UTC), "t + interval {}"
    ),
    "timestamp_ntz": Kind(
        "timestamp_ntz", "2 days", timedelta(days=2), lambda n: _instant(n, None), ""
    ),
    "date": Kind(
        "date", "3 days", timedelta(days=3), lambda n: date(2024, 2, 27) + timedelta(days=n), ""
    ),
    "int": Kind("int", 3, 3, lambda n: n - 2, ""),
    "bigint": Kind("bigint", 3, 3, lambda n: 2**61 + n, ""),
}


def described(kind: Kind, *, known: bool) -> History:
    """All aggregates over everything, a time and rows; lags and sequences."""
    aggregates: dict[str, Any] = {}
    for over in (None, kind.over, "3 rows"):
        end = {None: "", kind.over: "_time", "3 rows": "_rows"}[over]
        for how, of in MEASURED.items():
            aggregates[how + end] = {"how": how, "of": of, "over": over}
        aggregates["events" + end] = {"how": "count", "over": over}
        aggregates["ago" + end] = {"how": "time_since_last", "over": over}
        aggregates["ago_s" + end] = {"how": "time_since_last", "of": "s", "over": over}
    return History.model_validate(
        {
            "entity": ["who"],
            "time": "t",
            "known_at": "later" if known else None,
            "order": ["id"],
            "aggregates": aggregates,
            "lags": {"one": {"of": "x"}, "three": {"of": "s", "rows": 3}},
            "sequences": {
                "xs": {"of": "x", "rows": 4},
                "texts": {"of": "s", "rows": 2},
                "ages": {"how": "age", "rows": 3},
            },
        }
    )


def wanted(rows: list[dict[str, Any]], history: History, kind: Kind) -> dict[int, dict[str, Any]]:
    known_at = None if history.known_at is None else (lambda row: row["later"])
    windows = {None: None, kind.over: kind.window, "3 rows": "3"}
    made = {}
    for row in rows:
        seen = oracle.seen_by(rows, row, known_at=known_at)
        made[row["id"]] = {
            **{
                name: oracle.aggregate(
                    row, seen, how.how, how.of and VALUES[how.of], windows[how.over]
                )
                for name, how in history.aggregates.items()
            },
            **{
                name: oracle.lag(seen, VALUES[how.of], how.rows)
                for name, how in history.lags.items()
            },
            **{
                name: oracle.sequence(row, seen, how.of and VALUES[how.of], how.rows)
                for name, how in history.sequences.items()
            },
        }
    return made


def frame(spark: SparkSession, rows: list[dict[str, Any]], kind: Kind) -> DataFrame:
    columns = f"id int, who string, t {kind.spark}, later {kind.spark}, x double, n int, s string"
    names = ("id", "who", "t", "later", "x", "n", "s")
    return spark.createDataFrame([tuple(row[name] for name in names) for row in rows], columns)


def made(rows: DataFrame, histories: Mapping[str, History]) -> dict[int, dict[str, Any]]:
    frame = with_histories(rows, histories, [])
    return {row["id"]: row.asDict() for row in frame.collect()}


def same(found: Any, expected: Any) -> bool:
    if isinstance(found, float) and isinstance(expected, float | int):
        return math.isclose(found, expected, rel_tol=1e-9, abs_tol=1e-9)
    return bool(found == expected)


small = st.integers(0, 7)
event = st.fixed_dictionaries(
    {
        "who": st.sampled_from(["a", "a", "a", "b", None]),
        "t": small | small | st.none(),
        "later": small | small | st.none(),
        "x": st.integers(-8, 8).map(lambda n: n / 4)
        | st.sampled_from([None, math.nan, math.inf, -0.0]),
        "n": st.integers(-3, 3) | st.none(),
        "s": st.sampled_from(["", "p", "q", None]),
    }
)


@pytest.mark.parametrize("known", [False, True])
@settings(
    max_examples=8,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(kind=st.sampled_from(sorted(KINDS)), drawn=st.lists(event, min_size=15, max_size=60))
def test_every_output_is_what_a_loop_over_earlier_events_gives(
    spark: SparkSession, known: bool, kind: str, drawn: list[dict[str, Any]]
) -> None:
    how = KINDS[kind]
    rows = [
        {
            **row,
            "id": number,
            **{name: None if row[name] is None else how.make(row[name]) for name in ("t", "later")},
        }
        for number, row in enumerate(drawn)
    ]
    history = described(how, known=known)
    found, expected = made(frame(spark, rows, how), {"h": history}), wanted(rows, history, how)
    assert len(found) == len(rows)
    for number, outputs in expected.items():
        for name, value in outputs.items():
            assert same(found[number][f"h_{name}"], value), (name, rows[number], value, found)
