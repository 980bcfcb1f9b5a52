"""Types as files store them: how Spark reads each, and what the contract may ask of it."""

from __future__ import annotations

from collections.abc import Callable

import pyarrow as pa
from pyspark.sql import Column
from pyspark.sql import functions as F

from pipeline.config import Files
from pipeline.config.types import Array, Atomic, Decimal, Map, Struct, Type
from pipeline.errors import SchemaError
from pipeline.lake.schema import plain

LARGEST_PRECISION = 38  # of Spark's decimals
# What Spark reads Parquet's unsigned numbers as.
_SIGNED = {
    pa.uint8(): pa.int16(),
    pa.uint16(): pa.int32(),
    pa.uint32(): pa.int64(),
    pa.uint64(): pa.decimal128(20, 0),
}
_WHOLE = {"tinyint": 7, "smallint": 15, "int": 31, "bigint": 63}
_MANTISSA = {"float": 24, "double": 53}
_DIGITS_PER_BIT = 0.30103  # of 63 bits come 19 digits

# Type of the contract to the families of stored types that its values may come from.
_NUMBER = frozenset({"number", "text", "boolean"})
_TIME = frozenset({"time", "text"})
_CASTABLE = {
    "string": frozenset({"boolean", "number", "time", "clock", "text", "binary"}),
    "boolean": frozenset({"boolean", "text", "number"}),
    "date": _TIME,
    "timestamp": _TIME,
    "timestamp_ntz": _TIME,
    "binary": frozenset({"binary"}),
}
_OWN = {"string": "text", "boolean": "boolean", "binary": "binary"}
_BY_FIT = {True: "narrowed_type", False: "widened_type"}
_HINTS = {
    "half": "Spark cannot read half floats: write the column as float (pyarrow: .cast(float32())).",
    "interval": "Spark cannot read it: write the column as a number of seconds.",
    "clock": "Give it the type string (12:30:59.5), and derive from that.",
    "wide": f"Spark has decimals of {LARGEST_PRECISION} digits: write it as one, or as text.",
}


def _micros(nanoseconds: Column) -> Column:
    return F.call_function("div", nanoseconds, F.lit(1000))


def _time_of_day(micros: Column) -> Column:
    return F.date_format(F.timestamp_micros(micros), "HH:mm:ss.SSSSSS")


# Types of columns that Spark can only read as numbers, to what makes values of these.
CLOCKS: dict[str, Callable[[Column], Column]] = {
    "timestamp[ns]": lambda it: F.timestamp_micros(_micros(it)).cast("timestamp_ntz"),
    "timestamp[ns, tz]": lambda it: F.timestamp_micros(_micros(it)),
    "time32[ms]": lambda it: _time_of_day(it.cast("bigint") * 1000),
    "time64[us]": _time_of_day,
    "time64[ns]": lambda it: _time_of_day(_micros(it)),
}


def stored_type(
    kind: pa.DataType, physical: frozenset[str], where: str
) -> tuple[pa.DataType, str | None]:
    """How Spark reads a column.

    Args:
        kind: Its type, as Arrow reads it.
        physical: How its leaves are stored.
        where: File and column, for the message.

    Returns:
        The type that Spark is told, and which of `CLOCKS` makes the value of it, if any.

    Raises:
        SchemaError: It holds nanoseconds inside of a list, a map or a struct.
    """
    if pa.types.is_timestamp(kind):
        if "INT96" in physical:  # Spark's own old timestamps
            return pa.timestamp("us", tz="UTC"), None
        if kind.unit == "ns":  # Spark has none: with `nanosAsLong` it hands them over as numbers
            return pa.int64(), "timestamp[ns, tz]" if kind.tz else "timestamp[ns]"
    if pa.types.is_time32(kind):
        return pa.int32(), "time32[ms]"
    if pa.types.is_time64(kind):
        return pa.int64(), str(kind)
    readable = _readable(kind, "INT96" in physical)
    if readable is None:
        raise SchemaError(
            where, f"has type {kind}, which Spark cannot read", "Write it in another type."
        )
    return readable, None


def require_castable(
    kind: pa.DataType, path: tuple[str, ...], files: Files, name: str, where: str
) -> None:
    """Checks that values of a stored column can become the contract's, and the policies for types.

    Args:
        kind: Type of the column that the path begins with.
        path: The column, and the fields below it.
        files: The contract.
        name: Of the contract's column.
        where: The file, for the message.

    Raises:
        SchemaError: They cannot, or the policy for such a type is `fail`.
    """
    column, told = files.columns[name], f"{where}, column {'.'.join(path)}"
    for field in path[1:]:
        fields = {each.name: each.type for each in kind} if pa.types.is_struct(kind) else {}
        if field not in fields:
            raise SchemaError(
                told, f"is missing: {kind} has no field {field}", "Correct `from` in the contract."
            )
        kind = fields[field]
    problem = _problem(kind, column.kind, bool(column.format), files.policies.missing_column)
    if problem is not None:
        raise SchemaError(
            told,
            f"has type {kind}, which cannot be cast to {column.type}",
            problem,
        )
    change = change_of(kind, column.kind)
    if change is not None and getattr(files.policies, change) == "fail":
        raise SchemaError(
            told,
            f"has type {kind}, not {column.type}, and policies.{change} is fail",
            "Correct the type in the contract, deliver the file again, or choose another policy.",
        )


def change_of(kind: pa.DataType, wanted: Type) -> str | None:
    """Which policy a stored type comes under; None for the contract's own type."""
    kind = plain(kind)
    stored = family(kind)
    if isinstance(wanted, Array | Map | Struct):
        return None if stored == "nested" else "changed_type"
    if pa.types.is_null(kind) or _OWN.get(str(wanted)) == stored:
        return None
    if stored == "number" and (isinstance(wanted, Decimal) or wanted.name in _WHOLE | _MANTISSA):
        digits, asked = _digits_of(kind), _digits_of_wanted(wanted)
        return None if digits == asked else _BY_FIT[_fits(digits, asked)]
    if stored == "time" and str(wanted) in _CASTABLE and _CASTABLE[str(wanted)] is _TIME:
        is_date = pa.types.is_date(kind)
        return None if is_date == (str(wanted) == "date") else _BY_FIT[is_date]
    return "changed_type"


def family(kind: pa.DataType) -> str:
    """What a stored type is for casting."""
    kind = plain(kind)
    tests: dict[str, Callable[[pa.DataType], bool]] = {
        "boolean": pa.types.is_boolean,
        "half": pa.types.is_float16,
        "wide": lambda it: pa.types.is_decimal(it) and it.precision > LARGEST_PRECISION,
        "number": lambda it: bool(
            pa.types.is_decimal(it) or pa.types.is_integer(it) or pa.types.is_floating(it)
        ),
        "time": lambda it: bool(pa.types.is_date(it) or pa.types.is_timestamp(it)),
        "clock": pa.types.is_time,
        "text": lambda it: bool(pa.types.is_null(it) or pa.types.is_string(it)),
        "binary": lambda it: bool(pa.types.is_binary(it) or pa.types.is_fixed_size_binary(it)),
        "nested": pa.types.is_nested,
    }
    return next((name for name, fits in tests.items() if fits(kind)), "interval")


def _problem(kind: pa.DataType, wanted: Type, has_format: bool, missing: str) -> str | None:
    """Why a stored type cannot become the contract's, as a remedy; None where it can."""
    general = "Correct the type in the contract, or deliver the file again."
    stored = family(kind)
    if isinstance(wanted, Atomic | Decimal):
        allowed = _CASTABLE.get(str(wanted), _NUMBER)
        if stored in allowed or (stored == "number" and has_format and allowed is _TIME):
            return None
        if stored == "number" and allowed is _TIME:
            return "Say what the number means by `format`: unix_seconds, unix_millis or yyyyMMdd."
        return _HINTS.get(stored, general)
    if stored == "text":  # read as JSON
        return None
    return _problem_in_parts(plain(kind), wanted, has_format, missing, general)


def _problem_in_parts(
    kind: pa.DataType, wanted: Type, has_format: bool, missing: str, general: str
) -> str | None:
    pairs: list[tuple[pa.DataType, Type]] = []
    if isinstance(wanted, Array) and pa.types.is_list(kind):
        pairs = [(kind.value_type, wanted.element)]
    elif isinstance(wanted, Map) and pa.types.is_map(kind):
        pairs = [(kind.key_type, wanted.key), (kind.item_type, wanted.value)]
    elif isinstance(wanted, Struct) and pa.types.is_struct(kind):
        fields = {each.name: each.type for each in kind}
        absent = [name for name, _ in wanted.fields if name not in fields]
        if absent and missing == "fail":
            return (
                f"Its field {absent[0]} is missing: correct the contract, or choose "
                "policies.missing_column."
            )
        pairs = [(fields[name], each) for name, each in wanted.fields if name in fields]
    else:
        return general
    return next((p for each in pairs if (p := _problem(*each, has_format, missing))), None)


def _readable(kind: pa.DataType, is_int96: bool) -> pa.DataType | None:
    """The type by which Spark can read a column, parts that it cannot read left out."""
    is_nanoseconds = pa.types.is_timestamp(kind) and kind.unit == "ns" and not is_int96
    kind = kind if pa.types.is_nested(kind) else plain(kind)
    if is_nanoseconds or family(kind) in ("half", "wide", "clock", "interval"):
        return None
    if pa.types.is_nested(kind):
        return _readable_nested(kind, is_int96)
    if pa.types.is_fixed_size_binary(kind):
        return pa.binary()
    if pa.types.is_date(kind):
        return pa.date32()
    if is_int96 and pa.types.is_timestamp(kind):
        return pa.timestamp("us", tz="UTC")
    return _SIGNED.get(kind, kind)


def _readable_nested(kind: pa.DataType, is_int96: bool) -> pa.DataType | None:
    if pa.types.is_struct(kind):
        fields = {each.name: _readable(each.type, is_int96) for each in kind}
        known = [pa.field(name, each) for name, each in fields.items() if each is not None]
        return pa.struct(known) if known else None
    if pa.types.is_map(kind):
        key, item = _readable(kind.key_type, is_int96), _readable(kind.item_type, is_int96)
        return None if key is None or item is None else pa.map_(key, item)
    element = _readable(kind.value_type, is_int96)
    return None if element is None else pa.list_(element)


def _digits_of(kind: pa.DataType) -> tuple[str, int, int]:
    """Family of a number, its digits before the point, and behind it."""
    if pa.types.is_decimal(kind):
        return ("decimal", kind.precision - kind.scale, kind.scale)
    if pa.types.is_floating(kind):
        return ("float", 24 if kind == pa.float32() else 53, 0)
    unsigned = pa.types.is_unsigned_integer(kind)
    return ("whole", kind.bit_width - (0 if unsigned else 1), 0)


def _digits_of_wanted(wanted: Atomic | Decimal) -> tuple[str, int, int]:
    if isinstance(wanted, Decimal):
        return ("decimal", wanted.precision - wanted.scale, wanted.scale)
    if wanted.name in _MANTISSA:
        return ("float", _MANTISSA[wanted.name], 0)
    return ("whole", _WHOLE[wanted.name], 0)


def _fits(stored: tuple[str, int, int], asked: tuple[str, int, int]) -> bool:
    """Whether every value of a stored number is one of the type that is asked for."""
    if stored[0] == asked[0]:
        return stored[1] <= asked[1] and stored[2] <= asked[2]
    if stored[0] == "whole" and asked[0] == "float":
        return stored[1] <= asked[1]
    digits = int(stored[1] * _DIGITS_PER_BIT) + 1
    return stored[0] == "whole" and asked[0] == "decimal" and digits <= asked[1]
