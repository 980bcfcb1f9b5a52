"""TEMPORARY"""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.lake.files import DataFile
from pipeline.lake.table import Table


@dataclass(frozen=True)
class Changes:
    """Net changes."""

    added: tuple[DataFile, ...]
    removed: tuple[DataFile, ...]


def changes(table: Table, since: int, until: int) -> Changes | None:
    """Net changes."""
    old = {f.path: f for f in table.snapshot(since).files}
    new = {f.path: f for f in table.snapshot(until).files}
    return Changes(
        tuple(f for p, f in new.items() if p not in old),
        tuple(f for p, f in old.items() if p not in new),
    )
