"""The columns that every format gives to `clean`: the contract's, what is kept, and the origin."""

from __future__ import annotations

from collections.abc import Mapping

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F
from pyspark.sql.types import ArrayType, BinaryType, MapType, StructType

from pipeline.config import OTHER_COLUMNS, Files
from pipeline.sources.raw import FILE, JSON_OPTIONS, MALFORMED, POSITION


def assembled(
    frame: DataFrame, files: Files, values: Mapping[str, Column], new: Mapping[str, Column]
) -> DataFrame:
    """Rows with the columns that `Rows.frames` promises.

    Args:
        frame: Rows with `FILE` and `POSITION`, and `MALFORMED` where lines are parsed.
        files: The contract and its policies.
        values: Column of the contract to its value; those that the files lack are left out.
        new: Columns outside of the contract, by name.
    """
    kept = []
    if files.policies.new_column == "keep":
        kept = [_other_columns(new, frame.schema)]
    malformed = F.col(MALFORMED) if MALFORMED in frame.columns else F.lit(None).cast("string")
    return frame.select(
        *(values.get(name, _absent(files, name)).alias(name) for name in files.columns),
        *kept,
        FILE,
        POSITION,
        malformed.alias(MALFORMED),
    )


def _absent(files: Files, name: str) -> Column:
    """What stands for a column that a file lacks."""
    column = files.columns[name]
    value = column.default if files.policies.missing_column == "default" else None
    if value is None:
        return F.lit(None).cast("string")
    return F.lit(value).cast(column.type)  # which was tried when the files were found


def _other_columns(values: Mapping[str, Column], schema: StructType) -> Column:
    """Columns outside of the contract as one map from name to text; null where there is none.

    Args:
        values: Name to column.
        schema: Of the frame that has them; a name that it lacks is one of a text.
    """
    pairs = [
        part
        for name, value in values.items()
        for part in (F.lit(name), _as_text(value, schema, name))
    ]
    texts = F.create_map(*pairs) if pairs else F.lit(None)
    return texts.cast("map<string,string>").alias(OTHER_COLUMNS)


def _as_text(value: Column, schema: StructType, name: str) -> Column:
    kind = schema[name].dataType if name in schema.names else None
    if isinstance(kind, ArrayType | MapType | StructType):
        return F.to_json(value, JSON_OPTIONS)
    return F.base64(value) if isinstance(kind, BinaryType) else value.cast("string")
