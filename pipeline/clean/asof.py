"""Point-in-time joins: of the right rows with the key, the latest that is not after the event.

Both sides become one frame, which a window walks in the order of time within each key: every event
gets the last right row that came before it. Each side is shuffled and sorted once, whatever its
size, and a group that is larger than memory goes to disk.

Spark 4.3 has joins of its own for this, and none of them does. `ASOF JOIN` (off by default) scans
the history of the key from its beginning for every event: of 1,000,000 events and 200,000 right
rows it took 4.3, 9.6 and 34.6 CPU seconds with 10, 200 and 1,000 right rows a key, where the window
took 4.4, 3.9 and 3.2 (`benchmarks/asof.py`). `DataFrame._joinAsOf` on times plans a nested loop
over all pairs, whatever the keys, or, with that operator switched on, fails to plan. And both
take any one of two right rows of the same time.
"""

from __future__ import annotations

from datetime import timedelta
from decimal import ROUND_FLOOR, Context, Decimal
from functools import reduce
from operator import or_

from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F
from pyspark.sql.types import DataType, DateType, DecimalType, FractionalType

from pipeline.config import Asof, Join
from pipeline.sources.raw import quoted

_EVENT, _STATE, _TIME, _SIDE, _APART = "_event", "_state", "_time", "_side", "_apart"
_OF_RIGHT, _OF_LEFT = 0, 1
"""Values of `_SIDE`: of equal times the right row comes first, so that the event finds it."""


def joined_as_of(left: DataFrame, right: DataFrame, join: Join, asof: Asof) -> DataFrame:
    """The left rows, each once, with the columns of the right row that holds at their time.

    Args:
        left: Any rows, also equal ones.
        right: What `joins.right_side` gives: no null in a key or a time, no two rows of one key and
            time.
        join: Keys and columns to take.
        asof: Times to compare.

    Returns:
        The left columns and those of `join.select`, null where no right row holds.
    """
    keys = [f"_key_{place}" for place in range(len(join.on))]
    history = _events(left, join, asof, keys).unionByName(
        _states(right, join, asof, keys), allowMissingColumns=True
    )
    so_far = (
        Window.partitionBy(*keys, _APART)
        .orderBy(_TIME, _SIDE)
        .rowsBetween(Window.unboundedPreceding, Window.currentRow)
    )
    state = F.last(_STATE, ignorenulls=True).over(so_far)
    events = history.withColumn(_STATE, state).where(F.col(_SIDE) == _OF_LEFT)
    if asof.tolerance is not None:
        near = _is_near(left.schema[asof.left].dataType, asof.tolerance)
        events = events.withColumn(_STATE, F.when(near, F.col(_STATE)))
    return events.select(
        *(F.col(_EVENT).getField(name).alias(name) for name in left.columns),
        *(F.col(_STATE)["values"].getField(name).alias(name) for name in join.select),
    )


def _events(left: DataFrame, join: Join, asof: Asof, keys: list[str]) -> DataFrame:
    """The left rows, each whole in one column, so that no name of the other side meets theirs."""
    unknown = reduce(or_, (quoted(name).isNull() for name in (*join.on, asof.left)))
    # Rows that cannot match would all be one group, in one task: their own values spread them.
    spread = F.xxhash64(*(quoted(each.name) for each in left.schema if _has_hash(each.dataType)))
    return left.select(
        F.struct("*").alias(_EVENT),
        *(quoted(name).alias(key) for name, key in zip(join.on, keys, strict=True)),
        quoted(asof.left).alias(_TIME),
        F.lit(_OF_LEFT).alias(_SIDE),
        F.when(unknown, spread).alias(_APART),
    )


def _states(right: DataFrame, join: Join, asof: Asof, keys: list[str]) -> DataFrame:
    """The right rows, each with what it says and since when."""
    values = F.struct(*(quoted(column).alias(name) for name, column in join.select.items()))
    return right.select(
        *(quoted(name).alias(key) for name, key in zip(join.on.values(), keys, strict=True)),
        quoted(asof.right).alias(_TIME),
        F.lit(_OF_RIGHT).alias(_SIDE),
        F.struct(quoted(asof.right).alias("since"), values.alias("values")).alias(_STATE),
    )


def _has_hash(kind: DataType) -> bool:
    """Whether Spark can hash a type: maps it cannot, wherever they are."""
    return "map<" not in kind.simpleString()


def _is_near(kind: DataType, tolerance: int | float | timedelta) -> Column:
    """Whether the state found is no older than the tolerance; false where there is none."""
    event, since = F.col(_TIME), F.col(_STATE)["since"]
    # Infinite numbers have no difference, and that of far ones may be too large: then it is null.
    return F.coalesce((event == since) | _within(kind, tolerance), F.lit(False))


def _within(kind: DataType, tolerance: int | float | timedelta) -> Column:
    event, since = F.col(_TIME), F.col(_STATE)["since"]
    if not isinstance(tolerance, timedelta):
        if isinstance(kind, DecimalType):
            # Digits behind those of the type change nothing, and Spark's decimals end at 38.
            last_digit = Decimal(1).scaleb(-min(kind.scale, 18))
            limit = Decimal(str(tolerance)).quantize(last_digit, ROUND_FLOOR, Context(prec=38))
            return F.try_subtract(event, since) <= F.lit(limit)
        # The difference of two small numbers may be too large for their own type.
        wide = "double" if isinstance(kind, FractionalType) else "bigint"
        return F.try_subtract(event.cast(wide), since.cast(wide)) <= F.lit(tolerance)
    if isinstance(kind, DateType):
        days = F.unix_date(event).cast("bigint") - F.unix_date(since).cast("bigint")
        return days <= F.lit(tolerance.days)
    # Times without a zone count as UTC, the session's own, which has no hour twice.
    micros = [F.unix_micros(time.cast("timestamp")) for time in (event, since)]
    return F.try_subtract(*micros) <= F.lit(tolerance // timedelta(microseconds=1))
