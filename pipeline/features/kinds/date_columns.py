"""Columns that the kind `dates` makes of a moment: a class each, by Spark and by Arrow."""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyspark.sql import Column
from pyspark.sql import functions as F

from pipeline.features.kinds.calendars import Calendar
from pipeline.features.kinds.columns import (
    FIRST_ID,
    MISSING_ID,
    UNKNOWN_ID,
    FeatureColumn,
    Id,
    Number,
)
from pipeline.features.kinds.moments import Part, days_in, moment_of, moments_in
from pipeline.features.kinds.scales import Standard
from pipeline.features.kinds.values import Floats, floats, rows_of

NO_HOLIDAY, HOLIDAY = FIRST_ID, FIRST_ID + 1
_EPOCH = dt.date(1970, 1, 1)


@dataclass(frozen=True, kw_only=True)
class DateColumn:
    """One column."""

    name: str
    source: str

    @property
    def column(self) -> FeatureColumn:
        """The column of the table `features`; a number unless a class says otherwise."""
        return Number(name=self.name, source=self.source)

    def spark(self, moment: Column) -> Column:
        """Its values, never null.

        Args:
            moment: A `timestamp_ntz`.
        """
        raise NotImplementedError

    def arrow(self, moments: pa.Array, rows: Mapping[str, pa.Array]) -> pa.Array:
        """The same without Spark.

        Args:
            moments: Timestamps without a zone [rows].
            rows: All columns that the feature reads.
        """
        raise NotImplementedError

    def word(self, id_: int) -> str:
        """What an id stands for, in a column of ids."""
        return f"id {id_}"


@dataclass(frozen=True, kw_only=True)
class PartId(DateColumn):
    """1 + part - its least value; 0 is missing."""

    part: Part

    @property
    def column(self) -> FeatureColumn:
        """An id."""
        size = MISSING_ID + 1 + self.part.count
        return Id(name=self.name, source=self.source, size=size, unknown=None)

    def spark(self, moment: Column) -> Column:
        """The part's place."""
        shift = MISSING_ID + 1 - self.part.first
        return F.coalesce(self.part.spark(moment) + F.lit(shift), F.lit(MISSING_ID))

    def arrow(self, moments: pa.Array, rows: Mapping[str, pa.Array]) -> pa.Array:
        """The part's place."""
        del rows
        places = pc.add(self.part.arrow(moments), MISSING_ID + 1 - self.part.first)
        return places.fill_null(MISSING_ID).cast(pa.int32())

    def word(self, id_: int) -> str:
        """The part."""
        return self.part.word(id_ - MISSING_ID - 1)


@dataclass(frozen=True, kw_only=True)
class Wave(DateColumn):
    """The sine or cosine of 2 pi (part - its least value) / count; 0 is missing."""

    part: Part
    wave: Literal["sin", "cos"]

    def spark(self, moment: Column) -> Column:
        """The wave."""
        values = F.array(*(F.lit(value) for value in self._values))
        place = self.part.spark(moment) - F.lit(self.part.first)
        return F.coalesce(F.get(values, place), F.lit(0.0))

    def arrow(self, moments: pa.Array, rows: Mapping[str, pa.Array]) -> pa.Array:
        """The wave."""
        del rows
        places = pc.subtract(self.part.arrow(moments), self.part.first).cast(pa.int64())
        return pa.array(self._values, pa.float32()).take(places).fill_null(0.0)

    @property
    def _values(self) -> list[float]:
        """The wave at each value of the part: rounded, as Java's and C's sines may differ."""
        count, wave = self.part.count, {"sin": math.sin, "cos": math.cos}[self.wave]
        return [round(wave(2 * math.pi * place / count), 12) for place in range(count)]


@dataclass(frozen=True, kw_only=True)
class Year(DateColumn):
    """The year, standardised; 0 is missing."""

    scale: Standard

    def spark(self, moment: Column) -> Column:
        """The scaled year."""
        return F.coalesce(self.scale.spark(F.year(moment)), F.lit(0.0))

    def arrow(self, moments: pa.Array, rows: Mapping[str, pa.Array]) -> pa.Array:
        """The scaled year."""
        del rows
        return floats(self.scale.arrow(_doubles(pc.year(moments))), 0.0)


@dataclass(frozen=True, kw_only=True)
class Since(DateColumn):
    """Calendar days from a date or another column, standardised; 0 where either is missing."""

    since: dt.date | str
    zone: str | None
    scale: Standard

    def spark(self, moment: Column) -> Column:
        """The scaled days."""
        return F.coalesce(self.scale.spark(days_since(moment, self.since, self.zone)), F.lit(0.0))

    def arrow(self, moments: pa.Array, rows: Mapping[str, pa.Array]) -> pa.Array:
        """The scaled days."""
        begin: float | Floats
        if isinstance(self.since, str):
            begin = days_in(moments_in(rows_of(rows, self.since), self.zone))
        else:
            begin = (self.since - _EPOCH).days
        return floats(self.scale.arrow(days_in(moments) - begin), 0.0)


@dataclass(frozen=True, kw_only=True)
class Holiday(DateColumn):
    """0 missing, 1 of a year that is not known, 2 no holiday, 3 a holiday."""

    calendar: Calendar

    @property
    def column(self) -> FeatureColumn:
        """An id."""
        return Id(name=self.name, source=self.source, size=HOLIDAY + 1)

    def spark(self, moment: Column) -> Column:
        """The id."""
        distance = self.calendar.spark(moment, most=1)
        return (
            F.when(moment.isNull(), MISSING_ID)
            .when(distance.isNull(), UNKNOWN_ID)
            .otherwise(F.when(distance == 0, HOLIDAY).otherwise(NO_HOLIDAY))
        )

    def arrow(self, moments: pa.Array, rows: Mapping[str, pa.Array]) -> pa.Array:
        """The id."""
        del rows
        days = days_in(moments)
        distance = self.calendar.arrow(days, most=1)
        known = np.where(distance == 0, HOLIDAY, NO_HOLIDAY)
        ids = np.where(np.isnan(distance), UNKNOWN_ID, known)
        return pa.array(np.where(np.isnan(days), MISSING_ID, ids).astype(np.int32))

    def word(self, id_: int) -> str:
        """Whether it is one."""
        return {NO_HOLIDAY: "no holiday", HOLIDAY: "a holiday"}.get(id_, f"id {id_}")


@dataclass(frozen=True, kw_only=True)
class Nearest(DateColumn):
    """min(days to the nearest holiday, most) / most; 1 where it is missing or not known."""

    calendar: Calendar
    most: int

    def spark(self, moment: Column) -> Column:
        """The share of `most`."""
        return F.coalesce(self.calendar.spark(moment, self.most) / F.lit(self.most), F.lit(1.0))

    def arrow(self, moments: pa.Array, rows: Mapping[str, pa.Array]) -> pa.Array:
        """The share of `most`."""
        del rows
        return floats(self.calendar.arrow(days_in(moments), self.most) / self.most, 1.0)


def days_since(moment: Column, since: dt.date | str, zone: str | None) -> Column:
    """Calendar days from a date, or from another column's date on the same clock."""
    begin = moment_of(since, zone) if isinstance(since, str) else F.lit(since)
    return F.datediff(moment.cast("date"), begin.cast("date"))


def _doubles(values: pa.Array) -> Floats:
    """Whole numbers as doubles [rows], NaN for null."""
    return np.asarray(values.cast(pa.float64()).to_numpy(zero_copy_only=False), float)
