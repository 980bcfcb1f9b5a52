"""Deleting what no version in reach uses: data files, and what is left of broken attempts."""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Sequence
from pathlib import Path

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
    for folder in Path(table.root).iterdir():
        if _ATTEMPT.fullmatch(folder.name) and not _in_use(folder, oldest):
            shutil.rmtree(folder, ignore_errors=True)
    return deleted


def _in_use(folder: Path, oldest: float) -> bool:
    """Whether it holds a data file, or anything young."""
    for path in (folder, *folder.rglob("*")):
        parts = path.relative_to(folder).parts
        hidden = any(part.startswith(("_", ".")) for part in parts)
        if (path.suffix == ".parquet" and not hidden) or path.stat().st_mtime > oldest:
            return True
    return False
