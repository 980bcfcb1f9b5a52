"""Casts of raw values to the contract's types: a value each, and whether one did not cast.

A cast is exact or it fails: a fraction does not cast to a whole number, nor more digits to a
decimal of fewer, nor a word such as `now` to a time, which would be another one in every run.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

from pyspark.sql import Column as SparkColumn
from pyspark.sql import functions as F
from pyspark.sql.types import (
    ArrayType,
    BinaryType,
    BooleanType,
    DataType,
    DateType,
    DecimalType,
    DoubleType,
    FloatType,
    FractionalType,
    IntegralType,
    MapType,
    StringType,
    StructField,
    StructType,
    TimestampNTZType,
    TimestampType,
)

from pipeline.config import Column
from pipeline.config.source import names_zone
from pipeline.config.types import Array, Atomic, Decimal, Map, Struct, Type
from pipeline.sources.raw import MALFORMED

WHOLE_NUMBERS = {"tinyint": 2.0**7, "smallint": 2.0**15, "int": 2.0**31, "bigint": 2.0**63}
"""Whole numbers, and the first number too large for each."""
_UNIX = {
    "unix_seconds": F.timestamp_seconds,
    "unix_millis": F.timestamp_millis,
    "unix_micros": F.timestamp_micros,
}
_PER_SECOND = {"unix_seconds": 1, "unix_millis": 1_000, "unix_micros": 1_000_000}
_LAST_SECOND = 253_402_300_799  # of the year 9999
# ISO 8601. Spark also takes a time of day for today's, a year for its first day, and what stands
# behind a date for nothing.
_ZONE_NAME = r"[A-Z]{1,5}|[A-Z][A-Z0-9_+-]*(/[A-Z0-9_+-]+)+"
_OFFSET = r"(UTC|GMT|UT)?[+-]\d{1,2}(:?\d{2}(:?\d{2})?)?"
_CLOCK = r"\d{1,2}(:\d{1,2}){1,2}(\.\d*)?"
_DATE = rf"(?i)^\s*\d{{4}}-\d{{1,2}}-\d{{1,2}}([T ]{_CLOCK}\s*({_ZONE_NAME}|{_OFFSET})?)?\s*$"
# Python, Delta and Arrow's dates end there.
_FIRST, _LAST = "0001-01-01", "9999-12-31 23:59:59.999999"
# Java's, which Spark takes: 12.5d is a double.
_JAVA_NUMBER = r"(?<![nN])[dDfF]\s*$|^\s*[+-]?0[xX]"
_HAS_ZONE = rf"(?i):\d{{1,2}}(\.\d*)?\s*({_ZONE_NAME}|{_OFFSET})\s*$"


class Cast(NamedTuple):
    """What became of a raw value."""

    value: SparkColumn
    fails: SparkColumn | None
    """Whether a value was there that does not cast; None where all do."""


def cast(raw: SparkColumn, stored: DataType, column: Column, time_zone: str = "UTC") -> Cast:
    """Casts a column.

    Args:
        raw: The values as they are stored; NaN counts as missing.
        stored: Their type.
        column: What the contract says.
        time_zone: Of times that name none, where the column says nothing.
    """
    return _cast(raw, stored, column.kind, column, column.time_zone or time_zone)


def _cast(raw: SparkColumn, stored: DataType, wanted: Type, column: Column, zone: str) -> Cast:
    if isinstance(wanted, Atomic | Decimal):
        return _atom(raw, stored, wanted, column, zone)
    if isinstance(stored, StringType):
        return _parsed(raw, wanted, column, zone)
    if isinstance(wanted, Array) and isinstance(stored, ArrayType):
        return _array(raw, stored, wanted, column, zone)
    if isinstance(wanted, Map) and isinstance(stored, MapType):
        return _map(raw, stored, wanted, column, zone)
    if isinstance(wanted, Struct) and isinstance(stored, StructType):
        return _struct(raw, stored, wanted, column, zone)
    raise TypeError(f"{stored.simpleString()} has no way to {wanted}")  # refused when it was found


def _array(raw: SparkColumn, stored: ArrayType, wanted: Array, column: Column, zone: str) -> Cast:
    def of(element: SparkColumn) -> Cast:
        return _cast(element, stored.elementType, wanted.element, column, zone)

    fails = _any(raw, of)
    values = F.transform(raw, lambda element: of(element).value)
    return Cast(values if fails is None else F.when(~fails, values), fails)


def _map(raw: SparkColumn, stored: MapType, wanted: Map, column: Column, zone: str) -> Cast:
    def key(of: SparkColumn) -> Cast:
        return _cast(of, stored.keyType, wanted.key, column, zone)

    def value(of: SparkColumn) -> Cast:
        return _cast(of, stored.valueType, wanted.value, column, zone)

    keys = F.transform(F.map_keys(raw), lambda each: key(each).value)
    # Keys that were two may become one: 1 and 01.
    merged = F.size(F.array_distinct(keys)) < F.size(keys)
    faults = [merged, F.exists(keys, lambda each: each.isNull())]
    faults += [
        each
        for each in (_any(F.map_keys(raw), key), _any(F.map_values(raw), value))
        if each is not None
    ]
    fails = F.coalesce(_either(*faults), F.lit(False))
    values = F.transform(F.map_values(raw), lambda each: value(each).value)
    return Cast(F.when(~fails, F.map_from_arrays(keys, values)), fails)


def _struct(
    raw: SparkColumn, stored: StructType, wanted: Struct, column: Column, zone: str
) -> Cast:
    casts: dict[str, Cast] = {}
    for name, kind in wanted.fields:
        if name in stored.names:
            casts[name] = _cast(raw.getField(name), stored[name].dataType, kind, column, zone)
        else:
            casts[name] = Cast(F.lit(None).cast(str(kind)), None)
    faults = [each.fails for each in casts.values() if each.fails is not None]
    fails = F.coalesce(_either(*faults), F.lit(False)) if faults else None
    value = F.struct(*(each.value.alias(name) for name, each in casts.items()))
    present = raw.isNotNull() if fails is None else raw.isNotNull() & ~fails
    return Cast(F.when(present, value), fails)


def _parsed(raw: SparkColumn, wanted: Type, column: Column, zone: str) -> Cast:
    """A nested value that is written as JSON."""
    shape = _as_text(wanted)
    if isinstance(shape, StructType):
        shape = StructType([*shape.fields, StructField(MALFORMED, StringType())])
    parsed = F.from_json(raw, shape, {"columnNameOfCorruptRecord": MALFORMED})
    broken = raw.isNotNull() & parsed.isNull()
    if isinstance(shape, StructType):
        broken = broken | F.coalesce(parsed.getField(MALFORMED).isNotNull(), F.lit(False))
    # Spark does not look at what stands behind a value.
    alone = F.json_array_length(F.concat(F.lit("["), raw, F.lit("]"))) == 1
    broken = broken | (raw.isNotNull() & ~F.coalesce(alone, F.lit(False)))
    value, fails = _cast(F.when(~broken, parsed), shape, wanted, column, zone)
    return Cast(value, broken if fails is None else broken | F.coalesce(fails, F.lit(False)))


def _as_text(wanted: Type) -> Any:
    """The shape of a type, with text at its ends."""
    if isinstance(wanted, Array):
        return ArrayType(_as_text(wanted.element))
    if isinstance(wanted, Map):
        return MapType(StringType(), _as_text(wanted.value))
    if isinstance(wanted, Struct):
        return StructType([StructField(name, _as_text(kind)) for name, kind in wanted.fields])
    if isinstance(wanted, Decimal):
        # As text, Spark would give a number of many digits as a double; with more digits behind
        # the point than are wanted, those that are lost are seen.
        whole = wanted.precision - wanted.scale
        return DecimalType(38, min(wanted.scale + 10, 38 - whole))
    return StringType()


def _atom(
    raw: SparkColumn, stored: DataType, wanted: Atomic | Decimal, column: Column, zone: str
) -> Cast:
    if isinstance(stored, DoubleType | FloatType):
        raw = F.when(~F.isnan(raw), raw)
    kind = str(wanted)
    if kind in ("timestamp", "timestamp_ntz", "date"):
        return _time(raw, stored, kind, column, zone)
    if kind == "string" and isinstance(stored, StringType | BinaryType):
        text = raw.cast("string")
        valid = F.is_valid_utf8(text)
        return Cast(F.when(valid, text), raw.isNotNull() & ~valid)
    if stored.simpleString() == kind:
        return Cast(raw, None)
    present = raw.isNotNull()
    if isinstance(stored, StringType) and kind not in ("boolean", "binary"):
        raw = _number_text(raw, column)
    value = raw.try_cast(kind)
    fails = present & value.isNull()
    misfit = _misfit(raw, value, stored, wanted)
    if misfit is not None:
        misfit = F.coalesce(misfit, F.lit(False))
        fails, value = fails | misfit, F.when(~misfit, value)
    if kind in ("float", "double"):
        # Text that says NaN is missing, as NaN is.
        value = F.when(~F.isnan(value), value)
    return Cast(value, fails)


def _misfit(
    raw: SparkColumn, value: SparkColumn, stored: DataType, wanted: Atomic | Decimal
) -> SparkColumn | None:
    """Whether a value casts, but not to what it is; None where that cannot be."""
    if isinstance(wanted, Decimal):
        return _loses_digits(raw, value, stored, wanted)
    if wanted.name in WHOLE_NUMBERS and isinstance(stored, FractionalType):
        limit = WHOLE_NUMBERS[wanted.name]
        # Spark casts 2^63 to 2^63 - 1: rounded to a double, they are the same.
        return (raw % 1 != 0) | (raw >= limit) | (raw < -limit)
    if wanted.name in ("float", "double") and isinstance(stored, IntegralType):
        return value.try_cast("bigint") != raw
    if wanted.name in ("float", "double"):
        is_binary = isinstance(stored, DoubleType | FloatType)
        told = F.lower(raw.cast("string"))
        is_infinite = F.abs(raw) == math.inf if is_binary else told.contains("inf")
        return (F.abs(value) == math.inf) & ~is_infinite
    if wanted.name == "boolean" and not isinstance(stored, StringType):
        return ~raw.isin(0, 1)
    return None


def _loses_digits(
    raw: SparkColumn, value: SparkColumn, stored: DataType, wanted: Decimal
) -> SparkColumn | None:
    if isinstance(stored, StringType):
        more = rf"^\s*[+-]?\d*\.\d{{{wanted.scale}}}\d*[1-9]\d*\s*$"
        # With an exponent, digits cannot be counted by where they stand.
        other = raw.rlike("[eE]") & (raw.try_cast("double") != value.cast("double"))
        return raw.rlike(more) | other
    if isinstance(stored, IntegralType | BooleanType):
        return None
    return value.try_cast(stored.simpleString()) != raw


def _number_text(raw: SparkColumn, column: Column) -> SparkColumn:
    """Text of a number with the separators that Spark expects; any other text is as it was."""
    point, grouping = column.decimal_separator, column.grouping
    if grouping is not None:
        group = _literal(grouping)
        rest = rf"({_literal(point)}\d*)?\s*$"
        grouped = rf"^\s*[+-]?\d{{1,3}}({group}\d{{3}})+{rest}"
        bare = rf"^\s*[+-]?\d*{rest}"
        without = F.replace(raw, F.lit(grouping), F.lit(""))
        # A comma that separates no group of three is a fault, not to be dropped.
        raw = (
            F.when(raw.rlike(grouped), without)
            .when(raw.rlike(bare), raw)
            .otherwise(F.when(raw.isNotNull(), F.concat(F.lit("?"), raw)))
        )
    if point != ".":
        marked = F.translate(raw, f".{point}", "?.")
        raw = F.when(raw.isNotNull(), marked)
    return F.when(~raw.rlike(_JAVA_NUMBER), raw)


def _literal(mark: str) -> str:
    return rf"\{mark}" if mark in ".'" else mark


def _time(raw: SparkColumn, stored: DataType, kind: str, column: Column, zone: str) -> Cast:
    if column.format and isinstance(stored, StringType | IntegralType):
        return _formatted(raw, kind, column, zone)
    if column.format and isinstance(stored, FractionalType):
        # pandas makes whole numbers with a null among them doubles.
        whole = F.when(raw % 1 == 0, raw.try_cast("bigint"))
        value = _formatted(whole, kind, column, zone).value
        return Cast(value, raw.isNotNull() & value.isNull())
    if isinstance(stored, StringType):
        return _time_by_text(raw, kind, zone)
    value = raw.try_cast(kind)
    if kind == "timestamp" and isinstance(stored, TimestampNTZType | DateType):
        value = _of_zone(value, zone)
    if kind == "timestamp_ntz" and isinstance(stored, TimestampType):
        value = F.from_utc_timestamp(raw, zone).cast("timestamp_ntz") if zone != "UTC" else value
    return _in_range(raw, raw if stored.simpleString() == kind else value, kind)


def _in_range(raw: SparkColumn, value: SparkColumn, kind: str) -> Cast:
    """Only times of the years 1 to 9999: no other engine reads more."""
    first, last = F.lit(_FIRST).cast(kind), F.lit(_LAST).cast(kind)
    value = F.when(value.between(first, last), value)
    return Cast(value, raw.isNotNull() & value.isNull())


def _time_by_text(raw: SparkColumn, kind: str, zone: str) -> Cast:
    has_zone = raw.rlike(_HAS_ZONE)
    none = ~raw.rlike(_DATE)
    if kind == "timestamp_ntz":  # it would lose the zone
        none = none | has_zone
    value = F.when(~none, raw.try_cast(kind))
    if kind == "timestamp" and zone != "UTC":
        value = F.when(has_zone, value).otherwise(_of_zone(value, zone))
    return _in_range(raw, value, kind)


def _formatted(raw: SparkColumn, kind: str, column: Column, zone: str) -> Cast:
    ways = []
    for pattern in column.format:
        if pattern in _UNIX:
            number = raw.try_cast("bigint")
            limit = F.lit(_LAST_SECOND * _PER_SECOND[pattern])
            # Beyond, Spark would end the job.
            value = _UNIX[pattern](F.when(F.abs(number) <= limit, number))
        else:
            value = F.try_to_timestamp(raw.cast("string"), F.lit(pattern))
            if kind == "timestamp" and not names_zone(pattern):
                value = _of_zone(value, zone)
        ways.append(value.cast(kind))
    return _in_range(raw, F.coalesce(*ways), kind)


def _of_zone(value: SparkColumn, zone: str) -> SparkColumn:
    """A time that was read as of UTC, taken as of a zone."""
    return value if zone == "UTC" else F.to_utc_timestamp(value, zone)


def _any(values: SparkColumn, of: Callable[[SparkColumn], Cast]) -> SparkColumn | None:
    """Whether any of an array's elements does not cast; null counts as cast."""
    if of(F.lit(None)).fails is None:
        return None

    def fails(element: SparkColumn) -> SparkColumn:
        fault = of(element).fails
        return F.lit(False) if fault is None else fault

    return F.coalesce(F.exists(values, fails), F.lit(False))


def _either(*faults: SparkColumn) -> SparkColumn:
    result = faults[0]
    for fault in faults[1:]:
        result = result | fault
    return result
