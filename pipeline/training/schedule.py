"""How the learning rate goes over a training's steps."""

from __future__ import annotations

import math

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from pipeline.config import Train

_ONE_CYCLE_RISE = 0.3
_ONE_CYCLE_START, _ONE_CYCLE_END = 1 / 25, 1e-4


def schedule_of(optimiser: Optimizer, settings: Train, total_steps: int) -> LambdaLR:
    """The schedule of `train.schedule`, to be stepped after each optimiser step.

    Args:
        optimiser: Whose learning rate it sets; made with `train.learning_rate`, the highest.
        settings: Names the schedule and the warm-up.
        total_steps: Optimiser steps of all epochs.
    """
    return LambdaLR(optimiser, lambda step: factor(settings, step, total_steps))


def factor(settings: Train, step: int, total_steps: int) -> float:
    """The share of the highest learning rate that a step is taken with, in (0, 1].

    Args:
        settings: Names the schedule and the warm-up.
        step: From 0.
        total_steps: Steps of all epochs.

    Source: Loshchilov and Hutter, SGDR, https://arxiv.org/abs/1608.03983 (cosine); Smith and Topin,
    Super-Convergence, https://arxiv.org/abs/1708.07120 (one cycle, with its two ends as in torch's
    OneCycleLR).
    """
    warmup = settings.warmup_steps
    if step < warmup:
        return (step + 1) / (warmup + 1)
    progress = min(1.0, (step - warmup) / max(1, total_steps - warmup))
    if settings.schedule == "cosine":
        return max(_between(1.0, 0.0, progress), _ONE_CYCLE_END)
    if settings.schedule == "one_cycle":
        if progress < _ONE_CYCLE_RISE:
            return _between(_ONE_CYCLE_START, 1.0, progress / _ONE_CYCLE_RISE)
        return _between(1.0, _ONE_CYCLE_END, (progress - _ONE_CYCLE_RISE) / (1 - _ONE_CYCLE_RISE))
    return 1.0


def _between(begin: float, end: float, share: float) -> float:
    """From `begin` to `end` on half a cosine."""
    return end + (begin - end) * (1 + math.cos(math.pi * share)) / 2
