"""Dates against Python's datetime, and holidays that stay what they were when fitted."""

from __future__ import annotations

import datetime as dt
import math
import sys
from collections.abc import Iterable
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import pyarrow as pa
import pytest
import torch
from pydantic import ValidationError
from pyspark.sql import SparkSession

from pipeline.config import Features
from pipeline.errors import ConfigError, SpecError
from pipeline.features.arrow import features_of
from pipeline.features.kinds import Id, Number
from pipeline.features.kinds.dates import Dates, FittedDates
from pipeline.features.spec import FeatureSpec
from pipeline.scoring.drift import _inputs
from pipeline.training.histograms import Tally, input_columns
from tests.features.one_kind import by_spark, described, is_train, made, spec_of, table

INSTANTS = pa.timestamp("us", "UTC")
DRAWN = np.random.default_rng(5)
MOMENTS: list[dt.datetime | None] = [
    dt.datetime.fromtimestamp(int(second), dt.UTC)
    for second in DRAWN.integers(-4 * 10**9, 8 * 10**9, 60)
]
MOMENTS += [dt.datetime(2024, 12, 30, 23, 30, tzinfo=dt.UTC), None]
MOMENTS += [dt.datetime(2021, 1, 3, tzinfo=dt.UTC), dt.datetime(2024, 2, 29, 1, tzinfo=dt.UTC)]
LEAST = {"hour": 0, "minute": 0}
COUNTS = {"quarter": 4, "month": 12, "week": 53, "day": 31, "day_of_week": 7}
COUNTS |= {"day_of_year": 366, "hour": 24, "minute": 60}


def parts_of(moment: dt.datetime) -> dict[str, int]:
    return {
        "quarter": (moment.month + 2) // 3,
        "month": moment.month,
        "week": moment.isocalendar().week,
        "day": moment.day,
        "day_of_week": moment.isoweekday(),
        "day_of_year": moment.timetuple().tm_yday,
        "hour": moment.hour,
        "minute": moment.minute,
    }


@pytest.mark.parametrize("zone", [None, "Europe/Berlin"])
def test_parts_are_those_of_pythons_calendar(spark: SparkSession, zone: str | None) -> None:
    how = {"parts": [*COUNTS], **({"time_zone": zone} if zone else {})}
    clean = table(INSTANTS, MOMENTS)
    spec, ids = made(spark, clean, dates={"x": how})
    _, waves = made(spark, clean, dates={"x": {**how, "cyclic": True}})
    assert {c.name: c.size for c in spec.columns_of(Id)} == {
        f"date_{part}_x": count + 1 for part, count in COUNTS.items()
    }
    for place, moment in enumerate(MOMENTS):
        local = moment and moment.astimezone(ZoneInfo(zone or "UTC"))
        for part, count in COUNTS.items():
            number = None if local is None else parts_of(local)[part] - LEAST.get(part, 1)
            assert ids[f"date_{part}_x"][place] == (0 if number is None else number + 1)
            angle = 2 * math.pi * (number or 0) / count
            for wave, value in (("sin", math.sin(angle)), ("cos", math.cos(angle))):
                expected = 0.0 if number is None else value
                assert waves[f"date_{wave}_{part}_x"][place] == pytest.approx(expected, abs=1e-7)


def test_only_instants_have_a_time_zone(spark: SparkSession) -> None:
    days = [dt.date(2024, 7, 1), dt.date(2024, 7, 2), None]
    how = {"parts": ["day", "hour"], "time_zone": "America/New_York"}
    _, found = made(spark, table(pa.date32(), days), dates={"x": how})
    assert (found["date_day_x"], found["date_hour_x"]) == ([1, 2, 0], [1, 1, 0])


def test_the_year_and_the_days_since_are_standardised(spark: SparkSession) -> None:
    clean = table(INSTANTS, MOMENTS)
    since = dt.date(2001, 1, 1)
    how = {"parts": ["year"], "since": "2001-01-01"}
    spec, found = made(spark, clean, dates={"x": how})
    assert spec == FeatureSpec.from_json(spec.to_json())
    for name, value in (
        ("year", lambda moment: moment.year),
        ("since", lambda moment: (moment.date() - since).days),
    ):
        numbers = [value(m) for place, m in enumerate(MOMENTS) if m and is_train(place)]
        mean, deviation = np.mean(numbers), np.std(numbers)
        expected = [0.0 if m is None else (value(m) - mean) / deviation for m in MOMENTS]
        np.testing.assert_allclose(found[f"date_{name}_x"], expected, rtol=1e-5, atol=1e-6)


def test_days_are_counted_between_two_columns(spark: SparkSession) -> None:
    begins = [dt.date(2024, 1, 1), dt.date(2024, 1, 1), None] * 3
    ends = [dt.date(2024, 1, 3), dt.date(2024, 1, 1), dt.date(2024, 5, 1)] * 3
    clean = table(pa.date32(), ends, begin=pa.array(begins))
    spec, found = made(spark, clean, dates={"x": {"since": "begin"}})
    assert spec.parts[0].reads == ("x", "begin")
    assert found["date_since_x"] == [1.0, -1.0, 0.0] * 3
    with pytest.raises(ValidationError, match=r"dates\.begin is listed under leakage"):
        described(dates={"x": {"since": "begin"}}, leakage=["begin"])


class _Holidays(dict[dt.date, str]):
    """New Year and 4 July, of the years from 2010 to 2030."""

    start_year, end_year = 2010, 2030

    def __init__(self, code: str, subdiv: str | None, years: Iterable[int]) -> None:
        if (code, subdiv) != ("US", None):
            raise NotImplementedError(f"Country {code} not available")
        known = [year for year in years if self.start_year <= year <= self.end_year]
        super().__init__({dt.date(y, m, d): "" for y in known for m, d in ((1, 1), (7, 4))})


class _Package:
    country_holidays = _Holidays


@pytest.fixture
def package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "holidays", _Package())


DAYS = [
    *(dt.date(2012, 12, 30), dt.date(2014, 7, 4), dt.date(2014, 7, 6)),
    *(dt.date(2013, 12, 31), None, dt.date(2030, 1, 1)),
    *(dt.date(2011, 1, 1), dt.date(2013, 3, 3), dt.date(2016, 7, 5)),
]
"""Train rows, two of three, are of the years 2011 to 2014."""
SECTION = {"x": {"holidays": "US", "years_ahead": 2, "nearest": 3}}


@pytest.mark.usefixtures("package")
def test_holidays_of_the_train_years_and_some_more_are_known(spark: SparkSession) -> None:
    clean = table(pa.date32(), DAYS)
    spec, found = made(spark, clean, dates=SECTION)
    (part,) = spec.parts
    assert isinstance(part, FittedDates)
    assert part.calendar is not None
    years = (part.calendar.first_year, part.calendar.last_year)
    assert (years, len(part.calendar.days)) == ((2010, 2016), 14)
    assert found["date_holiday_x"] == [2, 3, 2, 2, 0, 1, 3, 2, 2]
    nearest = np.array([2, 0, 2, 1, 3, 3, 0, 3, 1]) / 3
    np.testing.assert_allclose(found["date_nearest_x"], nearest, rtol=1e-7)
    column = spec.columns_of(Id)[0]
    assert [part.word_in(column, id_) for id_ in (2, 3)] == ["no holiday", "a holiday"]
    # Later versions of the package change nothing, and neither does its absence.
    again = FeatureSpec.from_json(spec.to_json())
    sys.modules["holidays"] = None  # type: ignore[assignment]
    assert by_spark(spark, clean, again).to_pydict() == found
    assert features_of(clean, again)["date_holiday_x"].to_pylist() == found["date_holiday_x"]


@pytest.mark.usefixtures("package")
def test_drift_tells_dates_that_no_calendar_knows(spark: SparkSession) -> None:
    spec, found = made(spark, table(pa.date32(), DAYS), dates={"x": {"holidays": "US"}})
    tallies = []
    for ids in (found["date_holiday_x"], [1] * 9):
        tally = Tally(input_columns(spec), spec.imputed_columns)
        bits = torch.zeros(9, dtype=torch.int64)
        tally.add({"categorical": torch.tensor(ids).reshape(-1, 1), "_missing_0": bits}, 9)
        tallies.append(tally.histograms())
    (measured,) = _inputs(spec, *tallies)
    assert measured.unknown is not None
    assert (measured.unknown.training, measured.unknown.scored) == (1 / 9, 1.0)


def test_a_package_that_is_not_there_is_named(
    spark: SparkSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "holidays", None)
    told = r"features\.dates\.x\.holidays: asks for the package holidays.*lakestorm\[dates\]"
    with pytest.raises(ConfigError, match=told):
        spec_of(spark, table(pa.date32(), DAYS), dates=SECTION)


@pytest.mark.usefixtures("package")
@pytest.mark.parametrize(
    ("section", "days", "error", "told"),
    [
        ({"holidays": "ZZ"}, DAYS, ConfigError, r"ZZ: Country ZZ not available"),
        ({"holidays": "US"}, [None] * 6, SpecError, "has no value among the 4 train rows"),
        ({"parts": ["year"]}, [None] * 6, SpecError, "has no value among the 4 train rows"),
        ({"holidays": "US"}, [dt.date(1, 1, 1), *DAYS[1:]], SpecError, "of the years 1 to 2014"),
        ({"holidays": "US"}, [dt.date(1999, 1, 1)] * 3, ConfigError, "from 2010 to 2030"),
    ],
)
def test_what_cannot_be_fitted_is_told(
    spark: SparkSession, section: dict[str, Any], days: list[Any], error: type[Exception], told: str
) -> None:
    with pytest.raises(error, match=told):
        spec_of(spark, table(pa.date32(), days), dates={"x": {"years_ahead": 0, **section}})


@pytest.mark.parametrize(
    ("how", "told"),
    [
        ({}, "asks for nothing"),
        ({"parts": ["day", "day"]}, "one is there twice"),
        ({"parts": ["second"]}, "parts.0"),
        ({"parts": ["day"], "nearest": 3}, "nearest counts the days to a holiday"),
        ({"holidays": "usa"}, "holidays"),
        ({"parts": ["day"], "time_zone": "Europe/Berlim"}, "did you mean Europe/Berlin"),
    ],
)
def test_wrong_dates_are_refused_when_loaded(how: dict[str, Any], told: str) -> None:
    with pytest.raises(ValidationError, match=told):
        described(dates={"x": how})


def test_the_forms_follow_the_settings() -> None:
    assert Dates(parts=("month",)).forms == {Id}
    assert Dates(parts=("month",), cyclic=True).forms == {Number}
    assert Dates(parts=("year", "month")).forms == {Id, Number}
    assert Dates(holidays="US", nearest=3).forms == {Id, Number}
    assert Dates(since=dt.date(2001, 1, 1)).form is Number
    assert isinstance(described(dates={"x": {"parts": ["day"]}}), Features)


def test_a_text_is_no_date(spark: SparkSession) -> None:
    with pytest.raises(SpecError, match="column x: is string, and a feature of this kind is to be"):
        spec_of(spark, table(pa.string(), ["2024-01-01"] * 3), dates={"x": {"parts": ["day"]}})


def test_the_package_knows_the_holidays_of_a_country() -> None:
    pytest.importorskip("holidays", reason="the extra dates is not installed")
    from pipeline.features.kinds.calendars import calendar_of

    found = calendar_of("here", "US", 2013, 2013)
    assert {dt.date(2013, 7, 4), dt.date(2013, 11, 28), dt.date(2013, 12, 25)} < {*found.days}
    with pytest.raises(ConfigError, match="US-ZZ"):
        calendar_of("here", "US-ZZ", 2013, 2013)
