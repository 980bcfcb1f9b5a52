"""How the report words a task: each predicts something else and is judged by other names."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class Truth:
    """How predictions are held against what came."""

    observed: str
    """Mean of what came."""
    labelled: str = "labelled"
    loss: Literal["loss", "rmse"] = "loss"
    """Which figure of a `Group` tells how wrong it is."""
    loss_name: str = "log-loss"
    heading: str
    lead: str
    chart: str
    rows: str
    """Title of the bars that count what the chart's dots stand for."""
    bins: str
    """What a bin begins with."""
    unit: str = "rows"
    share: bool = True
    """Whether both sides are shares, from 0 to 1; else they are judged by training quantiles."""


@dataclass(frozen=True, kw_only=True)
class Wording:
    """The words for one task."""

    score: str
    """What a row is told by, and whose drift is measured."""
    scores: str
    """Several of them."""
    mean_score: str
    loss_metric: str | None
    """The validation metric that is the training's loss on other rows, where there is one."""
    truth: Truth | None
    """None where nothing is known to hold predictions against."""


OVER_AND_UNDER = (
    "Dots on the dashed line are; above it the {} is too low, below it too high. "
    "The mean distance, weighted by {}, is"
)
"""The end of a lead, with what is predicted and what the distance is weighted by."""
