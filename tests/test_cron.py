from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import islice, pairwise
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.cron import trigger

MONDAY = datetime(2026, 1, 5, tzinfo=UTC)
NAMES = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")


def times(expression: str, zone: str, begin: datetime, count: int) -> list[datetime]:
    """The first times from a moment on, as APScheduler asks for them."""
    found = trigger(expression, ZoneInfo(zone))

    def following() -> Iterator[datetime]:
        last: Any = None
        while True:
            last = found.get_next_fire_time(last, last or begin.astimezone(ZoneInfo(zone)))
            # In UTC: Python subtracts two times of one zone as clocks on the wall.
            yield last.astimezone(UTC)

    return list(islice(following(), count))


def days(field: str) -> set[int]:
    """Which days of a week, 0 for Sunday, a job with that field runs on."""
    week = times(f"0 0 * * {field}", "UTC", MONDAY, 8)
    return {at.isoweekday() % 7 for at in week if at < MONDAY + timedelta(days=7)}


@given(
    first=st.integers(0, 7), length=st.integers(0, 6), step=st.integers(1, 7), named=st.booleans()
)
def test_days_of_the_week_are_crons(first: int, length: int, step: int, named: bool) -> None:
    last = min(first + length, 7)
    spelled = (
        f"{NAMES[first % 7]}-{NAMES[last % 7]}" if named and 0 < first < 7 else f"{first}-{last}"
    )
    assert days(f"{spelled}/{step}") == {day % 7 for day in range(first, last + 1, step)}


@pytest.mark.parametrize(
    ("field", "expected"),
    [
        ("0", {0}),
        ("7", {0}),
        ("SUN", {0}),
        ("1-5", {1, 2, 3, 4, 5}),
        ("*/2", {0, 2, 4, 6}),
        ("1/2", {1, 3, 5}),
        ("0,6", {0, 6}),
        ("fri-sun", {5, 6, 0}),
        ("*", {0, 1, 2, 3, 4, 5, 6}),
    ],
)
def test_days_of_the_week_by_example(field: str, expected: set[int]) -> None:
    assert days(field) == expected


def test_an_hour_that_comes_twice_or_not_at_all_is_met_once_or_made_up_for() -> None:
    # Berlin, 2026-10-25: 02:30 comes twice. 2026-03-29: it does not come.
    hours = times("0 * * * *", "Europe/Berlin", datetime(2026, 10, 24, 22, tzinfo=UTC), 6)
    assert [b - a for a, b in pairwise(hours)] == [timedelta(hours=1)] * 5
    spring = times("30 2 * * *", "Europe/Berlin", datetime(2026, 3, 28, tzinfo=UTC), 3)
    assert [at.date().day for at in spring] == [28, 29, 30]
