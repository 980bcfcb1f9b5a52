"""One schema for a table: Arrow's; Delta, Spark and Parquet map to it and from it."""

from __future__ import annotations

import pyarrow as pa
from deltalake import Schema as DeltaSchema
from pyspark.sql.pandas.types import from_arrow_schema, to_arrow_schema
from pyspark.sql.types import StructType

from pipeline.errors import SchemaError


def from_spark(struct: StructType) -> pa.Schema:
    """The table schema of a Spark frame; every column nullable, timestamps in UTC."""
    return normalised(to_arrow_schema(struct, timezone="UTC"))


def to_spark(schema: pa.Schema) -> StructType:
    """The Spark schema of a table."""
    return from_arrow_schema(schema)


def from_delta(schema: DeltaSchema) -> pa.Schema:
    """The table schema that a Delta log records."""
    return normalised(pa.schema(schema.to_arrow()))


def to_delta(schema: pa.Schema) -> DeltaSchema:
    """The schema as a Delta log records it."""
    return DeltaSchema.from_arrow(schema)


def normalised(schema: pa.Schema) -> pa.Schema:
    """The same columns with one spelling of each type: no large or view types, no metadata."""
    return pa.schema([pa.field(field.name, plain(field.type)) for field in schema])


def without(schema: pa.Schema, columns: tuple[str, ...]) -> pa.Schema:
    """The schema less some columns."""
    return pa.schema([field for field in schema if field.name not in columns])


def require_same(found: pa.Schema, wanted: pa.Schema, where: str) -> None:
    """Checks names, order and types.

    Args:
        found: The schema at hand.
        wanted: The schema agreed on.
        where: Table or file, for the message.

    Raises:
        SchemaError: A column is missing, superfluous, misplaced or of another type.
    """
    found, wanted = normalised(found), normalised(wanted)
    remedy = "Write this table with the schema it was created with, or start a new table."
    missing = [name for name in wanted.names if name not in found.names]
    if missing:
        raise SchemaError(f"{where}, column {missing[0]}", "is missing", remedy)
    superfluous = [name for name in found.names if name not in wanted.names]
    if superfluous:
        raise SchemaError(f"{where}, column {superfluous[0]}", "is not in the table", remedy)
    for field in wanted:
        actual = found.field(field.name).type
        if actual != field.type:
            raise SchemaError(
                f"{where}, column {field.name}", f"has type {actual}, not {field.type}", remedy
            )
    if found.names != wanted.names:
        raise SchemaError(where, f"has its columns in the order {found.names}", remedy)


_LISTS = (
    pa.types.is_list,
    pa.types.is_large_list,
    pa.types.is_list_view,
    pa.types.is_fixed_size_list,
)


def plain(kind: pa.DataType) -> pa.DataType:
    """One spelling of a type: no large, view or dictionary types, timestamps in microseconds."""
    if pa.types.is_dictionary(kind):
        return plain(kind.value_type)
    if isinstance(kind, pa.BaseExtensionType):
        return plain(kind.storage_type)
    if pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        return pa.string()
    if pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind):
        return pa.binary()
    if pa.types.is_timestamp(kind):
        return pa.timestamp("us", tz="UTC" if kind.tz else None)
    return _plain_nested(kind) if pa.types.is_nested(kind) else kind


def _plain_nested(kind: pa.DataType) -> pa.DataType:
    if any(is_kind(kind) for is_kind in _LISTS):
        return pa.list_(plain(kind.value_type))
    if pa.types.is_map(kind):
        return pa.map_(plain(kind.key_type), plain(kind.item_type))
    if pa.types.is_struct(kind):
        return pa.struct([pa.field(field.name, plain(field.type)) for field in kind])
    return kind
