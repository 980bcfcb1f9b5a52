"""The transform: a fitted spec as column expressions, the same for training and for scoring."""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Callable, Iterable, Sequence
from functools import reduce
from operator import add
from typing import NamedTuple

from pyspark.errors import IllegalArgumentException
from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.types import (
    ArrayType,
    BinaryType,
    BooleanType,
    DataType,
    NumericType,
    StringType,
)

from pipeline.errors import SpecError
from pipeline.features.prepared import SPLIT
from pipeline.features.spec import (
    BITS_PER_COLUMN,
    FIRST_ID,
    MISSING_ID,
    UNKNOWN_ID,
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

LARGEST_FLOAT = 3.4e38


def features(frame: DataFrame, spec: FeatureSpec, *, with_missing: bool = True) -> DataFrame:
    """The rows of the table `features`.

    Args:
        frame: What `prepared` returned.
        spec: The fitted spec.
        with_missing: Whether to tell what was missing; tables of older versions do not.

    Returns:
        Keys, the label's columns, the weight if there is one, `float` columns
        (`spec.numeric_columns`), `int` columns (`spec.categorical_columns`), images, arrays of
        tokens and of numbers, `bigint` columns (`spec.missing_columns`), split and period.

    Raises:
        SpecError: The frame lacks a column that the spec needs, or has another type of it.
    """
    require_columns(
        frame,
        numeric=[part.column for part in (*spec.numbers, *spec.circles)],
        categorical=[part.column for part in spec.categories],
        images=spec.images,
        tokens=spec.tokens,
        series=spec.series,
    )
    numbers = [_scaled(number).cast("float") for number in spec.numbers]
    missing = [_is_missing(number.column) for number in spec.numbers if number.indicator]
    circles = [wave for circle in spec.circles for wave in _waves(circle)]
    categories = [_identified(category) for category in spec.categories]
    images = [F.col(picture.column) for picture in spec.images]
    tokens = [_hashed(text) for text in spec.tokens]
    series = [_newest(values) for values in spec.series]
    bits = _missing_bits(spec) if with_missing else []
    named = zip(
        (
            *spec.numeric_columns,
            *spec.categorical_columns,
            *spec.image_columns,
            *spec.token_columns,
            *spec.series_columns,
            *(spec.missing_columns if with_missing else ()),
        ),
        (*numbers, *missing, *circles, *categories, *images, *tokens, *series, *bits),
        strict=True,
    )
    return frame.select(
        *spec.keys,
        *spec.label_columns,
        *spec.weight_columns,
        *(column.alias(name) for name, column in named),
        SPLIT,
        spec.period_column,
    )


def require_columns(
    frame: DataFrame,
    *,
    numeric: Iterable[str],
    categorical: Iterable[str],
    images: Iterable[Picture] = (),
    tokens: Sequence[HashedText] = (),
    series: Iterable[NumberSeries] = (),
) -> None:
    """Checks that features can be made of these columns.

    Raises:
        SpecError: A column is not there or of a type that its feature cannot be made of, or a
            separator of words is no regular expression.
    """
    wanted = [
        *((column, _IS_NUMBER) for column in numeric),
        *((column, _IS_ANYTHING) for column in categorical),
        *((picture.column, _IS_BYTES) for picture in images),
        *((text.column, _IS_TEXT) for text in tokens),
        *((values.column, _IS_NUMBERS) for values in series),
    ]
    kinds = {field.name: field.dataType for field in frame.schema}
    for column, _ in wanted:
        if column not in kinds:
            raise SpecError(
                f"features, column {column}",
                f"is missing; there are {', '.join(kinds)}",
                "Run clean with the description that this spec was fitted under, or fit a new one.",
            )
    for column, need in wanted:
        if not need.fits(kinds[column]):
            raise SpecError(
                f"features, column {column}",
                f"is {kinds[column].simpleString()}, and {need.told}",
                need.remedy,
            )
    for text in tokens:
        _require_pattern(frame.sparkSession, text)


class _Need(NamedTuple):
    """What a feature asks of its column's type."""

    fits: Callable[[DataType], bool]
    told: str
    remedy: str


def _is_number(kind: DataType) -> bool:
    return isinstance(kind, NumericType | BooleanType)


_IS_ANYTHING = _Need(lambda _: True, "", "")
_IS_NUMBER = _Need(
    _is_number, "a feature is to be a number", "Make it a category, or derive a number from it."
)
_IS_BYTES = _Need(
    lambda kind: isinstance(kind, BinaryType),
    "an image is to be binary",
    "Give it the type binary under source.columns, or derive the bytes by unbase64 or unhex.",
)
_IS_TEXT = _Need(
    lambda kind: isinstance(kind, StringType),
    "tokens are made of a string",
    "Derive the text from it; of bytes, by decode(column, 'UTF-8').",
)
_IS_NUMBERS = _Need(
    lambda kind: isinstance(kind, ArrayType) and _is_number(kind.elementType),
    "a series is to be an array of numbers",
    "Derive one from it, such as transform(split(column, ','), x -> try_cast(x AS double)).",
)


def _require_pattern(spark: SparkSession, text: HashedText) -> None:
    try:
        spark._jvm.java.util.regex.Pattern.compile(text.separator)  # type: ignore[union-attr]  # noqa: SLF001
    except IllegalArgumentException as error:
        raise SpecError(
            f"features.tokens.{text.column}.separator",
            f"{text.separator!r} is no regular expression: {str(error).splitlines()[0]}",
            "Write what stands between words, in Java's syntax.",
        ) from error


def number_of(column: str) -> Column:
    """The column as a number; null where it is none that a float can hold."""
    return _held_by_a_float(F.col(column))


def _held_by_a_float(value: Column) -> Column:
    number = value.cast("double")
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


def _missing_bits(spec: FeatureSpec) -> list[Column]:
    """The columns `spec.missing_columns`."""
    numbers = {part.column for part in (*spec.numbers, *spec.circles)}
    bits = [
        (number_of(name) if name in numbers else F.col(name)).isNull().cast("bigint")
        for name in spec.imputed_columns
    ]
    columns = [bits[at : at + BITS_PER_COLUMN] for at in range(0, len(bits), BITS_PER_COLUMN)]
    # Shifted bits have no carry: the sum of at most 63 of them is their union, and never negative.
    return [
        reduce(add, (F.shiftleft(bit, place) for place, bit in enumerate(column)))
        for column in columns
    ]


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


def _hashed(text: HashedText) -> Column:
    """The ids of the first words; an empty array for null."""
    words = F.split(F.lower(F.col(text.column)), text.separator)
    kept = F.slice(F.filter(words, lambda word: word != ""), 1, text.longest)
    # As for categories: what Spark and Python compute alike.
    ids = F.transform(kept, lambda word: (F.crc32(word) % (text.buckets - 1) + 1).cast("int"))
    return F.coalesce(ids, F.array().cast("array<int>"))


def _newest(series: NumberSeries) -> Column:
    """The last values; an empty array for null."""
    values = F.col(series.column)
    first = F.greatest(F.size(values) - series.longest + 1, F.lit(1))
    numbers = F.transform(
        F.slice(values, first, series.longest),
        lambda value: F.coalesce(_held_by_a_float(value), F.lit(0.0)).cast("float"),
    )
    return F.coalesce(numbers, F.array().cast("array<float>"))
