"""Public holidays of a country over some years, by the package `holidays` when fitted."""

from __future__ import annotations

import datetime as dt
import importlib
import json
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict
from pyspark.sql import Column
from pyspark.sql import functions as F

from pipeline.errors import ConfigError

_EPOCH = dt.date(1970, 1, 1)


class Calendar(BaseModel):
    """The holidays of the years that are known; of other years nothing is said."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    country: str
    """As in the YAML, `COUNTRY` or `COUNTRY-SUBDIVISION`."""
    first_year: int
    last_year: int
    """Both are known."""
    days: tuple[dt.date, ...]
    """Ascending."""

    def spark(self, moment: Column, most: int) -> Column:
        """Days to the nearest holiday, `most` at most; null where the year is not known."""
        # A constant for the optimiser: parsed once, when the plan is made.
        distances = F.from_json(F.lit(json.dumps(self._distances(most).tolist())), "array<int>")
        return F.get(distances, F.datediff(moment.cast("date"), F.lit(self._begin)))

    def arrow(self, days: npt.NDArray[np.float64], most: int) -> npt.NDArray[np.float64]:
        """The same of days since 1970-01-01; NaN where the year is not known."""
        distances = self._distances(most)
        places = days - (self._begin - _EPOCH).days
        known = (places >= 0) & (places < len(distances))
        found = distances[np.where(known, places, 0).astype(np.int64)].astype(np.float64)
        return np.where(known, found, np.nan)

    @property
    def _begin(self) -> dt.date:
        return dt.date(self.first_year, 1, 1)

    def _distances(self, most: int) -> npt.NDArray[np.int32]:
        """Days from each known day to the nearest holiday, `most` at most."""
        count = (dt.date(self.last_year, 12, 31) - self._begin).days + 1
        found = np.full(count, most, np.int32)
        for day in self.days:
            place = (day - self._begin).days
            near = np.arange(max(place - most, 0), min(place + most + 1, count))
            found[near] = np.minimum(found[near], np.abs(near - place))
        return found


def calendar_of(setting: str, country: str, first_year: int, last_year: int) -> Calendar:
    """The holidays of some years.

    Args:
        setting: For messages.
        country: `COUNTRY` or `COUNTRY-SUBDIVISION`, codes of ISO 3166.
        first_year: The first that is wanted.
        last_year: The last that is wanted; the package may know fewer years.

    Raises:
        ConfigError: The package is not installed, or does not know the country.
    """
    found = _found(setting, country, range(first_year, last_year + 1))
    first, last = max(first_year, found.start_year), min(last_year, found.end_year)
    if first > last:
        raise ConfigError(
            setting,
            f"of {country}, holidays are known from {found.start_year} to {found.end_year}, and "
            f"the train split's years are {first_year} to {last_year}",
            "Leave holidays out, or derive the right date.",
        )
    days = tuple(sorted(day for day in found if first <= day.year <= last))
    return Calendar(country=country, first_year=first, last_year=last, days=days)


def require_country(setting: str, country: str) -> None:
    """Refuses a country that is not known, before anything is read.

    Raises:
        ConfigError: The package is not installed, or does not know the country.
    """
    _found(setting, country, range(2000, 2001))


def _found(setting: str, country: str, years: range) -> Any:
    try:
        package = importlib.import_module("holidays")
    except ImportError as error:
        raise ConfigError(
            setting,
            "asks for the package holidays, which is not installed",
            "Install the extra: pip install 'lakestorm[dates]'.",
        ) from error
    code, _, subdivision = country.partition("-")
    try:
        return package.country_holidays(code, subdiv=subdivision or None, years=years)
    except NotImplementedError as error:
        raise ConfigError(
            setting,
            f"{country}: {error}",
            "Write codes of ISO 3166, such as US, US-CA or DE-BY.",
        ) from error
