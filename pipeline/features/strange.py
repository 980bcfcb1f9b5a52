"""Rows with strange values: on these two engines differ that agree on all others.

Of each column that features are made of, its least and its greatest value, and null where it
occurs. Of columns that derived ones read, also null and values at which functions of one name part
ways, whether the pipeline's rows hold them or not: rows that come later may. A number halfway
between two is rounded to even, away from zero or cut off; text is a number to one engine and not to
the other.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from pyspark.sql import DataFrame
from pyspark.sql import functions as F
from pyspark.sql.types import (
    AtomicType,
    DataType,
    DateType,
    DecimalType,
    FractionalType,
    IntegralType,
    StringType,
    TimestampNTZType,
    TimestampType,
)

ROWS = 3
"""Rows in which each value stands, one column at a time."""
_WHICH = "_which"

_TIMES = (
    "1969-12-31 23:59:59.999999",
    "2024-01-31 00:00:00",
    "2024-02-29 23:59:59.5",
    "2024-03-31 01:30:00",  # summer time begins in Europe
    "2024-10-27 00:30:00",
    "2024-12-30 12:00:00",  # of the first week of 2025
)
_TEXTS = ("", " ", " 7 ", "+7", "-8", "12.7", "1e3", "NaN", "1_000", "true", "2024-2-9", "a\\b%_$1")
_LETTERS = ("Stra\u00dfe", "\u0130\u0131", "\u039f\u03a3", "e\u0301", "\U0001f600x")
"""Sharp s, dotted and dotless i, a final sigma, a combining accent, a letter beyond 16 bits."""

EDGES: dict[type[DataType], tuple[Any, ...]] = {
    IntegralType: (-8, -1, 0, 1, 7),
    DecimalType: ("-2.5", "-0.5", "0", "0.5", "1.5"),
    FractionalType: (-2.5, -0.5, 0.0, 0.5, 1.5, 2.675, 1e17, "NaN", "Infinity", "-Infinity"),
    StringType: (*_TEXTS, *_LETTERS),
    DateType: ("1899-12-31", *(time[:10] for time in _TIMES)),
    TimestampType: _TIMES,
    TimestampNTZType: _TIMES,
}
"""Spark's type -> values, as they can be cast to it; the first type that fits counts."""


def strange_rows(
    clean: DataFrame, columns: Sequence[str], derived_from: Collection[str]
) -> DataFrame:
    """A few rows, again and again, each time with one column at a strange value.

    Some kinds refuse null: it is tried where a column has nulls, or a derived one reads it. Finding
    whole rows with these values took ten times as long as finding the values.

    Args:
        clean: The rows.
        columns: Those that features are made of.
        derived_from: Those of them that derived columns read.
    """
    types = {field.name: field.dataType for field in clean.schema}
    ordered = [c for c in columns if isinstance(types[c], AtomicType)]
    measures = [F.min(c).alias(f"least {c}") for c in ordered]
    measures += [F.max(c).alias(f"greatest {c}") for c in ordered]
    measures += [F.count_if(F.col(c).isNull()).alias(f"nulls {c}") for c in columns]
    found = clean.agg(*measures).head() if measures else None
    if found is None:
        return clean.limit(0)
    values = [(c, found[f"{end} {c}"]) for c in ordered for end in ("least", "greatest")]
    values += [(c, None) for c in columns if found[f"nulls {c}"]]
    values += [(c, edge) for c in ordered if c in derived_from for edge in _edges(types[c])]
    which = F.explode(F.sequence(F.lit(0), F.lit(len(values))))
    rows = clean.limit(ROWS).withColumn(_WHICH, which)
    changed = {name: F.col(name) for name in columns}
    for place, (name, strange) in enumerate(values):
        other = F.lit(strange).try_cast(types[name])
        changed[name] = F.when(F.col(_WHICH) == place, other).otherwise(changed[name])
    return rows.withColumns(changed).drop(_WHICH)


def _edges(kind: DataType) -> tuple[Any, ...]:
    found = (edges for each, edges in EDGES.items() if isinstance(kind, each))
    return next(((None, *edges) for edges in found), ())
