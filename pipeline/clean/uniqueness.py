"""Keys that several rows have: found by an aggregate of the keys alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Literal

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from pipeline.config import ROW_ID, Clean, Pipeline
from pipeline.errors import RuleError, one_line

ROWS = "_rows"
_NEW = "_new"
_LONGEST_VALUE = 60
_BYTES_SHOWN = 8


@dataclass(frozen=True)
class Shared:
    """How many rows have a key that is not theirs alone."""

    keys: int
    rows: int
    example: str
    """The key of most rows, such as `id=7`; says so instead where a column is sensitive."""


def is_made_unique(clean: Clean, columns: Sequence[str]) -> bool:
    """Whether no two accepted rows can have the same values in these columns."""
    if clean.row_id == "position" and ROW_ID in columns:
        return True
    return clean.dedupe is not None and set(clean.dedupe.keys) <= set(columns)


def doubled(rows: DataFrame, columns: Sequence[str], present: DataFrame | None = None) -> DataFrame:
    """The keys that more than one row has, each with `ROWS`, how many have it; nulls are equal.

    Args:
        rows: The rows in question.
        columns: Their key.
        present: Rows that are there already; keys that only these share are left out.
    """
    keys = rows.select(*columns, F.lit(1).alias(_NEW))
    if present is not None:
        # Of all that is there first those few that have a rival: nothing else is moved.
        rivals = matching(present.select(*columns), rows, columns, "left_semi")
        keys = keys.unionByName(rivals.withColumn(_NEW, F.lit(0)))
    counted = keys.groupBy(*columns).agg(F.count(F.lit(1)).alias(ROWS), F.sum(_NEW).alias(_NEW))
    return counted.where((F.col(ROWS) > 1) & (F.col(_NEW) > 0)).drop(_NEW)


def shared(
    keys: DataFrame, columns: Sequence[str], is_sensitive: Callable[[str], bool]
) -> Shared | None:
    """Counts the keys that `doubled` found; None where there is none."""
    found = keys.agg(
        F.count(F.lit(1)).alias("keys"),
        F.sum(ROWS).alias("rows"),
        F.max(F.struct(ROWS, *columns)).alias("worst"),
    ).head()
    if found is None or not found["keys"]:
        return None
    example = ", ".join(f"{name}={_shown(found['worst'][name])}" for name in columns)
    if any(map(is_sensitive, columns)):
        example = "one that is not shown: a column is sensitive"
    return Shared(found["keys"], found["rows"], example)


def require_unique_keys(
    good: DataFrame, pipeline: Pipeline, present: DataFrame | None = None
) -> None:
    """Refuses rows that `features.keys` does not tell apart.

    Predictions carry these keys. Rows with the same one cannot be told apart afterwards, and a
    report over them, or a join with what came later, would count them more than once.

    Args:
        good: The accepted rows.
        pipeline: Names the keys.
        present: Rows of `clean` that stay.

    Raises:
        RuleError: Several rows have the same key.
    """
    keys = pipeline.features.keys
    if is_made_unique(pipeline.clean, keys):
        return
    found = shared(doubled(good, keys, present), keys, pipeline.is_sensitive)
    if found is not None:
        raise RuleError(
            "features.keys",
            f"{list(keys)} does not name one row: {found.rows:,} rows share {found.keys:,} keys, "
            f"such as {found.example}",
            "Nothing was committed; take out duplicates by clean.dedupe with these keys, name "
            "columns that tell rows apart, or write `keys: auto`.",
        )


def matching(
    rows: DataFrame,
    keys: DataFrame,
    columns: Sequence[str],
    how: Literal["left_semi", "left_anti"],
) -> DataFrame:
    """The rows whose key is among others, or is not; keys may be null, and are then equal."""
    wanted = keys.select(*(F.col(name).alias(f"_there_{name}") for name in columns))
    same = reduce(
        lambda one, other: one & other,
        (F.col(name).eqNullSafe(F.col(f"_there_{name}")) for name in columns),
    )
    return rows.join(wanted, same, how)


def _shown(value: object) -> str:
    if isinstance(value, bytes | bytearray):
        rest = "..." if len(value) > _BYTES_SHOWN else ""
        return bytes(value[:_BYTES_SHOWN]).hex() + rest
    text = one_line(value)
    return text if len(text) <= _LONGEST_VALUE else f"{text[:_LONGEST_VALUE]}..."
