"""Metrics of binary predictions, exact over all rows of a split."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import torch
from torch import Tensor
from torch.nn import functional
from torchmetrics.classification import BinaryAUROC


@dataclass(frozen=True, kw_only=True)
class Metrics:
    """How good the predictions for one split are."""

    auroc: float
    """Area under the ROC curve, ties counted half; NaN unless both classes occur."""
    log_loss: float
    """Mean of minus the log-likelihood in nats; NaN without rows."""
    accuracy: float
    """Share of rows on the right side of probability 0.5; NaN without rows."""
    rows: int

    def to_dict(self) -> dict[str, float]:
        """The metrics by name."""
        return asdict(self)


class Meter:
    """Collects a split's logits and labels, batch after batch, and measures them once.

    AUROC is exact and so needs every row: 16 bytes a row are held. It is computed from
    probabilities in float64, because torchmetrics guesses for each batch anew whether it was given
    logits, and because float32 would tie all probabilities near 1.
    """

    def __init__(self) -> None:
        self._auroc = BinaryAUROC(thresholds=None, validate_args=False)
        self._loss_sum = 0.0
        self._right = 0
        self._positive = 0
        self._rows = 0

    def update(self, logits: Tensor, labels: Tensor) -> None:
        """Adds a batch.

        Args:
            logits: Floats [rows].
            labels: float32 [rows], 0 or 1.
        """
        logits = logits.detach().cpu().double()
        labels = labels.detach().cpu().double()
        loss = functional.binary_cross_entropy_with_logits(logits, labels, reduction="sum")
        self._loss_sum += loss.item()
        self._right += int(((logits > 0) == (labels > 0.5)).sum())
        self._positive += int((labels > 0.5).sum())
        self._rows += len(labels)
        self._auroc.update(torch.sigmoid(logits), labels.int())

    def compute(self) -> Metrics:
        """The metrics over all rows so far."""
        if self._rows == 0:
            nan = float("nan")
            return Metrics(auroc=nan, log_loss=nan, accuracy=nan, rows=0)
        both = 0 < self._positive < self._rows
        return Metrics(
            auroc=float(self._auroc.compute()) if both else float("nan"),
            log_loss=self._loss_sum / self._rows,
            accuracy=self._right / self._rows,
            rows=self._rows,
        )


def auroc(scores: Tensor | Sequence[float], labels: Tensor | Sequence[float]) -> float:
    """Area under the ROC curve; NaN unless both classes occur.

    Args:
        scores: Any numbers that grow with the probability of class 1.
        labels: 0 or 1 for each score.
    """
    truth = torch.as_tensor(labels, dtype=torch.float64) > 0.5
    if not 0 < int(truth.sum()) < len(truth):
        return float("nan")
    ranked = torch.as_tensor(scores, dtype=torch.float64)
    # Ranks lie in [0, 1] whatever the scores are, so that torchmetrics takes them as they are.
    ranks = torch.unique(ranked, return_inverse=True)[1].double() / len(ranked)
    return float(BinaryAUROC(thresholds=None)(ranks, truth.int()))
