"""The transform: a fitted spec as column expressions, the same for training and for scoring."""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Iterable, Mapping
from typing import Protocol

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F
from pyspark.sql.types import BooleanType, NumericType

from pipeline.config import Label, Splits
from pipeline.errors import SpecError
from pipeline.expressions import checked
from pipeline.features.derive import with_derived
from pipeline.features.spec import (
    FIRST_ID,
    MISSING_ID,
    UNKNOWN_ID,
    Circle,
    FeatureSpec,
    PlainNumber,
    QuantileNumber,
    StandardNumber,
    Vocabulary,
)

SPLIT = "split"
TRAIN, VALIDATION, TEST, UNLABELLED, REST = "train", "validation", "test", "unlabelled", "rest"
ABSENT = "_absent"
HIDDEN_LABEL = "_label"
LARGEST_FLOAT = 3.4e38


class Preparation(Protocol):
    """What a description and a fitted spec have in common."""

    @property
    def label(self) -> Label:
        """What is predicted."""

    @property
    def splits(self) -> Splits:
        """Conditions of the splits."""

    @property
    def leakage(self) -> tuple[str, ...]:
        """Columns known only afterwards."""

    @property
    def derive(self) -> Mapping[str, str]:
        """New column to Spark SQL."""


def prepared(clean: DataFrame, how: Preparation) -> DataFrame:
    """All that features may be made of, with label and split.

    Args:
        clean: Rows of `clean`.
        how: Label, splits, leakage and derived columns.

    Returns:
        The columns of `clean` less the leakage, the derived ones, the label (float, 0, 1 or
        null), `SPLIT` (train, validation, test, unlabelled or rest) and `ABSENT` (why there is no
        label, or null).

    Raises:
        SpecError: An expression or the label's type is wrong; LeakageError where it cheats.
    """
    label, absent = _label(clean, how.label)
    hidden = (HIDDEN_LABEL, ABSENT)
    labelled = clean.withColumns({HIDDEN_LABEL: label}).withColumns({ABSENT: absent})
    frame = with_derived(labelled, how.derive, how.leakage, hidden)
    known = frame.drop(*hidden)
    for setting, name in (("features.label.name", how.label.name), ("a split's name", SPLIT)):
        if name in known.columns:
            raise SpecError(
                f"{setting} {name!r}", "is a column of clean or derived already", "Rename one."
            )
    split = F.when(F.col(HIDDEN_LABEL).isNull(), UNLABELLED)
    for name in (TRAIN, VALIDATION, TEST):
        condition = getattr(how.splits, name)
        split = split.when(_condition(known, condition, f"features.splits.{name}"), name)
    return frame.withColumn(SPLIT, split.otherwise(REST)).withColumnRenamed(
        HIDDEN_LABEL, how.label.name
    )


def _label(clean: DataFrame, how: Label) -> tuple[Column, Column]:
    """The label, and where it is null the reason."""
    where = "features.label.expression"
    label = checked(clean, how.expression, where, SpecError)
    if not isinstance(label.type, BooleanType | NumericType):
        raise SpecError(
            where,
            f"{how.expression!r} is {label.type.simpleString()}",
            "Write a condition, or a number that is 0 or 1.",
        )
    reason = F.lit("unknown")
    for name, text in reversed(how.absent.items()):
        condition = _condition(clean, text, f"features.label.absent.{name}")
        reason = F.when(condition, name).otherwise(reason)
    return label.column.cast("float"), F.when(F.col(HIDDEN_LABEL).isNull(), reason)


def _condition(frame: DataFrame, text: str, where: str) -> Column:
    condition = checked(frame, text, where, SpecError)
    if not isinstance(condition.type, BooleanType):
        raise SpecError(
            where, f"{text!r} is {condition.type.simpleString()}, not boolean", "Write a condition."
        )
    return condition.column


def features(frame: DataFrame, spec: FeatureSpec) -> DataFrame:
    """The rows of the table `features`.

    Args:
        frame: What `prepared` returned.
        spec: The fitted spec.

    Returns:
        Keys, label, `float` columns (`spec.numeric_columns`), `int` columns
        (`spec.categorical_columns`), split and period.

    Raises:
        SpecError: The frame lacks a column that the spec needs, or has another type of it.
    """
    require_columns(
        frame,
        numeric=[part.column for part in (*spec.numbers, *spec.circles)],
        categorical=[part.column for part in spec.categories],
    )
    numbers = [_scaled(number).cast("float") for number in spec.numbers]
    missing = [_is_missing(number.column) for number in spec.numbers if number.indicator]
    circles = [wave for circle in spec.circles for wave in _waves(circle)]
    categories = [_identified(category) for category in spec.categories]
    named = zip(
        (*spec.numeric_columns, *spec.categorical_columns),
        (*numbers, *missing, *circles, *categories),
        strict=True,
    )
    return frame.select(
        *spec.keys,
        spec.label_column,
        *(column.alias(name) for name, column in named),
        SPLIT,
        spec.period_column,
    )


def require_columns(
    frame: DataFrame, *, numeric: Iterable[str], categorical: Iterable[str]
) -> None:
    """Checks that features can be made of these columns.

    Raises:
        SpecError: A column is not there, or one for a number is none.
    """
    kinds = {field.name: field.dataType for field in frame.schema}
    for column in (*numeric, *categorical):
        if column not in kinds:
            raise SpecError(
                f"features, column {column}",
                f"is missing; there are {', '.join(kinds)}",
                "Run clean with the description that this spec was fitted under, or fit a new one.",
            )
    for column in numeric:
        if not isinstance(kinds[column], NumericType | BooleanType):
            raise SpecError(
                f"features, column {column}",
                f"is {kinds[column].simpleString()}, and a feature is to be a number",
                "Make it a category, or derive a number from it.",
            )


def number_of(column: str) -> Column:
    """The column as a number; null where it is none that a float can hold."""
    number = F.col(column).cast("double")
    return F.when(F.abs(number) < LARGEST_FLOAT, number)  # to Spark, NaN is above all numbers


def _scaled(number: StandardNumber | QuantileNumber | PlainNumber) -> Column:
    value = number_of(number.column)
    if isinstance(number, StandardNumber):
        value = (value - F.lit(number.mean)) / F.lit(number.deviation)
    elif isinstance(number, QuantileNumber):
        # A sum of comparisons is one piece of generated code without branches or objects.
        reached = F.lit(0)
        for boundary in number.boundaries:
            reached = reached + (value >= F.lit(boundary)).cast("int")
        value = reached * F.lit(2.0 / len(number.boundaries)) - F.lit(1.0)
    return F.coalesce(value, F.lit(0.0))


def _is_missing(column: str) -> Column:
    return number_of(column).isNull().cast("float")


def _waves(circle: Circle) -> tuple[Column, Column]:
    angle = number_of(circle.column) * F.lit(2 * math.pi / circle.period)
    return (
        F.coalesce(F.sin(angle), F.lit(0.0)).cast("float"),
        F.coalesce(F.cos(angle), F.lit(0.0)).cast("float"),
    )


def _identified(category: Vocabulary) -> Column:
    """The id of each word: 0 for null, 1 for a word out of vocabulary.

    Spark looks a key up in a map one by one. So the words lie in buckets by their CRC-32, which
    Spark and Python compute alike: the time per row does not grow with the vocabulary.
    """
    if not category.words:
        return F.when(F.col(category.column).isNull(), MISSING_ID).otherwise(UNKNOWN_ID)
    buckets: list[dict[str, int]] = [{} for _ in category.words]
    for place, word in enumerate(category.words):
        buckets[zlib.crc32(word.encode()) % len(buckets)][word] = place + FIRST_ID
    # A constant for the optimiser: parsed once, when the plan is made.
    constant = F.from_json(F.lit(json.dumps(buckets)), "array<map<string,int>>")
    text = F.col(category.column).cast("string")
    bucket = F.get(constant, (F.crc32(text) % len(buckets)).cast("int"))
    known = F.coalesce(F.try_element_at(bucket, text), F.lit(UNKNOWN_ID))
    return F.when(text.isNull(), MISSING_ID).otherwise(known)
