"""What the table `drift` holds, for people as tables and for programs as plain values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from rich.markup import escape
from rich.table import Table as Grid

from pipeline.operate.moment import told
from pipeline.scoring.drift_table import Measured


def listed(found: Sequence[Measured]) -> list[dict[str, Any]]:
    """Measurements as JSON can hold them: the pass, when it was, and its features."""
    return [
        {
            **asdict(each.of),
            "measured_at": each.measured_at.isoformat(),
            "features": list(each.rows),
        }
        for each in found
    ]


def drift_grid(measured: Measured) -> Grid:
    """One pass as a table, what moved most first; a rate's second number is the training's."""
    of, rows = measured.of, measured.rows
    grid = Grid(
        title=escape(
            f"drift of {of.model_name}@{of.model_version}: {rows[0]['rows']:,} rows ({of.scope}), "
            f"features version {of.source_version}, {told(measured.measured_at)} UTC"
        ),
        title_justify="left",
    )
    grid.add_column("feature")
    for name in ("PSI", "missing", "unknown"):
        grid.add_column(name, justify="right")
    grid.add_column("verdict")
    for row in sorted(rows, key=lambda row: (row["kind"], -row["psi"])):
        grid.add_row(
            escape(row["feature"]) + (" (scores)" if row["kind"] == "score" else ""),
            f"{row['psi']:.3f}",
            _rates(row, "missing_rate"),
            _rates(row, "unknown_rate"),
            escape(row["verdict"] + (f": {row['reason']}" if row["reason"] else "")),
        )
    return grid


def _rates(row: dict[str, Any], name: str) -> str:
    if row[name] is None:
        return ""
    return f"{row[name]:.1%} / {row[f'reference_{name}']:.1%}"
