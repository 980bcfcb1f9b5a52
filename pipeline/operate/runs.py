"""The runs of a lake's schedules, for people as a table and for programs as plain values."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.markup import escape
from rich.table import Table as Grid

from pipeline.lake import Lake
from pipeline.operate.moment import told
from pipeline.operate.schedule.records import Run, RunTable, StageRun


def newest_runs(lake: Lake, limit: int) -> list[Run]:
    """The newest attempts, the newest first."""
    return RunTable(lake).read()[:limit]


def listed(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """Runs as JSON can hold them; `outcome` is null while one runs."""
    return [run.facts() for run in runs]


def runs_grid(runs: Sequence[Run]) -> Grid:
    """Runs as a table."""
    grid = Grid(title="runs", title_justify="left")
    for name in ("started (UTC)", "pipeline", "job", "attempt", "outcome", "ended", "what"):
        grid.add_column(name)
    for run in runs:
        grid.add_row(
            told(run.started_at),
            escape(run.pipeline),
            escape(run.job),
            str(run.attempt),
            run.outcome or "running",
            told(run.ended_at) if run.ended_at else "",
            escape(run.error or "\n".join(map(_stage, run.stages))),
        )
    return grid


def _stage(stage: StageRun) -> str:
    rows = f"{stage.rows_in:,} -> {stage.rows_out:,}"
    lost = {"quarantined": stage.rows_quarantined, "dropped": stage.rows_dropped}
    rest = "".join(f", {count:,} {name}" for name, count in lost.items() if count)
    same = " (unchanged)" if stage.unchanged else ""
    return f"{stage.table}@{stage.version}{same}: {rows}{rest}"
