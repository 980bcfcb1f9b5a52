"""Histories and outcomes: what an entity's earlier or later events say, and how far they reach."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Annotated, Any, ClassVar, Literal, Self, TypeAlias

from pydantic import BeforeValidator, Field, model_validator

from pipeline.config.asof import parsed_distance
from pipeline.settings import Name, Settings, is_pattern

Measure = Literal["count", "sum", "mean", "min", "max", "std", "last", "distinct"]
How = Literal[Measure, "time_since_last"]
LONGEST_NUMBER = 2**62
"""Times that are numbers are smaller than this: a window's edge then fits into 64 bits."""
MOST_ROWS = 2**31 - 1
"""Spark counts the rows of a window in 32 bits."""


@dataclass(frozen=True)
class Rows:
    """The last events, so many of them."""

    count: int


Window: TypeAlias = Rows | timedelta | int
"""How far back: events, a time, or a number where times are numbers."""


def parsed_window(over: str | int) -> Window:
    """Reads `5 rows`, `30 days` or a whole number.

    Raises:
        ValueError: It is neither, or not above zero.
    """
    match = re.fullmatch(r"\s*(\d+)\s+rows?\s*", over) if isinstance(over, str) else None
    window = Rows(int(match[1])) if match else parsed_distance(over)
    if isinstance(window, Rows) and window.count > MOST_ROWS:
        raise ValueError(f"{over!r} is more than {MOST_ROWS:,} rows; leave it out instead")
    if isinstance(window, float) or (isinstance(window, int) and window >= LONGEST_NUMBER):
        raise ValueError(f"{over!r} is no whole number below 2^62")
    if window in (Rows(0), timedelta(0), 0):
        raise ValueError(f"{over!r} holds no event; write at least 1")
    return window


def _checked(given: Any) -> Any:
    parsed_window(given)
    return given


Over = Annotated[str | int, BeforeValidator(_checked)]
"""`5 rows`, a time such as `30 days` or `36 hours`, or a whole number where times are numbers."""


class Aggregate(Settings):
    """One value made of an entity's earlier events."""

    how: How
    """`count`, `sum`, `mean`, `min`, `max`, `std` (of the population), `last`, `distinct` (number
    of different values), or `time_since_last`: seconds; days of dates; numbers of numbers."""
    of: str | None = None
    """Spark SQL over `clean`. Missing values are left out. `count` and `time_since_last` need none:
    they then take every event."""
    over: Over | None = None
    """How far back; by default to the entity's first event."""

    @property
    def window(self) -> Window | None:
        """How far back; None for everything earlier."""
        return None if self.over is None else parsed_window(self.over)

    @model_validator(mode="after")
    def _has_a_value(self) -> Self:
        if self.of is None and self.how not in ("count", "time_since_last"):
            raise ValueError(f"`of` is missing: {self.how} of what?")
        return self


class Lag(Settings):
    """The value of one earlier event, also where it is missing."""

    of: str
    """Spark SQL over `clean`."""
    rows: int = Field(default=1, gt=0, le=MOST_ROWS)
    """1 for the event before, 2 for the one before that."""


class EventSequence(Settings):
    """The last events in order, oldest first, as an array; missing values stay in it as null."""

    how: Literal["values", "age"] = "values"
    """`values`: those of `of`. `age`: the time from each event to the row, in the units of
    `time_since_last`."""
    of: str | None = None
    """Spark SQL over `clean`."""
    rows: int = Field(gt=0, le=MOST_ROWS)
    """The most events."""

    @model_validator(mode="after")
    def _has_values_or_ages(self) -> Self:
        if (self.of is None) != (self.how == "age"):
            raise ValueError("give `of` for values, and leave it out for `how: age`")
        return self


Output: TypeAlias = Aggregate | Lag | EventSequence


class History(Settings):
    """The earlier events of a row's entity; the row itself and all later ones are no part of it."""

    section: ClassVar[str] = "features.histories"
    looks_ahead: ClassVar[bool] = False

    entity: tuple[str, ...] = Field(min_length=1)
    """Columns that name whose history it is; a row where one is null has none."""
    time: str
    """Spark SQL over `clean` without the leakage columns: when the row is asked about. A timestamp,
    a date or a whole number; a row where it is null has no history and is in nobody's."""
    known_at: str | None = None
    """Spark SQL over `clean`, of the type of `time`: when an event's values are known, if later
    than its time. Only with it may values be made of leakage columns."""
    order: tuple[str, ...] = ()
    """Columns that order events of the same time."""
    aggregates: dict[Name, Aggregate] = {}
    lags: dict[Name, Lag] = {}
    sequences: dict[Name, EventSequence] = {}

    @property
    def outputs(self) -> dict[str, Output]:
        """All outputs by name."""
        return {**self.aggregates, **self.lags, **self.sequences}

    @property
    def values(self) -> tuple[str, ...]:
        """The expressions that events' values are made of, each once."""
        texts = (output.of for output in self.outputs.values())
        return tuple(dict.fromkeys(text for text in texts if text is not None))

    @model_validator(mode="after")
    def _outputs_are_told_apart(self) -> Self:
        names = [*self.aggregates, *self.lags, *self.sequences]
        twice = [name for name in names if names.count(name) > 1]
        if twice:
            raise ValueError(f"there are two outputs {twice[0]!r}; rename one")
        if not names:
            raise ValueError("no output: name one under aggregates, lags or sequences")
        for setting in ("entity", "order"):
            for name in getattr(self, setting):
                if is_pattern(name):
                    raise ValueError(f"{setting}: {name!r} is a pattern; name one column")
        return self


class LaterEvents(History):
    """The later events of a row's entity, for labels; no feature can be made of them.

    A history with time reversed: its windows are (t, t + over], `last` is the value of the nearest
    later event, and `time_since_last` the time until it.
    """

    section: ClassVar[str] = "features.outcomes"
    looks_ahead: ClassVar[bool] = True

    @model_validator(mode="after")
    def _has_aggregates_only(self) -> Self:
        for setting in ("known_at", "lags", "sequences"):
            if getattr(self, setting):
                raise ValueError(f"{setting} says nothing to an outcome; it has aggregates only")
        return self


def history_columns(histories: Mapping[str, History]) -> Iterator[tuple[str, History, Output]]:
    """The columns of all histories, called after the history and the output."""
    for name, history in histories.items():
        for output, how in history.outputs.items():
            yield f"{name}_{output}", history, how


def history_texts(histories: Mapping[str, History]) -> dict[str, str]:
    """Each column of the histories to the Spark SQL and the names that it is made of."""
    return {
        column: " ".join(
            (*history.entity, history.time, history.known_at or "", *history.order, how.of or "")
        )
        for column, history, how in history_columns(histories)
    }


def require_columns_of_their_own(
    histories: Mapping[str, History], outcomes: Mapping[str, LaterEvents], taken: set[str]
) -> None:
    """Refuses a history or outcome, or a column of one, that is called like something else.

    Raises:
        ValueError: It names the history or outcome.
    """
    for name in outcomes:
        if name in histories:
            raise ValueError(f"features.outcomes.{name}: a history is called so; rename it")
    seen = set(taken)
    for name, history in {**histories, **outcomes}.items():
        for output in history.outputs:
            column = f"{name}_{output}"
            if column in seen:
                raise ValueError(f"{history.section}.{name}: {column!r} exists already; rename it")
            seen.add(column)
