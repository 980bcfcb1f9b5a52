"""What is measured of each column of `clean`, by `observe` in the pass that writes it.

What `observe` hands over is named by a word and a column, such as `minimum fare`. In the table
`quality` a measure is a row: one number, or one of several that tell together how a column is
spread.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from itertools import repeat
from typing import Any

from pyspark.sql import Column, DataFrame, Observation
from pyspark.sql import functions as F
from pyspark.sql.types import (
    ArrayType,
    BinaryType,
    BooleanType,
    ByteType,
    DataType,
    IntegerType,
    MapType,
    NumericType,
    ShortType,
    StringType,
    StructType,
    VariantType,
)

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
_SKETCH_SIZE = 1_024
"""Of the sketches that quantiles are taken from: 99 times in 100 off by 0.3 % of the ranks at most.

`percentile_approx` takes more than twice the time. A sketch draws at random what it forgets, so
that the same rows may have slightly other quantiles the next time; up to its size it is exact.
"""
DISTINCT_DEVIATION = 0.05
"""Relative standard deviation of the number of distinct values."""
TOP_VALUES = 5
_TRACKED = 1_000
"""Values that are counted at the same time; counts are exact where a column has no more."""
LEAST_TOP_SHARE = 0.01
"""Of the rows. What is rarer may be miscounted where there are more values than are tracked."""
LONGEST_VALUE = 100
"""Characters of a text that stand for it."""

DISTINCT = "distinct approximately"
TOP = "rows with"
LENGTHS = {"shortest": "shortest text", "longest": "longest text", "length": "mean length"}
_TITLES = {"distinct": DISTINCT, "top": TOP, **LENGTHS}

Observed = Mapping[str, Any]
"""What `observe` handed over: a number, or a list of numbers, or of values with counts."""


def quantile_measure(share: float) -> str:
    """What a quantile is called in `quality`."""
    return f"quantile {share:g} approximately"


def observed_columns(
    clean: DataFrame,
    observation: Observation,
    *,
    is_sensitive: Callable[[str], bool] = lambda _: False,
    also: Mapping[str, Column] | None = None,
) -> DataFrame:
    """The same frame, measured by column.

    Args:
        clean: The accepted rows.
        observation: Has the measures when the frame has been written.
        is_sensitive: Whether a column's values must not be told: of those only nulls and distinct
            values are counted.
        also: Further measures, by a word and a column.
    """
    measures = {"rows": F.count(F.lit(1))}
    for field in clean.schema:
        hidden = is_sensitive(field.name)
        for word, column in _measures(field.name, field.dataType, hidden=hidden).items():
            measures[f"{word} {field.name}"] = column
    measures |= also or {}
    return clean.observe(observation, *(column.alias(name) for name, column in measures.items()))


def measures_of(observed: Observed) -> Iterator[tuple[str, str, float]]:
    """What was observed as rows of `quality`: column, measure, value."""
    rows = observed.get("rows") or 0
    for name, value in observed.items():
        word, _, column = name.partition(" ")
        if not column or value is None:
            continue
        title = _TITLES.get(word, word)
        if word == "quantiles":
            titles = ("minimum", *map(quantile_measure, QUANTILES), "maximum")
            yield from zip(repeat(column), titles, map(float, value), strict=False)
        elif isinstance(value, list):
            least = rows * LEAST_TOP_SHARE if word == "top" else 0
            for text, count in counted(value):
                if count >= least:
                    yield column, f"{title}: {text}", float(count)
        else:
            yield column, title, float(value)


def counted(listed: list[Any]) -> list[tuple[str, int]]:
    """Values as text with how often they occur, the most frequent first; nulls left out."""
    pairs = [(_as_text(item), count) for item, count in listed if item is not None]
    return sorted(pairs, key=lambda pair: (-pair[1], pair[0]))


def top_values(value: Column, most: int, tracked: int) -> Column:
    """The most frequent values with their counts.

    Args:
        value: A text, a truth value or a number; of a text the first characters.
        most: Values that are told.
        tracked: Values that are counted at the same time.
    """
    return F.call_function("approx_top_k", value, F.lit(most), F.lit(tracked))


def shortened(column: Column, kind: DataType) -> Column:
    """A text by its first characters, anything else as it is."""
    return F.left(column, F.lit(LONGEST_VALUE)) if isinstance(kind, StringType) else column


def _measures(name: str, kind: DataType, *, hidden: bool) -> dict[str, Column]:
    column = F.col(f"`{name}`")
    measures = {"nulls": F.count_if(column.isNull())}
    if isinstance(kind, BinaryType | ArrayType | MapType | StructType | VariantType):
        return measures
    measures["distinct"] = F.approx_count_distinct(column, DISTINCT_DEVIATION)
    if hidden:
        return measures
    if isinstance(kind, NumericType):
        number = column.cast("double")
        measures["mean"] = F.avg(number)
        measures["quantiles"] = _quantiles(number)
    if isinstance(kind, StringType):
        length = F.length(column)
        measures["shortest"], measures["longest"] = F.min(length), F.max(length)
        measures["length"] = F.avg(length)
    if isinstance(kind, StringType | BooleanType | ByteType | ShortType | IntegerType):
        measures["top"] = top_values(shortened(column, kind), TOP_VALUES, _TRACKED)
    return measures


def _quantiles(number: Column) -> Column:
    """Minimum, quantiles and maximum; null where there is no number.

    A sketch never forgets the extremes, so that they are exact.
    """
    sketch = F.call_function("kll_sketch_agg_double", number, F.lit(_SKETCH_SIZE))
    shares = F.array(*map(F.lit, (0.0, *QUANTILES, 1.0)))
    found = F.call_function("kll_sketch_get_quantile_double", sketch, shares)
    # An empty sketch has no quantiles.
    return F.when(F.count(number) > 0, found)


def _as_text(item: object) -> str:
    return str(item).lower() if isinstance(item, bool) else str(item)
