"""Quarantined rows as raw rows again.

A row in `quarantine` is the JSON of its typed values, and the text of those that did not cast. The
values are read back exactly, and are taken as they are; the texts are given to the contract as a
raw file would give them. What cannot be brought back exactly stays where it is.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import reduce
from operator import or_
from typing import Final

from pyspark.sql import Column as SparkColumn
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from pipeline.clean.contract import REASONS, UNREADABLE, typed
from pipeline.clean.sensitive import PREFIX, as_json
from pipeline.config import Column
from pipeline.config.types import Decimal, is_nested
from pipeline.sources.raw import FILE, JSON_TIMES, MALFORMED, POSITION

STAYS = "_stays"
"""Why a row cannot be judged again; null where it can."""
BROKEN_LINE: Final = "malformed"
HASHED: Final = "sensitive"
INEXACT: Final = "inexact"
WAS = "_was"
"""The reasons that a row has in `quarantine` now."""
_ROW, _LEFT = "_row", "_left"
_READ, _VALUES, _HASHES, _TEXTS, _FAILED = "_read", "_values", "_hashes", "_texts", "_failed"
# Spark reads the keys of a map as text only.
_HASH = rf"^{PREFIX}[0-9a-f]{{64}}$"
_OTHER_KEYS = re.compile(r"map<(?!string,)")


def raw_again(stored: DataFrame, contract: Mapping[str, Column]) -> DataFrame:
    """Rows of `quarantine`, taken apart.

    Args:
        stored: The table's columns.
        contract: The contract, whose types are those of the table `clean`.

    Returns:
        For `typed_again`: values of today's types, the texts that did not cast, and `STAYS`; for
        `staying`: the columns as they were.
    """
    sensitive = {name: column for name, column in contract.items() if column.sensitive}
    read = F.struct(
        F.from_json("row", _ddl(contract), JSON_TIMES).alias(_VALUES),
        F.from_json("row", _ddl(sensitive, as_text=True)).alias(_HASHES)
        if sensitive
        else F.lit(None).alias(_HASHES),
        F.from_json("unreadable", "map<string,string>").alias(_TEXTS),
    )
    parsed = stored.select(
        F.col("source_file").alias(FILE),
        F.col("source_position").alias(POSITION),
        F.col("reasons").alias(WAS),
        F.col("row").alias(_ROW),
        F.col("unreadable").alias(_LEFT),
        # Exploded, as Spark would read the JSON once for each column that is taken from it.
        F.explode(F.array(read)).alias(_READ),
    ).withColumns({name: F.col(_READ)[name] for name in (_VALUES, _TEXTS, _HASHES)})
    valued = parsed.withColumns(
        {_value(name): _read(F.col(_VALUES)[name], column) for name, column in contract.items()}
    )
    return valued.withColumn(STAYS, _why_it_stays(contract))


def staying(raw: DataFrame) -> DataFrame:
    """The rows that cannot be judged again, with the columns of the table `quarantine`."""
    return raw.where(F.col(STAYS).isNotNull()).select(
        F.col(FILE).alias("source_file"),
        F.col(POSITION).alias("source_position"),
        F.col(WAS).alias("reasons"),
        F.col(_ROW).alias("row"),
        F.col(_LEFT).alias("unreadable"),
    )


def typed_again(
    raw: DataFrame, contract: Mapping[str, Column], time_zone: str = "UTC"
) -> DataFrame:
    """The other rows as `contract.typed` gives them, with `WAS`.

    The contract is asked twice: what it makes of the texts, and then what it says of the rows whose
    values these complete.
    """
    values = {_value(name): Column(type=column.type) for name, column in contract.items()}
    optional = {
        name: column.model_copy(update={"required": False}) for name, column in contract.items()
    }
    texts = raw.where(F.col(STAYS).isNull()).select(
        *(_text(name, column).alias(name) for name, column in contract.items()),
        *values,
        WAS,
        *_origin(),
    )
    read = typed(texts, {**optional, **values, WAS: _REASONS}, time_zone)
    complete = read.select(
        *(F.coalesce(F.col(name), F.col(_value(name))).alias(name) for name in contract),
        F.col(REASONS).alias(_FAILED),
        F.col(UNREADABLE).alias(_TEXTS),
        WAS,
        *_origin(),
    )
    whole = typed(complete, {**contract, _FAILED: _REASONS, _TEXTS: _MAP, WAS: _REASONS})
    # A value that is there and does not cast is not missing.
    excused = F.transform(
        _FAILED, lambda reason: F.concat(F.lit("required:"), F.substr(reason, F.lit(6)))
    )
    return whole.withColumns(
        {
            REASONS: F.concat(F.col(_FAILED), F.array_except(F.col(REASONS), excused)),
            UNREADABLE: F.col(_TEXTS),
        }
    ).drop(_FAILED, _TEXTS)


# Columns that pass the contract as they are.
_REASONS = Column(type="array<string>")
_MAP = Column(type="map<string,string>")


def _origin() -> Sequence[SparkColumn]:
    return [F.col(FILE), F.col(POSITION), F.lit(None).cast("string").alias(MALFORMED)]


def _text(name: str, column: Column) -> SparkColumn:
    """The text that did not cast, or null."""
    if _is_opaque(column):
        return F.lit(None).cast(column.type)
    return F.try_element_at(_TEXTS, F.lit(name))


def _is_opaque(column: Column) -> bool:
    """Whether the text of a value that did not cast is for people only: no cast can read it."""
    return is_nested(column.kind) or column.type == "binary"


def _value(name: str) -> str:
    return f"_value_{name}"


def _ddl(columns: Mapping[str, Column], *, as_text: bool = False) -> str:
    """How Spark is to read the JSON."""
    return ", ".join(
        f"`{name}` {column.type if _is_read_typed(column) and not as_text else 'string'}"
        for name, column in columns.items()
    )


def _is_read_typed(column: Column) -> bool:
    """Whether a value is read in its own type: as text, Spark would read a decimal as a double."""
    if is_nested(column.kind):
        return _OTHER_KEYS.search(column.type) is None
    return isinstance(column.kind, Decimal)


def _read(value: SparkColumn, column: Column) -> SparkColumn:
    """A value of the contract's type from JSON; null where that is impossible."""
    if _is_read_typed(column):
        return value
    if column.type == "binary":
        return F.try_to_binary(value, F.lit("base64"))
    if is_nested(column.kind):
        return F.lit(None).cast(column.type)
    return value.try_cast(column.type)


def _why_it_stays(contract: Mapping[str, Column]) -> SparkColumn:
    def has_text(name: str) -> SparkColumn:
        return F.coalesce(F.map_contains_key(_TEXTS, name), F.lit(False))

    hashed = [
        F.col(_HASHES)[name].isNotNull() | has_text(name)
        for name, column in contract.items()
        if column.sensitive
    ]
    opaque = [has_text(name) for name, column in contract.items() if _is_opaque(column)]
    # A column that was sensitive when the row was rejected, and is no longer.
    hashed += [
        F.coalesce(F.col(_value(name)).rlike(_HASH), F.lit(False))
        for name, column in contract.items()
        if column.type == "string"
    ]
    again = as_json([F.col(_value(name)).alias(name) for name in contract])
    inexact = reduce(or_, opaque, ~again.eqNullSafe(F.col(_ROW)))
    return (
        F.when(has_text(MALFORMED), BROKEN_LINE)
        .when(reduce(or_, hashed, F.lit(False)), HASHED)
        .when(inexact, INEXACT)
    )
