"""Periods by their dates: which partitions a backfill from a day to a day means."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date, timedelta

from pipeline.errors import ScoringError

DAY = timedelta(days=1)


@dataclass(frozen=True)
class Span:
    """From a first to a last day, both included; or from a first to a last period, by name."""

    first: str
    last: str


def periods_of(span: Span, present: Sequence[str | None], where: str) -> set[str | None]:
    """The periods that a span covers exactly.

    Args:
        span: What is wanted.
        present: The periods that there are: years `2013`, quarters `2013-Q4`, months `2013-11`,
            ISO weeks `2013-W46`, days `2013-11-30`, or other names, which only they themselves
            tell.
        where: What has them, for the error.

    Raises:
        ScoringError: A bound is not the first or last day of a period, or the name of one; the
            error tells the nearest that is.
    """
    named = sorted(period for period in present if period is not None)
    if not named:
        raise ScoringError(where, "has no period", "Run featurize first.")
    first = _bound(span.first, named, where, is_first=True)
    last = _bound(span.last, named, where, is_first=False)
    covered: set[str | None] = {period for period in named if first <= period <= last}
    if not covered:
        raise ScoringError(
            where,
            f"has no period from {span.first} to {span.last}",
            f"Its periods go from {named[0]} to {named[-1]}.",
        )
    return covered


def _bound(value: str, named: Sequence[str], where: str, *, is_first: bool) -> str:
    """The period that begins, or ends, with a bound."""
    if value in named:
        return value
    option = "--from" if is_first else "--to"
    try:
        wanted = date.fromisoformat(value)
        days = {_days(period)[0 if is_first else 1]: period for period in named}
    except ValueError as error:
        raise ScoringError(
            option,
            f"{value!r} is neither a day nor a period of {where}",
            f"Name one of its periods: {', '.join(named[:12])}{', ...' if named[12:] else ''}.",
        ) from error
    if wanted in days:
        return days[wanted]
    nearest = sorted(sorted(days, key=lambda day: abs(day - wanted))[:2])
    edge = "first" if is_first else "last"
    raise ScoringError(
        option,
        f"{value} is not the {edge} day of a period, and a period is replaced whole",
        f"The nearest that are: {' and '.join(day.isoformat() for day in nearest)}.",
    )


def _days(period: str) -> tuple[date, date]:
    """First and last day of a period; ValueError where its name does not tell."""
    for pattern, days in _KINDS:
        if found := re.fullmatch(pattern, period):
            return days(*map(int, found.groups()))
    raise ValueError(f"{period!r} names no days")


def _months(year: int, month: int, count: int) -> tuple[date, date]:
    after = year * 12 + month - 1 + count
    return date(year, month, 1), date(after // 12, after % 12 + 1, 1) - DAY


def _week(year: int, week: int) -> tuple[date, date]:
    monday = date.fromisocalendar(year, week, 1)
    return monday, monday + 6 * DAY


_KINDS: tuple[tuple[str, Callable[..., tuple[date, date]]], ...] = (
    (r"(\d{4})", lambda year: _months(year, 1, 12)),
    (r"(\d{4})-?Q([1-4])", lambda year, quarter: _months(year, 3 * quarter - 2, 3)),
    (r"(\d{4})-(\d{2})", lambda year, month: _months(year, month, 1)),
    (r"(\d{4})-W(\d{2})", _week),
    (r"(\d{4})-(\d{2})-(\d{2})", lambda *day: (date(*day), date(*day))),
)
