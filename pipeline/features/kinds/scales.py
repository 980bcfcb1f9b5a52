"""Scales of a number: a line of `SCALES` each, fitted on the train split, by Spark and by NumPy."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from typing import Any, ClassVar, Literal, Self, TypeAlias

import numpy as np
from pyspark.sql import Column
from pyspark.sql import functions as F

from pipeline.features.kinds.part import Part
from pipeline.features.kinds.values import Floats, limited, limited_floats

# Sums of floats depend on the order of the partitions in their last digits; the spec must not.
SIGNIFICANT_DIGITS = 7
QUANTILES = tuple(rank / 32 for rank in range(33))


class FittedScale(Part):
    """What all scales share: doubles in, doubles out, null or NaN stay what they are."""

    ulps: ClassVar[int] = 0
    """How far Spark's and NumPy's results may lie apart, in units in the last place of a float."""

    @classmethod
    def measures(cls, number: Column) -> Mapping[str, Column]:
        """Aggregates that the fit needs, over doubles with nulls."""
        del number
        return {}

    @classmethod
    def fitted(cls, measured: Mapping[str, Any]) -> Self:
        """The scale, from the results of `measures`."""
        raise NotImplementedError

    def spark(self, value: Column) -> Column:
        """The scaled value."""
        raise NotImplementedError

    def arrow(self, values: Floats) -> Floats:
        """The scaled values, float64 [rows]."""
        raise NotImplementedError


class Standard(FittedScale):
    """(value - mean) / deviation, both of the train split; a constant has the deviation 1.

    Source: scikit-learn, StandardScaler.
    """

    name: Literal["standard"] = "standard"
    mean: float
    deviation: float

    @classmethod
    def measures(cls, number: Column) -> Mapping[str, Column]:
        """Mean, and deviation of the population."""
        return {"mean": F.avg(number), "deviation": F.stddev_pop(number)}

    @classmethod
    def fitted(cls, measured: Mapping[str, Any]) -> Self:
        """Rounds both, as their last digits depend on the partitions."""
        deviation = rounded(measured["deviation"], beside=measured["deviation"])
        # A constant says nothing, and must not divide by zero.
        return cls(mean=rounded(measured["mean"], beside=deviation), deviation=deviation or 1.0)

    def spark(self, value: Column) -> Column:
        """The scaled value."""
        return (value - F.lit(self.mean)) / F.lit(self.deviation)

    def arrow(self, values: Floats) -> Floats:
        """The scaled values."""
        return (values - self.mean) / self.deviation


class Robust(FittedScale):
    """x / sqrt(1 + (x / 3)^2) of x = (value - median) / interquartile range: within (-3, 3).

    Where the quartiles are equal, half the range from least to greatest is taken instead.

    Source: Holzmueller et al., Better by Default (2024), https://arxiv.org/abs/2407.04491, 3.1;
    the first half is scikit-learn's RobustScaler.
    """

    name: Literal["robust"] = "robust"
    median: float
    spread: float

    @classmethod
    def measures(cls, number: Column) -> Mapping[str, Column]:
        """Least, quartiles and greatest."""
        return {"fifths": percentiles(number, (0.0, 0.25, 0.5, 0.75, 1.0))}

    @classmethod
    def fitted(cls, measured: Mapping[str, Any]) -> Self:
        """Takes the median and the spread."""
        least, low, median, high, greatest = measured["fifths"]
        return cls(median=median, spread=(high - low) or (greatest - least) / 2 or 1.0)

    def spark(self, value: Column) -> Column:
        """The scaled value."""
        # Limited where squaring could overflow; the result is 3 long before.
        x = limited((value - F.lit(self.median)) / F.lit(self.spread), -1e9, 1e9)
        third = x / F.lit(3.0)
        return x / F.sqrt(third * third + F.lit(1.0))

    def arrow(self, values: Floats) -> Floats:
        """The scaled values."""
        x = limited_floats((values - self.median) / self.spread, -1e9, 1e9)
        third = x / 3.0
        return x / np.sqrt(third * third + 1.0)


class MinMax(FittedScale):
    """(value - least) / (greatest - least) of the train split, limited to [0, 1].

    Source: scikit-learn, MinMaxScaler with `clip=True`.
    """

    name: Literal["minmax"] = "minmax"
    least: float
    width: float

    @classmethod
    def measures(cls, number: Column) -> Mapping[str, Column]:
        """Least and greatest."""
        return {"least": F.min(number), "greatest": F.max(number)}

    @classmethod
    def fitted(cls, measured: Mapping[str, Any]) -> Self:
        """Takes both; of a constant the width is 1."""
        least = measured["least"]
        return cls(least=least, width=(measured["greatest"] - least) or 1.0)

    def spark(self, value: Column) -> Column:
        """The scaled value."""
        return limited((value - F.lit(self.least)) / F.lit(self.width), 0.0, 1.0)

    def arrow(self, values: Floats) -> Floats:
        """The scaled values."""
        return limited_floats((values - self.least) / self.width, 0.0, 1.0)


class Log(FittedScale):
    """(l - mean) / deviation of l = sign(value) ln(1 + |value|), both of the train split."""

    name: Literal["log"] = "log"
    mean: float
    deviation: float

    ulps: ClassVar[int] = 2  # Java's and C's logarithms may differ in the last place

    @classmethod
    def measures(cls, number: Column) -> Mapping[str, Column]:
        """Mean and deviation of the logarithms."""
        return Standard.measures(_signed_log(number))

    @classmethod
    def fitted(cls, measured: Mapping[str, Any]) -> Self:
        """Rounds both."""
        return cls(**Standard.fitted(measured).model_dump(exclude={"name"}))

    def spark(self, value: Column) -> Column:
        """The scaled value."""
        return (_signed_log(value) - F.lit(self.mean)) / F.lit(self.deviation)

    def arrow(self, values: Floats) -> Floats:
        """The scaled values."""
        logs = np.sign(values) * np.log1p(np.abs(values))
        return (logs - self.mean) / self.deviation


class Quantile(FittedScale):
    """The value's place among the train split's quantiles, linear in between, from -1 to 1.

    The quantiles are those of 0, 1/32, ... 1; below the first it is -1, above the last 1. Where
    several are equal, their value gets the mean of their places.

    Source: scikit-learn, QuantileTransformer with `output_distribution="uniform"`.
    """

    name: Literal["quantile"] = "quantile"
    points: tuple[float, ...]
    """Distinct quantiles, ascending."""
    places: tuple[float, ...]
    """Of each point, in [-1, 1]."""

    @classmethod
    def measures(cls, number: Column) -> Mapping[str, Column]:
        """The 33 quantiles."""
        return {"quantiles": percentiles(number, QUANTILES)}

    @classmethod
    def fitted(cls, measured: Mapping[str, Any]) -> Self:
        """Merges equal quantiles."""
        ranks: dict[float, list[float]] = {}
        for share, point in zip(QUANTILES, measured["quantiles"], strict=True):
            ranks.setdefault(point, []).append(2 * share - 1)
        return cls(
            points=tuple(ranks), places=tuple(sum(each) / len(each) for each in ranks.values())
        )

    def spark(self, value: Column) -> Column:
        """The scaled value."""
        # A sum over the segments is one piece of generated code without loops or objects.
        place = F.when(value.isNotNull(), F.lit(self.places[0]))
        for begin, width, rise in self._segments():
            share = limited((value - F.lit(begin)) / F.lit(width), 0.0, 1.0)
            place = place + share * F.lit(rise)
        return place

    def arrow(self, values: Floats) -> Floats:
        """The scaled values."""
        place = np.where(np.isnan(values), values, self.places[0])
        for begin, width, rise in self._segments():
            place = place + limited_floats((values - begin) / width, 0.0, 1.0) * rise
        return place

    def _segments(self) -> list[tuple[float, float, float]]:
        """Of each segment its first point, its width, and how far the place rises over it."""
        pairs = zip(itertools.pairwise(self.points), itertools.pairwise(self.places), strict=True)
        return [(low, high - low, end - begin) for (low, high), (begin, end) in pairs]


class Clip(FittedScale):
    """The value itself, limited to the train split's 1st and 99th percentile."""

    name: Literal["clip"] = "clip"
    low: float
    high: float

    @classmethod
    def measures(cls, number: Column) -> Mapping[str, Column]:
        """Both percentiles."""
        return {"tails": percentiles(number, (0.01, 0.99))}

    @classmethod
    def fitted(cls, measured: Mapping[str, Any]) -> Self:
        """Takes both."""
        low, high = measured["tails"]
        return cls(low=low, high=high)

    def spark(self, value: Column) -> Column:
        """The limited value."""
        return limited(value, self.low, self.high)

    def arrow(self, values: Floats) -> Floats:
        """The limited values."""
        return limited_floats(values, self.low, self.high)


class Steps(FittedScale):
    """The share of boundaries that the value reaches, from -1 to 1: `quantile` of format 1."""

    name: Literal["steps"] = "steps"
    boundaries: tuple[float, ...]

    def spark(self, value: Column) -> Column:
        """The scaled value."""
        # A sum of comparisons is one piece of generated code without branches or objects.
        reached = F.lit(0)
        for boundary in self.boundaries:
            reached = reached + (value >= F.lit(boundary)).cast("int")
        return reached * F.lit(2.0 / len(self.boundaries)) - F.lit(1.0)

    def arrow(self, values: Floats) -> Floats:
        """The scaled values."""
        reached = np.searchsorted(np.array(self.boundaries), values, side="right")
        scaled = reached * (2.0 / len(self.boundaries)) - 1.0
        return np.where(np.isnan(values), values, scaled)


class Plain(FittedScale):
    """The value itself."""

    name: Literal["none"] = "none"

    @classmethod
    def fitted(cls, measured: Mapping[str, Any]) -> Self:
        """Nothing is fitted."""
        del measured
        return cls()

    def spark(self, value: Column) -> Column:
        """The value."""
        return value

    def arrow(self, values: Floats) -> Floats:
        """The values."""
        return values


def rounded(value: float, beside: float) -> float:
    """The value to as many decimals as `beside` needs for 7 significant digits.

    A mean is rounded beside its deviation: that of a time in seconds has more than 7 digits.
    """
    magnitude = math.floor(math.log10(abs(beside))) if beside else 0
    return round(value, SIGNIFICANT_DIGITS - 1 - magnitude)


def percentiles(number: Column, shares: tuple[float, ...]) -> Column:
    """The percentiles, each one of the values; exact below 10,000 values, else nearly."""
    return F.percentile_approx(number, list(shares), 10_000)


def _signed_log(number: Column) -> Column:
    return F.signum(number) * F.log1p(F.abs(number))


Scale: TypeAlias = Standard | Robust | MinMax | Log | Quantile | Clip | Plain
SCALES: Mapping[str, type[Scale]] = {
    "standard": Standard,
    "robust": Robust,
    "minmax": MinMax,
    "log": Log,
    "quantile": Quantile,
    "clip": Clip,
    "none": Plain,
}
"""A scale is a class here and a line in this table."""
