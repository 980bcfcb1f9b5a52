"""Metrics of each task, exact over all rows of a split and over all ranks.

A `Meter` keeps a few numbers a row (the evidence), brings those of all ranks together and measures
once: an AUROC cannot be averaged over batches.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.config import METRICS, TaskName
from pipeline.training.ranks import Ranks
from pipeline.training.tasks import TASKS

_LOWER_IS_BETTER = {
    metric.name for task in TASKS.values() for metric in task.metrics if metric.lower_is_better
}


@dataclass(frozen=True, kw_only=True)
class Metrics:
    """How good the predictions for one split are."""

    values: Mapping[str, float]
    """By name, see `pipeline.config.METRICS`; NaN where the rows do not allow one."""
    rows: int

    def to_dict(self) -> dict[str, float]:
        """The metrics by name, and the rows."""
        return {**self.values, "rows": self.rows}

    @classmethod
    def from_dict(cls, values: Mapping[str, float]) -> Metrics:
        """The metrics that `to_dict` was called on."""
        rest = {name: value for name, value in values.items() if name != "rows"}
        return cls(values=rest, rows=int(values["rows"]))

    def __str__(self) -> str:
        return "  ".join(f"{name} {value:.4f}" for name, value in self.values.items())


def is_better(metric: str, one: float, other: float) -> bool:
    """Whether `one` is better than `other`; a NaN is never better, and anything is than a NaN."""
    if math.isnan(one) or math.isnan(other):
        return math.isnan(other) and not math.isnan(one)
    return one < other if metric in _LOWER_IS_BETTER else one > other


class Meter:
    """Collects a split's evidence, batch after batch, and measures it once.

    Args:
        task: What is predicted.
        ranks: Who measures together.
    """

    def __init__(self, task: TaskName, ranks: Ranks | None = None) -> None:
        self._task = task
        self._ranks = ranks or Ranks()
        self._parts: list[Tensor] = []

    def update(self, evidence: Tensor) -> None:
        """Adds a batch.

        Args:
            evidence: Float64 [rows, k], what `Task.evidence` returns.
        """
        self._parts.append(evidence.detach().cpu())

    def compute(self) -> Metrics:
        """The metrics over all rows so far, of all ranks; every rank must ask."""
        own = torch.cat(self._parts) if self._parts else None
        rows = self._ranks.gather_rows(own)
        count = 0 if rows is None else len(rows)
        # Ranks and classes of what is no number would look like figures.
        if rows is None or not count or rows.isnan().any():
            return Metrics(values=dict.fromkeys(METRICS[self._task], math.nan), rows=count)
        values = {metric.name: metric.measure(rows) for metric in TASKS[self._task].metrics}
        return Metrics(values=values, rows=count)
