"""Cron expressions as crontab(5) means them, on APScheduler's trigger.

APScheduler 3 takes the weekday 0 for Monday, where cron takes it for Sunday, and wants both the
day of the month and the weekday, where cron is content with either. The first is translated here,
the second refused: a job that runs on another day than its author thinks is worse than none.

Source: https://github.com/agronholm/apscheduler/issues/286 and crontab(5).
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, tzinfo
from typing import Any

from apscheduler.triggers.cron import CronTrigger

_DAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
_DAY = rf"[0-7]|{'|'.join(_DAYS)}"
_DAYS_OF_WEEK = re.compile(rf"(?:(\*)|({_DAY})(?:-({_DAY}))?)(?:/([1-7]))?")


def trigger(expression: str, time_zone: tzinfo = UTC) -> Any:
    """The times that a cron expression names.

    Args:
        expression: Minute, hour, day of the month, month, day of the week (0 and 7 are Sunday).
        time_zone: Where its hours are read off the clock.

    Returns:
        A trigger of APScheduler.

    Raises:
        ValueError: It is no such expression, or names no time at all.
    """
    fields = expression.lower().split()
    if len(fields) != 5:
        raise ValueError(
            f"cron {expression!r} has {len(fields)} fields, not 5: minute, hour, day of the month, "
            "month, day of the week"
        )
    if fields[2] != "*" and fields[4] != "*":
        raise ValueError(
            f"cron {expression!r} names days of the month and of the week: cron would take either; "
            "make it two jobs"
        )
    fields[4] = _days_of_week(fields[4], expression)
    try:
        found = CronTrigger.from_crontab(" ".join(fields), timezone=time_zone)
    except ValueError as error:
        raise ValueError(f"cron {expression!r} cannot be read: {error}") from error
    if found.get_next_fire_time(None, datetime.now(UTC)) is None:
        raise ValueError(f"cron {expression!r} names no day that exists")
    return found


def _days_of_week(field: str, expression: str) -> str:
    """The field with each day by its name, which means the same to cron and to APScheduler."""
    if field == "*":
        return field
    days: set[int] = set()
    for part in field.split(","):
        found = _DAYS_OF_WEEK.fullmatch(part)
        if found is None:
            raise ValueError(f"cron {expression!r}: {part!r} is no day of the week")
        every, first, last, step = found.groups()
        if every:
            begin, end = 0, 6
        else:
            begin = _number(first)
            # `1/2` is every second day from Monday on; `1` is Monday alone.
            end = _number(last) if last else (6 if step else begin)
        if end == 0 < begin:  # `fri-sun`
            end = 7
        if end < begin:
            raise ValueError(f"cron {expression!r}: {part!r} ends before it begins")
        days.update(day % 7 for day in range(begin, end + 1, int(step or 1)))
    return ",".join(_DAYS[day] for day in sorted(days))


def _number(day: str) -> int:
    return int(day) if day.isdigit() else _DAYS.index(day)
