"""Joins: small right sides, broadcast, by a key that is unique.

Right sides with times are read and checked here as well; `asof.py` joins them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import reduce

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from pipeline.clean.contract import typed
from pipeline.config import Join
from pipeline.errors import JoinError
from pipeline.sources.raw import reading


def right_side(groups: list[DataFrame], join: Join) -> DataFrame:
    """The right side by its contract; a value that does not cast is missing.

    Returns:
        The columns of the key and of `select`, rows with a null in the key left out: they never
        match. To the key belongs the time of a point-in-time join.
    """
    frame = reduce(
        DataFrame.unionByName, [typed(group, join.columns, join.time_zone) for group in groups]
    )
    key = [column for _, column in join.compared]
    return frame.select(*dict.fromkeys((*key, *join.select.values()))).dropna(subset=key)


def require_joinable(
    left: DataFrame,
    right: DataFrame,
    join: Join,
    name: str,
    is_sensitive: Callable[[str], bool] = lambda _: False,
) -> None:
    """Refuses a right side that would multiply rows, or end the job; reads it once.

    Args:
        left: Accepted rows.
        right: The right side by its contract.
        join: Which columns meet.
        name: The join's, for messages.
        is_sensitive: Whether a column of the left side is: its values are in no message.

    Raises:
        JoinError: A key, or a key at one time, occurs more than once, or has other types than the
            left side's.
        SourceError: The right side's files cannot be read.
    """
    where = f"clean.joins.{name}.{'on' if join.asof is None else 'asof'}"
    require_same_types(left, right, join.compared, where)
    key = list(dict.fromkeys(column for _, column in join.compared))
    doubled = right.groupBy(*key).count().where("count > 1").orderBy(F.desc("count"), *key)
    with reading(f"clean.joins.{name}"):
        worst = doubled.head()
    if worst is None:
        return
    contracts = [join.column_of(column) for column in key]
    hidden = any(is_sensitive(left_column) for left_column, _ in join.compared) or any(
        column is not None and column.sensitive for column in contracts
    )
    values = ", ".join(f"{column}={worst[column]}" for column in key)
    shown = "one key, which is sensitive" if hidden else values
    found = f"the right side holds {worst['count']} rows with {shown}"
    if join.asof is not None:
        raise JoinError(
            where,
            f"{found}: which of them holds is not known",
            "Leave one row for each key and time, or add a column to the key.",
        )
    raise JoinError(
        where,
        f"{found}: rows would double",
        "Join by a unique key, or make the right side unique.",
    )


def require_same_types(
    left: DataFrame, right: DataFrame, pairs: Iterable[tuple[str, str]], where: str
) -> None:
    """Refuses columns that are compared and have two types.

    Args:
        left: Rows of one side.
        right: And of the other.
        pairs: Column of the left side and column of the right side.
        where: The setting, for the message.

    Raises:
        JoinError: It names the first.
    """
    for left_column, right_column in pairs:
        kinds = [left.schema[left_column].dataType, right.schema[right_column].dataType]
        if kinds[0] != kinds[1]:
            shown = " and ".join(kind.simpleString() for kind in kinds)
            raise JoinError(
                where,
                f"{left_column} and {right_column} are {shown}",
                "Give both the same type in their contracts.",
            )


def joined(left: DataFrame, right: DataFrame, join: Join) -> DataFrame:
    """The left rows, each once, with the right side's columns or nulls."""
    keys = {column: f"_key_{index}" for index, column in enumerate(join.on.values())}
    selected = right.select(
        *(F.col(column).alias(alias) for column, alias in keys.items()),
        *(F.col(column).alias(new) for new, column in join.select.items()),
    )
    condition = [
        F.col(left_column) == F.col(keys[right_column])
        for left_column, right_column in join.on.items()
    ]
    return left.join(F.broadcast(selected), condition, "left").drop(*keys.values())
