"""The fit: means, deviations, quantiles and vocabularies of the train split, in one pass."""

from __future__ import annotations

from collections.abc import Mapping

from pyspark.sql import Column, DataFrame, Observation, Row
from pyspark.sql import functions as F

from pipeline.config import Features, Numeric
from pipeline.errors import SpecError
from pipeline.features.spec import (
    Circle,
    FeatureSpec,
    PlainNumber,
    QuantileNumber,
    StandardNumber,
    Vocabulary,
)

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
        SpecError: There is no row, a number has no value, or a vocabulary is too large.
    """
    measured, counted = _one_pass(train, features)
    if not measured["rows"]:
        raise SpecError(
            "features.splits.train",
            f"no labelled row of clean meets {features.splits.train!r}",
            "Widen the train split, or deliver more raw files.",
        )
    return FeatureSpec(
        pipeline=pipeline,
        keys=features.keys,
        period_column=period_column,
        label=features.label,
        splits=features.splits,
        leakage=features.leakage,
        derive=dict(features.derive),
        numbers=tuple(_number(c, how, measured) for c, how in features.numeric.items()),
        circles=tuple(Circle(column=c, period=how.period) for c, how in features.cyclic.items()),
        categories=tuple(_vocabulary(column, counted) for column in features.categorical),
    )


def _one_pass(train: DataFrame, features: Features) -> tuple[dict[str, object], list[Row]]:
    """Measures of the numbers, and (column, word, rows) of the frequent words."""
    measures = [F.count(F.lit(1)).alias("rows")]
    for column, how in features.numeric.items():
        measures += _measures(column, how)
    if not features.categorical:
        return train.agg(*measures).head().asDict(), []  # type: ignore[union-attr]
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
    return observation.get, frequent


def _measures(column: str, how: Numeric) -> list[Column]:
    number = F.col(column).cast("double")
    if how.scale == "standard":
        return [
            F.avg(number).alias(f"mean {column}"),
            F.stddev_pop(number).alias(f"deviation {column}"),
        ]
    if how.scale == "quantile":
        quantiles = F.percentile_approx(number, list(QUANTILES), 10_000)
        return [quantiles.alias(f"quantiles {column}")]
    return []


def _number(
    column: str, how: Numeric, measured: Mapping[str, object]
) -> StandardNumber | QuantileNumber | PlainNumber:
    if how.scale == "none":
        return PlainNumber(column=column, indicator=how.indicator)
    key = f"mean {column}" if how.scale == "standard" else f"quantiles {column}"
    if measured[key] is None:
        raise SpecError(
            f"features.numeric.{column}",
            f"has no value among the {measured['rows']} train rows",
            "Leave this feature out, or correct the join or expression it comes from.",
        )
    if how.scale == "quantile":
        boundaries = tuple(sorted({float(b) for b in measured[key]}))  # type: ignore[attr-defined]
        return QuantileNumber(column=column, indicator=how.indicator, boundaries=boundaries)
    deviation = _rounded(measured[f"deviation {column}"])
    return StandardNumber(
        column=column,
        indicator=how.indicator,
        mean=_rounded(measured[key]),
        # A constant says nothing, and must not divide by zero.
        deviation=deviation or 1.0,
    )


def _rounded(value: object) -> float:
    return float(f"{value:.{SIGNIFICANT_DIGITS}g}")


def _vocabulary(column: str, counted: list[Row]) -> Vocabulary:
    words = sorted(row["word"] for row in counted if row["column"] == column)
    return Vocabulary(column=column, words=tuple(words))
