"""Measures of logits beside labels of 0 and 1, which tasks with true and false labels share."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def auroc(rows: Tensor) -> float:
    """Area under the ROC curve, ties counted half; NaN unless both classes occur.

    Args:
        rows: Logit and label, float64 [rows, 2], as below.
    """
    import torch

    scores, truth = rows[:, 0], rows[:, 1] > 0.5
    if not 0 < int(truth.sum()) < len(truth):
        return math.nan
    # It takes seconds to import, and scoring measures nothing.
    from torchmetrics.functional.classification import binary_auroc

    # Ranks lie in [0, 1] whatever the scores are, so that torchmetrics takes them as they are.
    ranks = torch.unique(scores, return_inverse=True)[1].double() / len(scores)
    return float(binary_auroc(ranks, truth.int()))


def log_loss(rows: Tensor) -> float:
    """Mean cross-entropy, in nats."""
    from torch.nn import functional

    logits, labels = rows.T
    return float(functional.binary_cross_entropy_with_logits(logits, labels))


def accuracy(rows: Tensor) -> float:
    """Share of rows whose more probable side is the true one."""
    logits, labels = rows.T
    return float(((logits > 0) == (labels > 0.5)).double().mean())
