"""What a run did, for people as tables and for programs as one JSON object."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from rich.markup import escape
from rich.table import Table as Grid

from pipeline.config import Pipeline
from pipeline.lake import Lake
from pipeline.outcome import Outcome

PREDICTIONS_SHOWN = 5
VALUES_SHOWN = 4
BYTES_SHOWN = 8


def stage_line(outcome: Outcome) -> str:
    """One line on a stage that has just ended."""
    done = "unchanged" if outcome.unchanged else f"{outcome.seconds:.1f} s"
    counts = "".join(f"\n    {name}: {rows:,}" for name, rows in outcome.counts.items())
    note = f"\n    {outcome.note}" if outcome.note else ""
    return (
        f"[bold]{outcome.stage}[/bold] {done}: {outcome.rows_in:,} rows in, "
        f"{outcome.rows_out:,} out, {outcome.rows_quarantined:,} quarantined, "
        f"{outcome.rows_dropped:,} dropped -> {escape(outcome.table)} version {outcome.version}"
        f"{escape(counts)}{escape(note)}"
    )


def summary_tables(
    outcomes: Sequence[Outcome], lake: Lake, is_sensitive: Callable[[str], bool] = lambda _: False
) -> list[Grid]:
    """Stages, metrics and a few predictions, as far as the run got there.

    Args:
        outcomes: Of the stages that ran.
        lake: Has the predictions.
        is_sensitive: Whether the values of a key must not be shown.
    """
    tables = [_stages(outcomes)]
    metrics = _metrics(outcomes)
    if metrics:
        tables.append(_metric_grid(metrics))
    if any(outcome.stage == "score" for outcome in outcomes):
        tables.append(_predictions(lake, is_sensitive))
    return tables


def summary_json(outcomes: Sequence[Outcome], pipeline: Pipeline, lake: Lake) -> str:
    """The same as one line of JSON.

    Returns:
        An object with `pipeline`, `lake`, `seed`, `stages` (a list in the order they ran),
        `metrics` (split to name to value) and, after scoring, `predictions`.
    """
    summary: dict[str, Any] = {
        "pipeline": pipeline.name,
        "lake": lake.root,
        "seed": pipeline.seed,
        "stages": [_without_metrics(outcome) for outcome in outcomes],
        "metrics": _metrics(outcomes),
    }
    for outcome in outcomes:
        if outcome.stage == "score":
            summary["predictions"] = {
                "table": outcome.table,
                "version": outcome.version,
                "rows": outcome.rows_out,
            }
    return json.dumps(summary)


def _without_metrics(outcome: Outcome) -> dict[str, Any]:
    facts = asdict(outcome)
    del facts["metrics"]
    return {**facts, "seconds": round(outcome.seconds, 3)}


def _metrics(outcomes: Sequence[Outcome]) -> Mapping[str, Mapping[str, float]]:
    return next((outcome.metrics for outcome in outcomes if outcome.metrics), {})


def _stages(outcomes: Sequence[Outcome]) -> Grid:
    grid = Grid(title="stages", title_justify="left")
    grid.add_column("stage")
    for name in ("rows in", "rows out", "quarantined", "dropped", "seconds"):
        grid.add_column(name, justify="right")
    grid.add_column("written")
    for outcome in outcomes:
        grid.add_row(
            outcome.stage,
            f"{outcome.rows_in:,}",
            f"{outcome.rows_out:,}",
            f"{outcome.rows_quarantined:,}",
            f"{outcome.rows_dropped:,}",
            f"{outcome.seconds:.1f}",
            escape(f"{outcome.table}@{outcome.version}")
            + (" (unchanged)" if outcome.unchanged else ""),
        )
    return grid


def _metric_grid(metrics: Mapping[str, Mapping[str, float]]) -> Grid:
    grid = Grid(title="metrics", title_justify="left")
    grid.add_column("split")
    names = list(next(iter(metrics.values())))
    for name in names:
        grid.add_column(name, justify="right")
    for split, values in metrics.items():
        grid.add_row(split, *(_shown(values[name]) for name in names))
    return grid


def _predictions(lake: Lake, is_sensitive: Callable[[str], bool]) -> Grid:
    snapshot = lake.table("predictions").snapshot()
    rows = snapshot.head(PREDICTIONS_SHOWN)
    grid = Grid(title=f"predictions ({snapshot.rows:,} rows)", title_justify="left")
    hidden = {"spec_hash", "source_version", "scored_at"}
    names = [name for name in rows.column_names if name not in hidden]
    for name in names:
        grid.add_column(name)
    for row in rows.to_pylist():
        shown = ("(withheld)" if is_sensitive(name) else _shown(row[name]) for name in names)
        grid.add_row(*map(escape, shown))
    return grid


def _shown(value: object) -> str:
    """A value in a few characters: keys may be binary, and predictions lists of any length."""
    if isinstance(value, list):
        rest = ", ..." if len(value) > VALUES_SHOWN else ""
        return f"[{', '.join(map(_shown, value[:VALUES_SHOWN]))}{rest}]"
    if isinstance(value, bytes):
        return value[:BYTES_SHOWN].hex() + ("..." if len(value) > BYTES_SHOWN else "")
    if isinstance(value, float) and not value.is_integer():
        return f"{value:.4f}"
    return f"{value:,.0f}" if isinstance(value, float) else str(value)
