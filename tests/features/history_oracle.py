"""Histories by loops in plain Python: what each row may see, and what follows from it."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from datetime import date, datetime, timedelta
from typing import Any

Row = Mapping[str, Any]
Value = Callable[[Row], Any]


def seen_by(rows: Sequence[Row], row: Row, *, known_at: Value | None) -> list[tuple[Any, Row]]:
    """The events that a row may see with the moment of each, in order."""
    if row["who"] is None or row["t"] is None:
        return []
    seen = []
    for other in rows:
        if other["who"] != row["who"] or other["t"] is None:
            continue
        moment = other["t"]
        if known_at is not None:
            known = known_at(other)
            if known is None:
                continue
            moment = max(moment, known)
        if moment < row["t"]:
            seen.append((moment, other))
    return sorted(seen, key=lambda pair: (pair[0], pair[1]["t"], pair[1]["id"]))


def finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def apart(later: Any, earlier: Any) -> Any:
    if isinstance(later, datetime):
        return (later - earlier) / timedelta(seconds=1)
    return (later - earlier).days if isinstance(later, date) else later - earlier


def aggregate(
    row: Row, seen: Sequence[tuple[Any, Row]], how: str, value: Value | None, over: Any
) -> Any:
    """One aggregate; `over` is None, a number of rows as a text, or a difference of times."""
    if isinstance(over, str):
        seen = seen[-int(over) :]
    elif over is not None:
        seen = [(moment, event) for moment, event in seen if moment >= row["t"] - over]
    events = [event for _, event in seen if value is None or finite(value(event)) is not None]
    if how == "count":
        return len(events)
    if how == "time_since_last":
        return apart(row["t"], events[-1]["t"]) if events else None
    assert value is not None
    values = [value(event) for event in events]
    if how == "distinct":
        return len(set(values))
    if not values:
        return None
    if how == "last":
        return values[-1]
    return _measured(values, how)


def _measured(values: list[Any], how: str) -> Any:
    if how in ("min", "max"):
        return min(values) if how == "min" else max(values)
    numbers = [float(each) for each in values]
    if how == "std":
        return statistics.pstdev(numbers)
    return sum(numbers) / (len(numbers) if how == "mean" else 1)


def lag(seen: Sequence[tuple[Any, Row]], value: Value, rows: int) -> Any:
    return finite(value(seen[-rows][1])) if len(seen) >= rows else None


def sequence(
    row: Row, seen: Sequence[tuple[Any, Row]], value: Value | None, rows: int
) -> list[Any] | None:
    if not seen:
        return None
    last = [event for _, event in seen[-rows:]]
    if value is None:
        return [apart(row["t"], event["t"]) for event in last]
    return [finite(value(event)) for event in last]
