"""Hive partitions as the old `pyarrow.parquet` described them, and filters on them."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Sequence
from typing import Any
from urllib.parse import unquote

import pyarrow as pa

from pipeline.errors import StreamError

Condition = tuple[str, str, Any]

_COMPARE: dict[str, Callable[[Any, Any], bool]] = {
    "=": operator.eq,
    "==": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
    "in": lambda value, among: value in among,
    "not in": lambda value, among: value not in among,
}


class PartitionLevel:
    """One level of folders `name=value`; values are kept in the order they were met."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.keys: list[str] = []

    def index_of(self, value: str) -> int:
        """Returns the value's index, after adding it where it is new."""
        if value not in self.keys:
            self.keys.append(value)
        return self.keys.index(value)

    @property
    def dictionary(self) -> pa.Array:
        """The values as int64 where all of them are integers, else as strings."""
        try:
            return pa.array([int(key) for key in self.keys], pa.int64())
        except ValueError:
            return pa.array(self.keys, pa.string())


class Partitions:
    """The levels of a Hive-partitioned folder, outermost first."""

    def __init__(self) -> None:
        self.levels: list[PartitionLevel] = []

    @property
    def partition_names(self) -> set[str]:
        """The names of the partition columns."""
        return {level.name for level in self.levels}

    def keys_of(self, folders: Sequence[str]) -> list[tuple[str, int]]:
        """Returns name and value index for each `name=value` among a file's folders."""
        pairs = [folder.split("=", 1) for folder in folders if "=" in folder]
        for name, _ in pairs[len(self.levels) :]:
            self.levels.append(PartitionLevel(name))
        return [
            (name, level.index_of(unquote(value)))
            for level, (name, value) in zip(self.levels, pairs, strict=False)
        ]

    def accepts(self, keys: Sequence[tuple[str, int]], conditions: Sequence[Condition]) -> bool:
        """Whether a piece with these partition keys fulfils all conditions."""
        levels = {level.name: level for level in self.levels}
        values = {name: levels[name].dictionary[index].as_py() for name, index in keys}
        return all(_COMPARE[op](values[name], operand) for name, op, operand in conditions)

    def __len__(self) -> int:
        return len(self.levels)

    def __getitem__(self, index: int) -> PartitionLevel:
        return self.levels[index]

    def __iter__(self) -> Iterator[PartitionLevel]:
        return iter(self.levels)


def normalize_filters(
    filters: Sequence[Any] | None, partitions: Partitions | None
) -> list[list[Condition]]:
    """Brings filters into disjunctive normal form and refuses what would be ignored.

    Args:
        filters: A list of conditions, or a list of such lists of which one must hold.
        partitions: The levels of the folder, None for a list of files.

    Raises:
        StreamError: A condition is on a column that is not a partition of the folder, or uses an
            operator that does not exist. The old implementation ignored the former silently.
    """
    if not filters:
        return []
    groups = [filters] if isinstance(filters[0], tuple) else filters
    known = partitions.partition_names if partitions else set()
    for name, op, _ in (condition for group in groups for condition in group):
        if name not in known:
            raise StreamError(
                f"filters on {name!r}",
                f"not a partition column; there are {sorted(known) or 'none'}",
                "Filter on a partition column, or give a predicate.",
            )
        if op not in _COMPARE:
            raise StreamError(
                f"filters on {name!r}", f"unknown operator {op!r}", f"Use one of {list(_COMPARE)}."
            )
    return [list(group) for group in groups]
