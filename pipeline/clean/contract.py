"""The contract: every raw column cast to its type, every fault of a row noted as a reason."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import reduce
from operator import or_

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
        values[name], fails = _cast(raw.schema[name], column)
        if fails is not None:
            failed[name] = fails
    unreadable = {MALFORMED: F.col(MALFORMED).isNotNull(), **failed}
    faults = {"malformed": unreadable[MALFORMED]}
    faults |= {f"cast:{name}": fails for name, fails in failed.items()}
    for name, column in columns.items():
        if column.required:
            absent = values[name].isNull()
            faults[f"required:{name}"] = absent & ~failed[name] if name in failed else absent
    texts = F.array_compact(F.array(*(F.when(it, _entry(name)) for name, it in unreadable.items())))
    return raw.select(
        *(value.alias(name) for name, value in values.items()),
        FILE,
        POSITION,
        reasons_of(faults).alias(REASONS),
        F.when(reduce(or_, unreadable.values()), F.map_from_entries(texts)).alias(UNREADABLE),
    )


def reasons_of(faults: Mapping[str, SparkColumn]) -> SparkColumn:
    """The names of a row's faults, in order.

    Args:
        faults: Reason to whether a row has it; never null.
    """
    none = F.array().cast("array<string>")
    if not faults:
        return none
    named = F.array_compact(F.array(*(F.when(it, F.lit(name)) for name, it in faults.items())))
    # Spark makes and sifts an array without compiled code, and most rows have no fault.
    return F.when(reduce(or_, faults.values()), named).otherwise(none)


def _entry(column: str) -> SparkColumn:
    """A column's name and text, for the map `UNREADABLE`."""
    return F.struct(F.lit(column).alias("key"), F.col(column).cast("string").alias("value"))


def _cast(stored: StructField, column: Column) -> tuple[SparkColumn, SparkColumn | None]:
    """The typed value, and whether a value was there that did not cast; None where all do."""
    raw = F.col(stored.name)
    is_binary = isinstance(stored.dataType, DoubleType | FloatType)
    if is_binary:
        raw = F.when(~F.isnan(raw), raw)
    if stored.dataType.simpleString() == column.type:
        return raw, None
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
