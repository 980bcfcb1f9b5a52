"""The contract: every raw column cast to its type, every fault of a row noted as a reason."""

from __future__ import annotations

import math
from collections.abc import Mapping

from pyspark.sql import Column as SparkColumn
from pyspark.sql import DataFrame
from pyspark.sql import functions as F
from pyspark.sql.types import DoubleType, FloatType, FractionalType, StructField

from pipeline.clean.raw import FILE, MALFORMED, POSITION
from pipeline.config import Column

REASONS = "_reasons"
UNREADABLE = "_unreadable"
WHOLE_NUMBERS = {"int": 2.0**31, "bigint": 2.0**63}  # the first number too large


def typed(raw: DataFrame, columns: Mapping[str, Column]) -> DataFrame:
    """Casts each column and notes what did not cast.

    A value that does not cast becomes null, its text goes to `UNREADABLE`; so does the text of a
    line that does not parse, under `MALFORMED`. NaN counts as missing. A fraction does not cast to
    a whole number, nor a number to one too small to hold it.

    Args:
        raw: The contract's columns as stored, with `FILE`, `POSITION` and `MALFORMED`.
        columns: The contract.

    Returns:
        The columns typed, then `FILE`, `POSITION`, `REASONS` (array of string, such as
        `cast:distance` or `required:carrier`) and `UNREADABLE` (map from column to text, or null).
    """
    values: dict[str, SparkColumn] = {}
    failed: dict[str, SparkColumn] = {}
    for name, column in columns.items():
        values[name], failed[name] = _cast(raw.schema[name], column)
    cast_reasons = [F.when(fails, F.lit(f"cast:{name}")) for name, fails in failed.items()]
    absent_reasons = [
        F.when(values[name].isNull() & ~failed[name], F.lit(f"required:{name}"))
        for name, column in columns.items()
        if column.required
    ]
    is_malformed = F.col(MALFORMED).isNotNull()
    malformed = F.when(is_malformed, F.lit("malformed"))
    texts = F.array_compact(
        F.array(
            F.when(is_malformed, _entry(MALFORMED)),
            *(F.when(fails, _entry(name)) for name, fails in failed.items()),
        )
    )
    return raw.select(
        *(value.alias(name) for name, value in values.items()),
        FILE,
        POSITION,
        F.array_compact(F.array(malformed, *cast_reasons, *absent_reasons)).alias(REASONS),
        F.when(F.size(texts) > 0, F.map_from_entries(texts)).alias(UNREADABLE),
    )


def _entry(column: str) -> SparkColumn:
    """A column's name and text, for the map `UNREADABLE`."""
    return F.struct(F.lit(column).alias("key"), F.col(column).cast("string").alias("value"))


def _cast(stored: StructField, column: Column) -> tuple[SparkColumn, SparkColumn]:
    """The typed value, and whether a value was there that did not cast."""
    raw = F.col(stored.name)
    is_binary = isinstance(stored.dataType, DoubleType | FloatType)
    if is_binary:
        raw = F.when(~F.isnan(raw), raw)
    if stored.dataType.simpleString() == column.type:
        return raw, F.lit(False)
    value = raw.try_cast(column.type)
    fails = raw.isNotNull() & value.isNull()
    if column.type in WHOLE_NUMBERS and isinstance(stored.dataType, FractionalType):
        limit = WHOLE_NUMBERS[column.type]
        # Spark casts 2^63 to 2^63 - 1: rounded to a double, they are the same.
        misfit = F.coalesce((raw % 1 != 0) | (raw >= limit) | (raw < -limit), F.lit(False))
        fails, value = fails | misfit, F.when(~misfit, value)
    if column.type in ("float", "double"):
        told = F.lower(raw.cast("string"))
        is_infinite = F.abs(raw) == math.inf if is_binary else told.contains("inf")
        overflows = (F.abs(value) == math.inf) & ~is_infinite
        fails = fails | F.coalesce(overflows, F.lit(False))
        value = F.when(~(F.isnan(value) | overflows), value)
    return value, fails
