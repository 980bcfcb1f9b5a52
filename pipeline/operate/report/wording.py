"""What the page calls things: each task predicts something else and is judged by other names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from pipeline.config import Task

METRIC_NAMES = {
    "auroc": "AUROC",
    "log_loss": "log-loss",
    "f1": "F1",
    "rmse": "RMSE",
    "mae": "MAE",
    "r2": "R²",
    "kl": "KL divergence",
}
"""Where the page calls a metric other than the settings do."""


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
    """Whether both sides are shares, from 0 to 1."""


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


_OVER_AND_UNDER = (
    "Dots on the dashed line are; above it the {} is too low, below it too high. "
    "The mean distance, weighted by {}, is"
)

WORDINGS: Mapping[Task, Wording] = {
    "binary": Wording(
        score="score",
        scores="scores",
        mean_score="mean score",
        loss_metric="log_loss",
        truth=Truth(
            observed="observed rate",
            heading="Calibration on test rows",
            lead="Of the rows that got a score near 0.3, three in ten should be of class 1. "
            + _OVER_AND_UNDER.format("score", "rows"),
            chart="Observed rate by predicted score",
            rows="Test rows by score",
            bins="score from",
        ),
    ),
    "multiclass": Wording(
        score="confidence",
        scores="confidences",
        mean_score="mean confidence",
        loss_metric="log_loss",
        truth=Truth(
            observed="share right",
            heading="Calibration of the confidence on test rows",
            lead="The confidence is the probability of the predicted class: of the rows that got "
            "one near 0.7, seven in ten should be right. "
            + _OVER_AND_UNDER.format("confidence", "rows"),
            chart="Share of right predictions by confidence",
            rows="Test rows by confidence",
            bins="confidence from",
        ),
    ),
    "multilabel": Wording(
        score="mean probability",
        scores="mean probabilities",
        mean_score="mean probability",
        loss_metric="log_loss",
        truth=Truth(
            observed="observed rate",
            labelled="labels",
            heading="Calibration on the labels of test rows",
            lead="All labels together: of those that got a probability near 0.3, three in ten "
            "should be true. " + _OVER_AND_UNDER.format("probability", "labels"),
            chart="Observed rate by predicted probability",
            rows="Labels of test rows by probability",
            bins="probability from",
            unit="labels",
        ),
    ),
    "regression": Wording(
        score="prediction",
        scores="predictions",
        mean_score="mean prediction",
        loss_metric=None,
        truth=Truth(
            observed="mean observed",
            loss="rmse",
            loss_name="RMSE",
            heading="Predicted and observed on test rows",
            lead="Rows are put together by ten quantiles of what was predicted for the training "
            "periods. Means of both sides should be equal. "
            + _OVER_AND_UNDER.format("prediction", "rows"),
            chart="Mean observed by mean predicted value",
            rows="Test rows by prediction",
            bins="training quantile from",
            share=False,
        ),
    ),
    "reconstruction": Wording(
        score="anomaly score",
        scores="anomaly scores",
        mean_score="mean anomaly score",
        loss_metric="loss",
        truth=None,
    ),
}


def metric_name(metric: str) -> str:
    """A metric as the page calls it."""
    return METRIC_NAMES.get(metric, metric)
