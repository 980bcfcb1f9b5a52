"""Metrics of each task, exact over all rows of a split and over all ranks.

A `Meter` keeps a few numbers a row (the evidence), brings those of all ranks together and measures
once: an AUROC cannot be averaged over batches. torchmetrics measures; it takes seconds to
import, so it is imported when there is something to measure: scoring has nothing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from pipeline.config import METRICS, Task
from pipeline.training.ranks import Ranks

_LOWER_IS_BETTER = {"log_loss", "rmse", "mae", "loss", "reconstruction", "kl"}


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

    def __init__(self, task: Task, ranks: Ranks | None = None) -> None:
        self._task = task
        self._ranks = ranks or Ranks()
        self._parts: list[Tensor] = []

    def update(self, evidence: Tensor) -> None:
        """Adds a batch.

        Args:
            evidence: Float64 [rows, k], what `evidence` returns.
        """
        self._parts.append(evidence.detach().cpu())

    def compute(self) -> Metrics:
        """The metrics over all rows so far, of all ranks; every rank must ask."""
        own = torch.cat(self._parts) if self._parts else None
        rows = self._ranks.gather_rows(own)
        names = METRICS[self._task]
        if rows is None or not len(rows):
            return Metrics(values=dict.fromkeys(names, math.nan), rows=0)
        return Metrics(values=_MEASURES[self._task](rows), rows=len(rows))


def evidence(task: Task, outputs: Tensor, labels: Tensor | None) -> Tensor:
    """What must be kept of each row to measure exactly.

    Computed in float64: float32 would tie all probabilities near 1.

    Args:
        task: What is predicted.
        outputs: Float [rows, outputs] of the network; for `reconstruction` its two losses,
            [rows, 2].
        labels: Of the task's type; None for `reconstruction`.

    Returns:
        Float64 [rows, k]: logit and label; log-likelihood, class and label; the logits, then the
        labels; value and label; reconstruction and KL.
    """
    exact = outputs.detach().double()
    if labels is None:
        return exact
    if task == "multiclass":
        losses = functional.cross_entropy(exact, labels.long(), reduction="none")
        return torch.stack([losses, exact.argmax(1).double(), labels.double()], dim=1)
    # [rows, outputs] beside [rows] or [rows, outputs] -> [rows, 2 * outputs]
    return torch.cat([exact, labels.double().reshape(len(exact), -1)], dim=1)


def _binary(rows: Tensor) -> dict[str, float]:
    logits, labels = rows.T
    truth = labels > 0.5
    return {
        "auroc": _auroc(logits, truth),
        "log_loss": functional.binary_cross_entropy_with_logits(logits, labels).item(),
        "accuracy": ((logits > 0) == truth).double().mean().item(),
    }


def _auroc(scores: Tensor, truth: Tensor) -> float:
    """Area under the ROC curve, ties counted half; NaN unless both classes occur."""
    if not 0 < int(truth.sum()) < len(truth):
        return math.nan
    from torchmetrics.functional.classification import binary_auroc

    # Ranks lie in [0, 1] whatever the scores are, so that torchmetrics takes them as they are.
    ranks = torch.unique(scores, return_inverse=True)[1].double() / len(scores)
    return float(binary_auroc(ranks, truth.int()))


def _multiclass(rows: Tensor) -> dict[str, float]:
    from torchmetrics.functional.classification import multiclass_f1_score

    losses, predicted, labels = rows.T
    classes = int(max(predicted.max(), labels.max())) + 1
    f1 = multiclass_f1_score(predicted.long(), labels.long(), max(2, classes), average="macro")
    return {
        "accuracy": (predicted == labels).double().mean().item(),
        "log_loss": losses.mean().item(),
        "f1": float(f1),
    }


def _multilabel(rows: Tensor) -> dict[str, float]:
    """The mean over the labels, each measured by itself."""
    outputs = rows.shape[1] // 2
    each = [_binary(rows[:, [label, outputs + label]]) for label in range(outputs)]
    return {name: sum(one[name] for one in each) / outputs for name in METRICS["multilabel"]}


def _regression(rows: Tensor) -> dict[str, float]:
    from torchmetrics.functional.regression import mean_absolute_error, mean_squared_error, r2_score

    values, labels = rows.T.contiguous()
    enough = len(rows) > 1 and bool(labels.var() > 0)
    return {
        "rmse": float(mean_squared_error(values, labels, squared=False)),
        "mae": float(mean_absolute_error(values, labels)),
        "r2": float(r2_score(values, labels)) if enough else math.nan,
    }


def _reconstruction(rows: Tensor) -> dict[str, float]:
    reconstruction, kl = rows.mean(0).tolist()
    return {"loss": reconstruction + kl, "reconstruction": reconstruction, "kl": kl}


_MEASURES: dict[Task, Any] = {
    "binary": _binary,
    "multiclass": _multiclass,
    "multilabel": _multilabel,
    "regression": _regression,
    "reconstruction": _reconstruction,
}
