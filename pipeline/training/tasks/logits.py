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

    Source: Hanley and McNeil, "The meaning and use of the area under a receiver operating
    characteristic (ROC) curve", Radiology 143, 1982: the share of pairs in the right order.
    """
    import torch

    scores, truth = rows[:, 0], rows[:, 1] > 0.5
    if not 0 < int(truth.sum()) < len(truth):
        return math.nan
    # torchmetrics adds up in float32. Of each score, how many rows of either class have it:
    values, place = torch.unique(scores, return_inverse=True)
    true, false = (
        torch.bincount(place[side], minlength=len(values)).double() for side in (truth, ~truth)
    )
    won = true * (false.cumsum(0) - false / 2)
    return float(won.sum() / (true.sum() * false.sum()))


def log_loss(rows: Tensor) -> float:
    """Mean cross-entropy, in nats."""
    from torch.nn import functional

    logits, labels = rows.T
    return float(functional.binary_cross_entropy_with_logits(logits, labels))


def accuracy(rows: Tensor) -> float:
    """Share of rows whose more probable side is the true one."""
    logits, labels = rows.T
    return float(((logits > 0) == (labels > 0.5)).double().mean())
