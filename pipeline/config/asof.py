"""Settings of a point-in-time join: which columns are times, and how old a right row may be."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Annotated, Any

from pydantic import BeforeValidator, PlainSerializer

from pipeline.config.source import Files
from pipeline.config.types import Decimal
from pipeline.settings import Settings, is_pattern, require_known

_UNITS = {
    "microsecond": timedelta(microseconds=1),
    "millisecond": timedelta(milliseconds=1),
    "second": timedelta(seconds=1),
    "minute": timedelta(minutes=1),
    "hour": timedelta(hours=1),
    "day": timedelta(days=1),
    "week": timedelta(weeks=1),
}
_TIMES = frozenset({"date", "timestamp", "timestamp_ntz"})
_NUMBERS = frozenset({"tinyint", "smallint", "int", "bigint", "float", "double"})
# Longer than any history; in microseconds it is still a number of 64 bits.
_LONGEST = timedelta(days=1_000_000)


def parsed_distance(given: Any) -> Any:
    """Reads a time such as `36 hours`; numbers stay as they are.

    Raises:
        ValueError: It is neither, or is negative or too large.
    """
    if isinstance(given, timedelta):
        return given
    if isinstance(given, int | float) and not isinstance(given, bool):
        if not 0 <= given < 2**63:
            raise ValueError(f"{given} is negative, or no number of 64 bits")
        return given
    match = re.fullmatch(r"\s*(\d+)\s+([a-z]+?)s?\s*", given) if isinstance(given, str) else None
    if match is None or match[2] not in _UNITS:
        raise ValueError(
            f"{given!r} is no time; write a whole number and a unit, such as `7 days`: "
            f"{', '.join(f'{unit}s' for unit in _UNITS)}"
        )
    # Compared before it is multiplied: Python's times end at 999,999,999 days.
    if int(match[1]) > _LONGEST / _UNITS[match[2]]:
        raise ValueError(f"{given!r} is longer than {_LONGEST.days:,} days; leave it out instead")
    return int(match[1]) * _UNITS[match[2]]


def _shown(tolerance: int | float | timedelta) -> int | float | str:
    """The tolerance as a description spells it: a description that is dumped can be loaded."""
    if not isinstance(tolerance, timedelta):
        return tolerance
    name, unit = next(
        (name, unit) for name, unit in reversed(_UNITS.items()) if not tolerance % unit
    )
    return f"{tolerance // unit} {name}s"


Tolerance = Annotated[
    int | float | timedelta,
    BeforeValidator(parsed_distance),
    PlainSerializer(_shown),
]
"""How far apart two times, or two numbers, may be."""


class Asof(Settings):
    """The latest right row that is not after the left row."""

    left: str
    """Column of the contract: when the event was."""
    right: str
    """Column of the right side's contract: since when its row holds."""
    tolerance: Tolerance | None = None
    """How much earlier than the event the right row may be, inclusive, such as `7 days` or
    `36 hours`; a number where the columns are numbers. By default there is no limit."""

    def require_ordered(self, setting: str, name: str, files: Files) -> str:
        """Refuses a column that is no time and no number, or that the tolerance does not fit.

        Args:
            setting: Where the column is named, for the message.
            name: The column.
            files: The side that it is of.

        Returns:
            The column's type.

        Raises:
            ValueError: It names the setting and the column.
        """
        require_known(setting, [name], files.columns)
        column = files.column_of(name)
        if column is None or is_pattern(name):
            raise ValueError(f"{setting}: {name!r} is a pattern; name one column")
        if column.type not in _TIMES | _NUMBERS and not isinstance(column.kind, Decimal):
            raise ValueError(
                f"{setting}: {name!r} is {column.type}, no time and no number; allowed: "
                f"{', '.join(sorted(_TIMES | _NUMBERS))}, decimal"
            )
        if self.tolerance is not None:
            is_time = isinstance(self.tolerance, timedelta)
            if is_time != (column.type in _TIMES):
                fitting = "a number" if is_time else "a time such as `7 days`"
                raise ValueError(
                    f"asof.tolerance: {name!r} is {column.type}, so the tolerance is {fitting}"
                )
        return column.type
