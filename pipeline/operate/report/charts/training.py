"""The training by epoch: its loss, and the metric that decided."""

from __future__ import annotations

from pipeline.operate.report.charts.chart import PageChart
from pipeline.operate.report.charts.drawing import Chart, line_chart
from pipeline.operate.report.inputs import Inputs
from pipeline.operate.report.measured import Measured
from pipeline.operate.report.model import TrainedModel
from pipeline.operate.report.wording import metric_name
from pipeline.training.tasks import METRICS, TASKS


class LossByEpoch(PageChart):
    """The loss, on the validation rows too where a metric is the same."""

    name = "loss"
    section = "training"

    def draw(self, inputs: Inputs, measured: Measured) -> Chart:
        """A line of the train split, and one of the validation split."""
        del measured
        model = inputs.model
        twin = TASKS[model.task].words.loss_metric
        losses = {"train (dropout on)": [epoch.train_loss for epoch in model.epochs]}
        losses |= {} if twin is None else {"validation": _curve(model, twin)}
        loss = "Training loss" if twin is None else _capital(metric_name(twin))
        return line_chart(f"{loss} by epoch", "epoch", _labels(model), losses, _kept(model))


class MetricByEpoch(PageChart):
    """The metric by which the epoch was chosen."""

    name = "metric"
    section = "training"

    def draw(self, inputs: Inputs, measured: Measured) -> Chart:
        """A line; one for each other metric where the chosen one is the loss."""
        del measured
        model = inputs.model
        twin = TASKS[model.task].words.loss_metric
        # A metric that is the loss is drawn beside it already.
        others = [name for name in METRICS[model.task] if name != twin]
        shown = others if model.metric == twin else [model.metric]
        names = ", ".join(metric_name(name) for name in shown)
        curves = {metric_name(name): _curve(model, name) for name in shown}
        title = f"Validation {names} by epoch"
        return line_chart(title, "epoch", _labels(model), curves, _kept(model))


def _labels(model: TrainedModel) -> list[str]:
    return [str(epoch.number) for epoch in model.epochs]


def _curve(model: TrainedModel, metric: str) -> list[float]:
    return [epoch.validation[metric] for epoch in model.epochs]


def _kept(model: TrainedModel) -> tuple[int, str] | None:
    best = model.best
    return None if best is None else (model.epochs.index(best), f"kept: epoch {best.number}")


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
