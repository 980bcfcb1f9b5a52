"""Joins: small right sides, broadcast, by a key that is unique."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import reduce

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from pipeline.clean.contract import typed
from pipeline.clean.raw import reading
from pipeline.config import Join
from pipeline.errors import JoinError


def right_side(groups: list[DataFrame], join: Join) -> DataFrame:
    """The right side by its contract; a value that does not cast is missing.

    Returns:
        The columns of `on` and `select`, rows with a null in the key left out: they never match.
    """
    frame = reduce(DataFrame.unionByName, [typed(group, join.columns) for group in groups])
    return frame.select(
        *{**dict.fromkeys(join.on.values()), **dict.fromkeys(join.select.values())}
    ).dropna(subset=list(join.on.values()))


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
        JoinError: A key occurs more than once, or has other types than the left side's.
        SourceError: The right side's files cannot be read.
    """
    where = f"clean.joins.{name}.on"
    require_same_types(left, right, join.on, where)
    key = list(join.on.values())
    doubled = right.groupBy(*key).count().where("count > 1").orderBy(F.desc("count"), *key)
    with reading(f"clean.joins.{name}"):
        worst = doubled.head()
    if worst is not None:
        contracts = [join.column_of(column) for column in key]
        hidden = any(is_sensitive(name) for name in join.on) or any(
            column is not None and column.sensitive for column in contracts
        )
        values = ", ".join(f"{column}={worst[column]}" for column in key)
        shown = "one key, which is sensitive" if hidden else values
        raise JoinError(
            where,
            f"the right side holds {worst['count']} rows with {shown}: rows would double",
            "Join by a unique key, or make the right side unique.",
        )


def require_same_types(
    left: DataFrame, right: DataFrame, on: Mapping[str, str], where: str
) -> None:
    """Refuses columns that are compared and have two types.

    Raises:
        JoinError: It names the first.
    """
    for left_column, right_column in on.items():
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
