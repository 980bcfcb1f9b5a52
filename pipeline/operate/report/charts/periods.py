"""The scores by period: how far they moved, and how well they still fit."""

from __future__ import annotations

from pipeline.operate.report.bins import LARGE, MODERATE
from pipeline.operate.report.charts.chart import NO_PERIOD, PageChart
from pipeline.operate.report.charts.drawing import Chart, bar_chart, line_chart
from pipeline.operate.report.inputs import Inputs
from pipeline.operate.report.measured import Measured
from pipeline.operate.report.scores import Period
from pipeline.training.tasks import TASKS


class PsiByPeriod(PageChart):
    """How far the scores of each period lie from those of the training periods."""

    name = "psi"
    section = "drift"

    def draw(self, inputs: Inputs, measured: Measured) -> Chart:
        """A bar a period."""
        periods = measured.scores.periods
        return bar_chart(
            f"PSI of the {TASKS[inputs.model.task].words.score} by period",
            "period",
            {_name(period): period.psi for period in periods},
            unit="PSI",
            muted=[_name(period) for period in periods if period.in_training],
            names=("has training rows", "other periods"),
            levels=((MODERATE, f"moderate {MODERATE}"), (LARGE, f"large {LARGE}")),
        )


class PredictedByPeriod(PageChart):
    """Means of what was predicted and of what came."""

    name = "predicted_by_period"
    section = "drift"

    def draw(self, inputs: Inputs, measured: Measured) -> Chart | None:
        """A line a side."""
        words, periods = TASKS[inputs.model.task].words, measured.scores.periods
        if words.truth is None:
            return None
        sides = {
            words.mean_score: [period.group.predicted for period in periods],
            words.truth.observed: [period.group.observed for period in periods],
        }
        names = [_name(period) for period in periods]
        return line_chart("Predicted and observed by period", "period", names, sides)


def _name(period: Period) -> str:
    return period.group.name or NO_PERIOD
