"""The plan: which row groups a task scores, and into which partition."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.lake import Snapshot
from pipeline.stream import RowGroup, row_groups_of

ROWS_PER_TASK = 1_000_000


@dataclass(frozen=True)
class ScoreTask:
    """Row groups of one period, to be scored into one file."""

    period: str | None
    row_groups: tuple[RowGroup, ...]

    @property
    def rows(self) -> int:
        """Rows to score."""
        return sum(group.rows for group in self.row_groups)


def plan_tasks(
    features: Snapshot, period_column: str, rows_per_task: int = ROWS_PER_TASK
) -> list[ScoreTask]:
    """Cuts a snapshot into tasks, none across periods, the largest first.

    Args:
        features: The rows to score.
        period_column: The partition column that `predictions` keeps.
        rows_per_task: A task is closed when it has as many; a row group is never cut.

    Returns:
        Tasks that hold each row group with rows exactly once.

    Raises:
        RowGroupError: A file's footer cannot be read.
    """
    by_period: dict[str | None, list[str]] = {
        period: [] for period in features.partitions(period_column)
    }
    for file, uri in zip(features.files, features.uris(), strict=True):
        by_period[file.partition[period_column]].append(uri)
    tasks: list[ScoreTask] = []
    for period, files in by_period.items():
        tasks += _cut(
            period, [group for group in row_groups_of(files) if group.rows], rows_per_task
        )
    return sorted(tasks, key=lambda task: task.rows, reverse=True)


def _cut(period: str | None, row_groups: Sequence[RowGroup], rows_per_task: int) -> list[ScoreTask]:
    tasks: list[ScoreTask] = []
    open_groups: list[RowGroup] = []
    rows = 0
    for group in row_groups:
        open_groups.append(group)
        rows += group.rows
        if rows >= rows_per_task:
            tasks.append(ScoreTask(period, tuple(open_groups)))
            open_groups, rows = [], 0
    if open_groups:
        tasks.append(ScoreTask(period, tuple(open_groups)))
    return tasks
