"""How far a model has scored: known by the commits of `predictions` alone."""

from __future__ import annotations

from pipeline.lake import Lake, Snapshot

PREDICTIONS = "predictions"


def scoring_app(name: str, version: int) -> str:
    """Who commits a model's predictions."""
    return f"score/{name}@{version}"


def reached(lake: Lake, name: str, version: int, features: Snapshot) -> int | None:
    """The version of its features whose rows a model has scored, all; None before its first."""
    app = f"{scoring_app(name, version)}/{features.table_id}"
    return lake.table(PREDICTIONS).transaction_version(app)
