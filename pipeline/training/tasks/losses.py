"""Losses of a number beside a label, and how they are added up over weighted rows."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from pipeline.training.tasks.task import Loss

    Elementwise = Callable[[Tensor, Tensor], Tensor]
    """(outputs, target) of one shape to the loss of each number, of that shape."""


def bce(outputs: Tensor, target: Tensor) -> Tensor:
    """Binary cross-entropy of logits, in nats."""
    from torch.nn import functional

    return functional.binary_cross_entropy_with_logits(outputs, target, reduction="none")


def mse(outputs: Tensor, target: Tensor) -> Tensor:
    """Squared error."""
    from torch.nn import functional

    return functional.mse_loss(outputs, target, reduction="none")


def mae(outputs: Tensor, target: Tensor) -> Tensor:
    """Absolute error."""
    from torch.nn import functional

    return functional.l1_loss(outputs, target, reduction="none")


def huber(outputs: Tensor, target: Tensor) -> Tensor:
    """Squared error up to a distance of 1, absolute error beyond."""
    from torch.nn import functional

    return functional.huber_loss(outputs, target, reduction="none")


def mean_over_outputs(elementwise: Elementwise) -> Loss:
    """The loss of a row is the mean over its outputs, each beside its label."""

    def loss(outputs: Tensor, target: Tensor, weights: Tensor | None) -> Tensor:
        # [rows] or [rows, labels] -> [rows, outputs]
        labels = target.to(outputs.dtype).reshape(outputs.shape)
        losses = weighted(elementwise(outputs, labels), weights)
        return losses.sum() / max(1, outputs.shape[1])

    return loss


def weighted(values: Tensor, weights: Tensor | None) -> Tensor:
    """Multiplies rows by their weights.

    Weights of 1 change no bit, in the forward pass or the backward one.

    Args:
        values: [rows, several].
        weights: [rows]; None leaves the values alone.
    """
    # [rows] -> [rows, 1]
    return values if weights is None else values * weights.to(values.dtype)[:, None]
