"""Values of `clean` as the numbers and texts that features are made of, by Spark and by Arrow.

Both ways give the same bits: doubles are added, multiplied, divided and rounded alike by Java and
NumPy (IEEE 754).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from pyspark.sql import Column
from pyspark.sql import functions as F

from pipeline.errors import SpecError

LARGEST_FLOAT = 3.4e38

Floats = npt.NDArray[np.float64]


def number_of(column: str) -> Column:
    """The column as a double; null where it is none that a float can hold."""
    return held_by_a_float(F.col(column))


def held_by_a_float(value: Column) -> Column:
    """A value as a double; null where it is none that a float can hold."""
    number = value.cast("double")
    return F.when(F.abs(number) < LARGEST_FLOAT, number)  # to Spark, NaN is above all numbers


def numbers_in(values: pa.Array) -> Floats:
    """The values as doubles [rows]; NaN where Spark's `number_of` is null."""
    values = _whole(values)
    kind = values.type
    if pa.types.is_decimal(kind):
        # Arrow's own cast is off by a unit in the last place for some; Python's rounds correctly.
        found = np.array([np.nan if v is None else float(v) for v in values.to_pylist()], float)
    elif pa.types.is_null(kind):
        found = np.full(len(values), np.nan)
    elif pa.types.is_boolean(kind) or pa.types.is_integer(kind) or pa.types.is_floating(kind):
        numbers = pc.cast(values, pa.float64(), safe=False)
        found = np.asarray(numbers.to_numpy(zero_copy_only=False), float)
        if not pa.types.is_floating(kind):
            return found  # all of them are held
    else:
        raise SpecError(
            "features", f"a column of type {kind} holds no numbers", "Give numbers or booleans."
        )
    with np.errstate(invalid="ignore"):
        held = np.abs(found) < LARGEST_FLOAT
    return found if held.all() else np.where(held, found, np.nan)


def limited(value: Column, low: float, high: float) -> Column:
    """The value, but not below `low` nor above `high`; null stays null."""
    return F.when(value < low, F.lit(low)).when(value > high, F.lit(high)).otherwise(value)


def limited_floats(values: Floats, low: float, high: float) -> Floats:
    """The values, but not below `low` nor above `high`; NaN stays NaN."""
    return np.where(values < low, low, np.where(values > high, high, values))


def floats(values: npt.NDArray[Any], missing: float | None = None) -> pa.Array:
    """Doubles as the `float` column that Spark's cast makes of them.

    Args:
        values: [rows].
        missing: What stands where a value is NaN; by default that stays.
    """
    with np.errstate(over="ignore"):
        narrow = values.astype(np.float32)
    if missing is not None:
        narrow[np.isnan(narrow)] = missing
    return pa.array(narrow)


def texts_in(values: pa.Array, column: str) -> pa.Array:
    """The values as strings, as Spark's cast writes them.

    Raises:
        SpecError: They are of a type whose text Java writes in a way of its own.
    """
    values = _whole(values)
    kind = values.type
    if pa.types.is_dictionary(kind):
        return texts_in(values.dictionary_decode(), column)
    if pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_null(kind):
        return values.cast(pa.string())
    if pa.types.is_integer(kind) or pa.types.is_boolean(kind) or pa.types.is_date32(kind):
        return values.cast(pa.string())
    raise SpecError(
        f"features, column {column}",
        f"is {kind}: as a category, only Spark writes its text",
        "Derive a string from it in the pipeline's YAML, and fit again.",
    )


def rows_of(rows: Mapping[str, pa.Array], column: str) -> pa.Array:
    """One column of the rows as one array.

    Raises:
        SpecError: It is not there.
    """
    if column not in rows:
        raise SpecError(
            f"features, column {column}",
            f"is missing; there are {', '.join(rows)}",
            "Give all columns that the features are made of.",
        )
    return _whole(rows[column])


def _whole(values: pa.Array | pa.ChunkedArray) -> pa.Array:
    return values.combine_chunks() if isinstance(values, pa.ChunkedArray) else values
