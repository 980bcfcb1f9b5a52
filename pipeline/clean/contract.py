"""The contract: every raw column cast to its type, every fault of a row noted as a reason."""

from __future__ import annotations

from collections.abc import Mapping
from functools import reduce
from operator import or_

from pyspark.sql import Column as SparkColumn
from pyspark.sql import DataFrame
from pyspark.sql import functions as F
from pyspark.sql.types import ArrayType, BinaryType, MapType, StructType

from pipeline.clean.casts import cast
from pipeline.config import OTHER_COLUMNS, ROW_ID, Column, Pipeline
from pipeline.sources.raw import FILE, JSON_OPTIONS, MALFORMED, POSITION, quoted

REASONS = "_reasons"
UNREADABLE = "_unreadable"


def carried(pipeline: Pipeline) -> list[str]:
    """Columns that raw rows have once they are typed: the contract's, and those that we add."""
    added = [ROW_ID] if pipeline.clean.row_id is not None else []
    kept = [OTHER_COLUMNS] if pipeline.source.policies.new_column == "keep" else []
    return [*added, *pipeline.source.columns, *kept]


def carried_contract(pipeline: Pipeline) -> dict[str, Column]:
    """The columns of `carried`, as if the contract named all of them."""
    hidden = pipeline.is_sensitive(OTHER_COLUMNS)
    ours = {
        ROW_ID: Column(type="string"),
        OTHER_COLUMNS: Column(type="map<string,string>", sensitive=hidden),
    }
    return {name: pipeline.source.columns.get(name) or ours[name] for name in carried(pipeline)}


def typed(raw: DataFrame, columns: Mapping[str, Column], time_zone: str = "UTC") -> DataFrame:
    """Casts each column and notes what did not cast.

    A value that does not cast becomes null, its text goes to `UNREADABLE`; so does the text of a
    line that does not parse, under `MALFORMED`.

    Args:
        raw: The contract's columns as stored, with `FILE`, `POSITION` and `MALFORMED`.
        columns: The contract.
        time_zone: Of times that name none.

    Returns:
        The columns typed, `other_columns` if it is there, then `FILE`, `POSITION`, `REASONS` (array
        of string, such as `cast:distance` or `required:carrier`) and `UNREADABLE` (map from column
        to text, or null).
    """
    values: dict[str, SparkColumn] = {}
    failed: dict[str, SparkColumn] = {}
    for name, column in columns.items():
        values[name], fails = cast(quoted(name), raw.schema[name].dataType, column, time_zone)
        if fails is not None:
            failed[name] = fails
    unreadable = {MALFORMED: F.col(MALFORMED).isNotNull(), **failed}
    faults = {"malformed": unreadable[MALFORMED]}
    faults |= {f"cast:{name}": fails for name, fails in failed.items()}
    for name, column in columns.items():
        if column.required:
            absent = values[name].isNull()
            faults[f"required:{name}"] = absent & ~failed[name] if name in failed else absent
    entries = (F.when(it, _entry(raw, name)) for name, it in unreadable.items())
    texts = F.array_compact(F.array(*entries))
    kept = [name for name in (OTHER_COLUMNS,) if name in raw.columns and name not in columns]
    return raw.select(
        *(value.alias(name) for name, value in values.items()),
        *kept,
        FILE,
        POSITION,
        reasons_of(faults).alias(REASONS),
        F.when(reduce(or_, unreadable.values()), F.map_from_entries(texts)).alias(UNREADABLE),
    )


def with_row_id(frame: DataFrame, pipeline: Pipeline, key: str = "") -> DataFrame:
    """Adds the column `row_id`, where the pipeline asks for it.

    Args:
        frame: Typed rows.
        pipeline: The description.
        key: What ids by content are hashed with, where a column is sensitive: whoever sees the
            other values could try all that it may hold.
    """
    if pipeline.clean.row_id is None:
        return frame
    if pipeline.clean.row_id == "position":
        value = F.concat(F.col(FILE), F.lit("#"), F.col(POSITION))
    else:
        # By the raw text of what did not cast: rows are equal only if all of them is.
        raw = [name for name in carried(pipeline) if name != ROW_ID]
        content = F.struct(*map(quoted, raw), F.col(UNREADABLE))
        value = F.sha2(F.concat(F.lit(key), F.to_json(content, JSON_OPTIONS)), 256)
    return frame.withColumn(ROW_ID, value)


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


def _entry(raw: DataFrame, column: str) -> SparkColumn:
    """A column's name and text, for the map `UNREADABLE`."""
    value, kind = quoted(column), raw.schema[column].dataType
    if isinstance(kind, ArrayType | MapType | StructType):
        text = F.to_json(value, JSON_OPTIONS)
    else:
        text = F.base64(value) if isinstance(kind, BinaryType) else value.cast("string")
        text = F.make_valid_utf8(text)  # what is invalid may be why it is here
    return F.struct(F.lit(column).alias("key"), text.alias("value"))
