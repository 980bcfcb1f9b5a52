"""Dates and times on the clock of a place, by Spark and by Arrow, and the parts of them."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal
from zoneinfo import ZoneInfo

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from pyspark.sql import Column
from pyspark.sql import functions as F

from pipeline.errors import SpecError

PartName = Literal[
    "year", "quarter", "month", "week", "day", "day_of_week", "day_of_year", "hour", "minute"
]
_MONTHS = "January February March April May June July August September October November December"
_DAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday"
_EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)


@dataclass(frozen=True, kw_only=True)
class Part:
    """A part of a moment that takes whole numbers from `first` on."""

    spark: Callable[[Column], Column]
    arrow: Callable[[pa.Array], pa.Array]
    first: int
    count: int
    """How many numbers it takes, which is the period of its circle, too."""
    words: tuple[str, ...] = ()
    """What the numbers are called."""

    def word(self, place: int) -> str:
        """What the number `first + place` is called."""
        return self.words[place] if place < len(self.words) else str(self.first + place)


# Weeks and days of the week are those of ISO 8601: weeks begin on Monday, day 1.
PARTS: Mapping[str, Part] = {
    "quarter": Part(spark=F.quarter, arrow=pc.quarter, first=1, count=4),
    "month": Part(spark=F.month, arrow=pc.month, first=1, count=12, words=tuple(_MONTHS.split())),
    "week": Part(spark=F.weekofyear, arrow=pc.iso_week, first=1, count=53),
    "day": Part(spark=F.dayofmonth, arrow=pc.day, first=1, count=31),
    "day_of_week": Part(
        spark=lambda moment: F.weekday(moment) + 1,
        arrow=lambda moments: pc.day_of_week(moments, count_from_zero=False),
        first=1,
        count=7,
        words=tuple(_DAYS.split()),
    ),
    "day_of_year": Part(spark=F.dayofyear, arrow=pc.day_of_year, first=1, count=366),
    "hour": Part(spark=F.hour, arrow=pc.hour, first=0, count=24),
    "minute": Part(spark=F.minute, arrow=pc.minute, first=0, count=60),
}
"""All parts but the year, which has no last one."""


def moment_of(column: str, zone: str | None) -> Column:
    """A date or time as a `timestamp_ntz`, what a clock shows; a date is its midnight.

    Args:
        column: Of `date`, `timestamp` or `timestamp_ntz`; sessions run in UTC.
        zone: Where the clock of a `timestamp` is; None for UTC. The other types have no instant.
    """
    moment = F.col(column).cast("timestamp_ntz")
    if zone is None:
        return moment
    local = F.convert_timezone(F.lit("UTC"), F.lit(zone), moment)
    # A constant for the optimiser, which leaves one of the two.
    return F.when(F.typeof(F.col(column)) == "timestamp", local).otherwise(moment)


def moments_in(values: pa.Array, zone: str | None) -> pa.Array:
    """The same by Arrow: timestamps without a zone, in microseconds [rows].

    Raises:
        SpecError: The values are no dates or times.
    """
    kind = values.type
    if pa.types.is_null(kind):
        return values.cast(pa.timestamp("us"))
    if pa.types.is_date(kind):
        return values.cast(pa.date32()).cast(pa.timestamp("us"))
    if not pa.types.is_timestamp(kind):
        raise SpecError(
            "features.dates", f"a column of type {kind} holds no dates", "Give dates or timestamps."
        )
    instants = values.cast(pa.timestamp("us", kind.tz), safe=False)
    micros = instants.view(pa.int64())
    if zone is not None and kind.tz is not None:
        micros = pc.add(micros, pa.array(_offsets(micros, ZoneInfo(zone))))
    return micros.view(pa.timestamp("us"))


def days_in(moments: pa.Array) -> npt.NDArray[np.float64]:
    """Days since 1970-01-01 [rows], NaN for null."""
    days = moments.cast(pa.date32(), safe=False).view(pa.int32())
    found: npt.NDArray[np.float64] = days.cast(pa.float64()).to_numpy(zero_copy_only=False)
    return found


def _offsets(micros: pa.Array, zone: ZoneInfo) -> npt.NDArray[np.int64]:
    """How far the clock is before UTC at each instant, in microseconds [rows].

    Not by Arrow: it does not know the rules of the years after 2037, nor does it find the zones of
    the package tzdata.
    """
    seconds = np.asarray(micros.fill_null(0)) // 1_000_000
    distinct, places = np.unique(seconds, return_inverse=True)
    offsets = [_offset(int(second), zone) for second in distinct]
    return np.array(offsets, np.int64)[places]


def _offset(second: int, zone: Any) -> int:
    instant = (_EPOCH + dt.timedelta(seconds=second)).astimezone(zone)
    offset = instant.utcoffset()
    assert offset is not None  # noqa: S101 - for mypy: it has a zone
    return offset // dt.timedelta(microseconds=1)
