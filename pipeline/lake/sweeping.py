"""Deleting what no version in reach uses: data files, and what is left of broken attempts."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence

from pipeline.lake.files import is_data
from pipeline.lake.table import Table

_ATTEMPT = re.compile("[0-9a-f]{32}")
_SECONDS_PER_HOUR = 3600


def sweep(table: Table, retention_hours: int, keep_versions: Sequence[int] = ()) -> list[str]:
    """Vacuums a table, and removes attempts' folders that hold no data file any more.

    Vacuum passes by what Spark had not finished (`_temporary`) and by its checksums. As with
    vacuum, whatever is younger than the retention may belong to a running attempt and stays.

    Args:
        table: The table; it must exist.
        retention_hours: Must exceed the longest run.
        keep_versions: Versions whose files stay whatever their age.

    Returns:
        Data files deleted, relative to the table.
    """
    deleted = table.vacuum(retention_hours, keep_versions)
    oldest = time.time() - retention_hours * _SECONDS_PER_HOUR
    for name in table.folder.subfolders():
        if _ATTEMPT.fullmatch(name) and not _in_use(table, name, oldest):
            table.folder.remove(name)
    return deleted


def _in_use(table: Table, attempt: str, oldest: float) -> bool:
    """Whether it holds a data file, or anything young."""
    held = table.folder.below(attempt)
    return held.modified_seconds() > oldest or any(
        is_data(entry) or entry.modified_seconds > oldest for entry in held.entries()
    )
