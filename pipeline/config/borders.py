"""Borders in time: read as values of the column that they divide, before any data is read."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal, InvalidOperation
from typing import Annotated, Any, TypeAlias

from pydantic import BeforeValidator

_INTEGERS = {"tinyint", "smallint", "int", "bigint"}
_FLOATS = {"float", "double"}
_MOST_DIGITS = 38
_SHORT_DATE = re.compile(r"\d{4}(-\d{2})?")

Value: TypeAlias = date | datetime | Decimal | str


def _as_text(given: Any) -> Any:
    """YAML may give a date or a number where a text is meant."""
    if isinstance(given, date):  # a datetime is one, too
        return given.isoformat()
    if isinstance(given, int | float) and not isinstance(given, bool):
        return str(given)
    return given


Moment = Annotated[str, BeforeValidator(_as_text)]
"""A border in time as it is written; what it means, the column's type decides."""


@dataclass(frozen=True, kw_only=True)
class Borders:
    """Where splits begin (inclusive) and end (exclusive), as values of the column's type."""

    train_end: Value
    validation: Value
    validation_end: Value
    test: Value
    end: Value | None


def is_before(early: str, late: str) -> bool:
    """Whether one border is before another, both as numbers, as times or else as texts."""
    for read in (_number, _instant):
        try:
            return bool(read(early) < read(late))  # type: ignore[operator]
        except ValueError:
            continue
    return early < late


def borders_of(
    validation: str, test: str, end: str | None, gap: int | float | timedelta | None, kind: str
) -> Borders:
    """Reads borders as values of a column's type.

    Args:
        validation: The first moment of the split validation.
        test: The first moment of the split test.
        end: The first moment after it.
        gap: What is left out before each of the first two.
        kind: Spark SQL's name of the column's type.

    Raises:
        ValueError: It says what does not fit the type.
    """
    first, second = (_value(text, kind) for text in (validation, test))
    borders = Borders(
        train_end=_earlier(first, gap, kind),
        validation=first,
        validation_end=_earlier(second, gap, kind),
        test=second,
        end=None if end is None else _value(end, kind),
    )
    if not borders.validation < borders.validation_end:  # type: ignore[operator]
        raise ValueError(f"the gap leaves nothing between validation {first} and test {second}")
    if borders.end is not None and not borders.test < borders.end:  # type: ignore[operator]
        raise ValueError(f"end {borders.end} is not after test {second}")
    return borders


def _value(text: str, kind: str) -> Value:
    if kind == "string":
        return text
    if kind == "date":
        moment = _instant(text)
        if moment.time() != datetime.min.time() or _has_offset(text):
            raise ValueError(f"{text!r} is no date, and the column is one; write 2001-05-31")
        return moment.date()
    if kind == "timestamp":
        return _instant(text)
    if kind == "timestamp_ntz":
        if _has_offset(text):
            raise ValueError(f"{text!r} has an offset, and the column, a timestamp_ntz, has none")
        return _instant(text)
    if kind in _INTEGERS | _FLOATS or kind.startswith("decimal"):
        return _number(text)
    raise ValueError(f"it is {kind}: no date, timestamp, number or string")


def _earlier(value: Value, gap: int | float | timedelta | None, kind: str) -> Value:
    if gap is None:
        return value
    match value, gap:
        case str(), _:
            fault = "a text has no gap: make a date of it under features.derive"
        case Decimal(), int() | float():
            return value - Decimal(str(gap))
        case Decimal(), _:
            fault = f"it is {kind}, so the gap is a number"
        case date(), timedelta() if isinstance(value, datetime) or not gap % timedelta(days=1):
            try:
                return value - gap
            except OverflowError:
                fault = "the gap reaches back before the year 1"
        case date(), timedelta():
            fault = f"it is {kind}, so the gap is of whole days"
        case _:
            fault = f"it is {kind}, so the gap is a time such as `7 days`"
    raise ValueError(fault)


def _instant(text: str) -> datetime:
    """A time in UTC, without its offset; `2001` and `2001-05` are their first days."""
    padded = f"{text}-01-01"[:10] if _SHORT_DATE.fullmatch(text) else text
    try:
        moment = datetime.fromisoformat(padded)
        return moment.astimezone(UTC).replace(tzinfo=None) if moment.tzinfo else moment
    except (ValueError, OverflowError) as error:
        raise ValueError(f"{text!r} is no time; write 2001-05-31 or 2001-05-31 10:00:00") from error


def _has_offset(text: str) -> bool:
    return not _SHORT_DATE.fullmatch(text) and datetime.fromisoformat(text).tzinfo is not None


def _number(text: str) -> Decimal:
    try:
        number = Decimal(text)
    except InvalidOperation as error:
        raise ValueError(f"{text!r} is no number, and the column is one") from error
    if not number.is_finite() or number.adjusted() >= _MOST_DIGITS:
        raise ValueError(f"{text!r} is no finite number of at most {_MOST_DIGITS} digits")
    return Decimal(f"{number:f}")  # Spark knows no 1E+3
