"""The fit: means, deviations, quantiles and vocabularies of the train split, in one pass."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from pyspark.sql import Column, DataFrame, Observation, Row
from pyspark.sql import functions as F

from pipeline.config import Features, Numeric
from pipeline.errors import SpecError
from pipeline.features.label import bad_labels, is_bad_label
from pipeline.features.spec import (
    Circle,
    FeatureSpec,
    HashedText,
    NumberSeries,
    Picture,
    PlainNumber,
    QuantileNumber,
    StandardNumber,
    Vocabulary,
)
from pipeline.features.transform import number_of, require_columns

QUANTILES = tuple(rank / 32 for rank in range(1, 32))
# Sums of floats depend on the order of the partitions in their last digits; the spec must not.
SIGNIFICANT_DIGITS = 7
MAXIMUM_WORDS = 100_000


def fit(train: DataFrame, features: Features, pipeline: str, period_column: str) -> FeatureSpec:
    """Fits the spec.

    Args:
        train: Labelled rows of the train split with all columns that features are made of.
        features: The description.
        pipeline: Name of the pipeline.
        period_column: The partition of time that the table keeps.

    Raises:
        SpecError: There is no row, a label is none of its task, a number has no value, or a
            vocabulary is too large.
    """
    images = tuple(
        Picture(column=c, shape=how.shape, encoding=how.encoding)
        for c, how in features.images.items()
    )
    tokens = tuple(
        HashedText(column=c, separator=how.separator, buckets=how.buckets, longest=how.longest)
        for c, how in features.tokens.items()
    )
    series = tuple(NumberSeries(column=c, longest=s.longest) for c, s in features.series.items())
    require_columns(
        train,
        numeric=(*features.numeric, *features.cyclic),
        categorical=features.categorical,
        images=images,
        tokens=tokens,
        series=series,
    )
    measured, counted = _one_pass(train, features)
    if not measured["rows"]:
        raise SpecError(
            "features.splits.train",
            f"no labelled row of clean meets {features.splits.train!r}",
            "Widen the train split, or deliver more raw files.",
        )
    if measured["bad labels"]:
        raise bad_labels(features.label, measured["bad labels"])
    return FeatureSpec(
        pipeline=pipeline,
        keys=features.keys,
        period_column=period_column,
        label=features.label,
        splits=features.splits,
        leakage=features.leakage,
        derive=dict(features.derive),
        histories=dict(features.histories),
        numbers=tuple(_number(c, how, measured) for c, how in features.numeric.items()),
        circles=tuple(Circle(column=c, period=how.period) for c, how in features.cyclic.items()),
        categories=tuple(_vocabulary(column, counted) for column in features.categorical),
        images=images,
        tokens=tokens,
        series=series,
    )


def _one_pass(train: DataFrame, features: Features) -> tuple[dict[str, Any], list[Row]]:
    """Measures of the numbers, and (column, word, rows) of the frequent words."""
    measures = [
        F.count(F.lit(1)).alias("rows"),
        F.count_if(is_bad_label(features.label)).alias("bad labels"),
    ]
    for column, how in features.numeric.items():
        measures += _measures(column, how)
    if not features.categorical:
        return _measured(train, measures), []
    observation = Observation()
    pairs = F.explode(
        F.array(
            *(
                F.struct(F.lit(column).alias("column"), F.col(column).cast("string").alias("word"))
                for column in features.categorical
            )
        )
    )
    enough = F.lit(False)
    for column, category in features.categorical.items():
        frequent_enough = F.col("count") >= category.minimum_count
        enough = enough | ((F.col("column") == column) & frequent_enough)
    # Not the data is collected but the vocabularies, which are part of the model.
    frequent = (
        train.observe(observation, *measures)
        .select(pairs.alias("pair"))
        .select("pair.column", "pair.word")
        .where("word IS NOT NULL")
        .groupBy("column", "word")
        .count()
        .where(enough)
        .limit(MAXIMUM_WORDS + 1)
        .collect()
    )
    if len(frequent) > MAXIMUM_WORDS:
        raise SpecError(
            "features.categorical",
            f"the vocabularies hold more than {MAXIMUM_WORDS} words",
            "Raise minimum_count.",
        )
    # Without any word, nothing may have passed by the observer.
    return observation.get if frequent else _measured(train, measures), frequent


def _measured(train: DataFrame, measures: list[Column]) -> dict[str, Any]:
    return train.agg(*measures).head().asDict()  # type: ignore[union-attr]


def _measures(column: str, how: Numeric) -> list[Column]:
    number = number_of(column)
    measures = [F.count(number).alias(f"values {column}")]
    if how.scale == "standard":
        measures += [
            F.avg(number).alias(f"mean {column}"),
            F.stddev_pop(number).alias(f"deviation {column}"),
        ]
    if how.scale == "quantile":
        quantiles = F.percentile_approx(number, list(QUANTILES), 10_000)
        measures.append(quantiles.alias(f"quantiles {column}"))
    return measures


def _number(
    column: str, how: Numeric, measured: Mapping[str, Any]
) -> StandardNumber | QuantileNumber | PlainNumber:
    if not measured[f"values {column}"]:
        raise SpecError(
            f"features.numeric.{column}",
            f"has no value among the {measured['rows']} train rows",
            "Leave this feature out, or correct the join or expression it comes from.",
        )
    if how.scale == "none":
        return PlainNumber(column=column, indicator=how.indicator)
    if how.scale == "quantile":
        boundaries = tuple(sorted({float(b) for b in measured[f"quantiles {column}"]}))
        return QuantileNumber(column=column, indicator=how.indicator, boundaries=boundaries)
    deviation = rounded(measured[f"deviation {column}"], beside=measured[f"deviation {column}"])
    return StandardNumber(
        column=column,
        indicator=how.indicator,
        mean=rounded(measured[f"mean {column}"], beside=deviation),
        # A constant says nothing, and must not divide by zero.
        deviation=deviation or 1.0,
    )


def rounded(value: float, beside: float) -> float:
    """The value to as many decimals as `beside` needs for 7 significant digits.

    A mean is rounded beside its deviation: that of a time in seconds has more than 7 digits.
    """
    magnitude = math.floor(math.log10(abs(beside))) if beside else 0
    return round(value, SIGNIFICANT_DIGITS - 1 - magnitude)


def _vocabulary(column: str, counted: list[Row]) -> Vocabulary:
    words = sorted(row["word"] for row in counted if row["column"] == column)
    return Vocabulary(column=column, words=tuple(words))
