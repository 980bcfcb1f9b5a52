"""What most likely is wrong where most values of a column do not cast."""

from __future__ import annotations

from collections.abc import Mapping

from pipeline.clean.quality import Counts
from pipeline.config import Column
from pipeline.config.types import atoms

_SHARE = 0.5
_TIMES = frozenset({"date", "timestamp", "timestamp_ntz"})


def hints(counts: Counts, columns: Mapping[str, Column]) -> list[str]:
    """A line for each column of which most values do not cast, with the setting to look at.

    Args:
        counts: Rows by reason.
        columns: The contract.
    """
    told = []
    for name, column in columns.items():
        failed = counts.by_reason.get(f"cast:{name}", 0)
        if failed > counts.raw * _SHARE:
            told.append(
                f"column {name}: {failed:,} of {counts.raw:,} values are no {column.type} as it is "
                f"described: see {_setting(name, column)}"
            )
    return told


def _setting(name: str, column: Column) -> str:
    place = f"source.columns.{name}"
    kinds = {str(kind) for kind in atoms(column.kind)}
    if kinds & _TIMES:
        return f"{place}.format, such as dd/MM/yyyy; ISO 8601 is expected without it"
    if kinds - {"string", "boolean", "binary"}:
        return f"{place}.decimal_separator and {place}.grouping, or {place}.type"
    return f"{place}.type"
