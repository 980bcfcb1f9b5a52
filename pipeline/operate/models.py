"""The registered models, for people as tables and for programs as plain values."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.markup import escape
from rich.table import Table as Grid

from pipeline.lake import Lake
from pipeline.training.registry import Registry, registered_models


def listed(lake: Lake) -> dict[str, list[dict[str, Any]]]:
    """All models where a lake's are registered: name to versions, the newest first.

    Returns:
        For each version `version`, `aliases`, `metrics` (by split and name) and `decision`.

    Raises:
        ModelError: MLflow cannot be reached or read.
    """
    return {
        name: [
            {
                "version": found.version,
                "aliases": list(found.aliases),
                "metrics": found.metrics,
                "decision": found.decision,
            }
            for found in Registry(lake, name).versions()
        ]
        for name in registered_models(lake)
    }


def model_grid(name: str, versions: Sequence[dict[str, Any]]) -> Grid:
    """One model's versions as a table."""
    grid = Grid(title=escape(f"model {name}"), title_justify="left")
    for column in ("version", "aliases", "metrics", "decision"):
        grid.add_column(column)
    for version in versions:
        metrics = "\n".join(
            f"{split}: " + "  ".join(f"{key} {value:,.4g}" for key, value in values.items())
            for split, values in sorted(version["metrics"].items())
        )
        aliases, decision = ", ".join(version["aliases"]), version["decision"] or "not compared"
        grid.add_row(str(version["version"]), escape(aliases), metrics, escape(decision))
    return grid
