"""The kind `dates`: parts of a date or time, holidays, and the days since another date."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, ClassVar, Literal, Self

import pyarrow as pa
from pydantic import Field, model_validator
from pyspark.sql import Column
from pyspark.sql import functions as F
from pyspark.sql.types import DateType, TimestampNTZType, TimestampType

from pipeline.errors import SpecError
from pipeline.features.kinds.calendars import Calendar, calendar_of, require_country
from pipeline.features.kinds.columns import FeatureColumn, Id, Number
from pipeline.features.kinds.date_columns import (
    DateColumn,
    Holiday,
    Nearest,
    PartId,
    Since,
    Wave,
    Year,
    days_since,
)
from pipeline.features.kinds.kind import (
    FeatureSettings,
    Fitted,
    Kind,
    Measured,
    Need,
    require_values,
)
from pipeline.features.kinds.moments import PARTS, PartName, moment_of, moments_in
from pipeline.features.kinds.scales import Standard
from pipeline.features.kinds.values import rows_of
from pipeline.settings import ColumnName, Positive, TimeZone

A_DATE = Need(
    lambda kind: isinstance(kind, DateType | TimestampType | TimestampNTZType),
    "a feature of this kind is to be a date or a timestamp",
    "Derive one from it, such as to_date(column, 'yyyyMMdd').",
)
VALUES, YEAR, SINCE, LEAST, GREATEST = "values", "year", "since", "least year", "greatest year"
MOST_YEARS = 300


class Dates(FeatureSettings):
    """Parts of a date or time as ids, or as sines and cosines; holidays; days since a date."""

    parts: tuple[PartName, ...] = ()
    """The year is a standardised number, the others are as `cyclic` has it. Weeks and days of the
    week are those of ISO 8601. Of a date, hour and minute are 0."""
    cyclic: bool = False
    """Parts as sine and cosine instead of ids."""
    holidays: str | None = Field(None, pattern=r"^[A-Z]{2,3}(-[A-Za-z0-9 ]+)?$")
    """`COUNTRY` or `COUNTRY-SUBDIVISION`, such as US or DE-BY; asks for the extra `dates`."""
    years_ahead: Annotated[int, Field(ge=0, le=50)] = 5
    """Years behind the train split's last one whose holidays are known."""
    nearest: Positive | None = None
    """Adds the days to the nearest holiday, at most so many, as a number from 0 to 1."""
    since: Annotated[dt.date | ColumnName | None, Field(union_mode="left_to_right")] = None
    """A date, or another column: adds the days from it, a standardised number."""
    time_zone: TimeZone | None = None
    """Of the clock that parts and days of a `timestamp` are read from; by default UTC."""

    @property
    def form(self) -> type[FeatureColumn]:
        """Ids, unless there are none."""
        return Id if Id in self.forms else Number

    @property
    def forms(self) -> frozenset[type[FeatureColumn]]:
        """Numbers or ids or both, by what is asked for."""
        has_parts = bool(set(self.parts) - {YEAR})
        is_id = (has_parts and not self.cyclic) or self.holidays is not None
        is_scaled = YEAR in self.parts or self.since is not None
        is_number = is_scaled or (has_parts and self.cyclic) or self.nearest is not None
        found = {Id: is_id, Number: is_number}
        return frozenset(form for form, asked in found.items() if asked)

    def reads(self, name: str) -> tuple[str, ...]:
        """The column, and the one that days are counted from."""
        return (name, self.since) if isinstance(self.since, str) else (name,)

    def measures(self, name: str) -> Mapping[str, Column]:
        """How many values there are, and what the scales and the calendar need."""
        moment = moment_of(name, self.time_zone)
        year = F.year(moment)
        asked: dict[str, Column] = {}
        if self.holidays:
            asked |= {VALUES: F.count(moment), LEAST: F.min(year), GREATEST: F.max(year)}
        if YEAR in self.parts:
            asked |= _scale_measures(YEAR, year)
        if self.since is not None:
            asked |= _scale_measures(SINCE, days_since(moment, self.since, self.time_zone))
        return asked

    def fitted(self, name: str, measured: Measured) -> FittedDates:
        """Returns the scales and the calendar.

        Raises:
            SpecError: There is nothing in the train split to fit them on, or it spans centuries.
            ConfigError: The calendar cannot be had.
        """
        return FittedDates(
            column=name,
            parts=self.parts,
            cyclic=self.cyclic,
            time_zone=self.time_zone,
            year=_fitted_scale(measured, YEAR) if YEAR in self.parts else None,
            since=self.since,
            days=_fitted_scale(measured, SINCE) if self.since is not None else None,
            calendar=self._calendar(measured),
            nearest=self.nearest,
        )

    def _calendar(self, measured: Measured) -> Calendar | None:
        if self.holidays is None:
            return None
        require_values(measured, VALUES)
        least, greatest = measured.values[LEAST], measured.values[GREATEST]
        if greatest - least >= MOST_YEARS:
            raise SpecError(
                measured.setting,
                f"train rows are of the years {least} to {greatest}: holidays of {MOST_YEARS} "
                "years at most are kept",
                "Keep wrong dates out by a rule under clean.rules.",
            )
        # A holiday of the year before may be the nearest.
        first, last = least - 1, greatest + self.years_ahead
        return calendar_of(f"{measured.setting}.holidays", self.holidays, first, last)

    @model_validator(mode="after")
    def _something(self) -> Self:
        if not (self.parts or self.holidays or self.since is not None):
            raise ValueError("asks for nothing: set parts, holidays or since")
        if len(set(self.parts)) < len(self.parts):
            raise ValueError(f"parts {list(self.parts)}: one is there twice")
        if self.nearest and not self.holidays:
            raise ValueError("nearest counts the days to a holiday: set holidays, too")
        return self


class FittedDates(Fitted):
    """Columns of a date or time t, read from the clock of `time_zone`; a date is its midnight.

    A part p as an id: 1 + p - its least value; 0 is missing. `int`, ids 0 to the number of values:
    quarter 4, month 12, week 53, day 31, day_of_week 7 (Monday first), day_of_year 366, hour 24,
    minute 60. With `cyclic`: sin and cos of 2 pi (p - its least value) / number of values, two
    `float`, to 12 decimals; a missing one is the centre of the circle, 0 and 0.

    The year, and `days`, the calendar days from `since` to t: (value - mean) / deviation of the
    train split, `float`; a missing one is 0.

    A holiday: `int`, ids 0 missing, 1 of a year that is not known, 2 no holiday, 3 a holiday.
    `nearest`: min(days to the nearest holiday, nearest) / nearest, `float`; 1 where it is missing
    or not known.

    Source: ISO 8601 for weeks; scikit-learn's StandardScaler; the package `holidays` for those.
    """

    kind: Literal["dates"] = "dates"
    parts: tuple[PartName, ...]
    cyclic: bool
    time_zone: str | None = None
    year: Standard | None = None
    since: Annotated[dt.date | ColumnName | None, Field(union_mode="left_to_right")] = None
    days: Standard | None = None
    calendar: Calendar | None = None
    nearest: int | None = None

    traceless: ClassVar[Literal["null", "no number"] | None] = "null"

    @property
    def reads(self) -> tuple[str, ...]:
        """The column, and the one that days are counted from."""
        return (self.column, self.since) if isinstance(self.since, str) else (self.column,)

    def columns(self) -> tuple[FeatureColumn, ...]:
        """`date_<part>_<column>`, `date_holiday_<column>` and the like."""
        return tuple(made.column for made in self._made())

    def spark(self) -> tuple[Column, ...]:
        """Expressions of the columns."""
        moment = moment_of(self.column, self.time_zone)
        return tuple(made.spark(moment) for made in self._made())

    def arrow(self, rows: Mapping[str, pa.Array]) -> tuple[pa.Array, ...]:
        """Values of the columns."""
        moments = moments_in(rows_of(rows, self.column), self.time_zone)
        return tuple(made.arrow(moments, rows) for made in self._made())

    def word_in(self, column: FeatureColumn, id_: int) -> str:
        """The part, or whether it is a holiday."""
        return next(made.word(id_) for made in self._made() if made.name == column.name)

    def _made(self) -> Iterator[DateColumn]:
        """The columns in the order of the table."""
        if self.year is not None:
            yield Year(**self._named(YEAR), scale=self.year)
        for name in self.parts:
            part = PARTS.get(name)
            if part is not None and self.cyclic:
                yield Wave(**self._named(f"sin_{name}"), part=part, wave="sin")
                yield Wave(**self._named(f"cos_{name}"), part=part, wave="cos")
            elif part is not None:
                yield PartId(**self._named(name), part=part)
        if self.calendar is not None:
            yield Holiday(**self._named("holiday"), calendar=self.calendar)
            if self.nearest is not None:
                named = self._named("nearest")
                yield Nearest(**named, calendar=self.calendar, most=self.nearest)
        if self.since is not None and self.days is not None:
            named = self._named("since")
            yield Since(**named, since=self.since, zone=self.time_zone, scale=self.days)

    def _named(self, name: str) -> dict[str, Any]:
        return {"name": f"date_{name}_{self.column}", "source": self.column}


def _scale_measures(name: str, number: Column) -> dict[str, Column]:
    double = number.cast("double")
    measures = {VALUES: F.count(double), **Standard.measures(double)}
    return {f"{name} {key}": measure for key, measure in measures.items()}


def _fitted_scale(measured: Measured, name: str) -> Standard:
    require_values(measured, f"{name} {VALUES}")
    prefix = f"{name} "
    own = {k.removeprefix(prefix): v for k, v in measured.values.items() if k.startswith(prefix)}
    return Standard.fitted(own)


def _require_country(setting: str, how: FeatureSettings | Fitted, spark: Any) -> None:
    """Refuses a country before anything is read; what is fitted needs no package any more."""
    del spark
    if isinstance(how, Dates) and how.holidays is not None:
        require_country(f"{setting}.holidays", how.holidays)


KIND = Kind(name="dates", settings=Dates, fitted=FittedDates, need=A_DATE, check=_require_country)
