"""Predictions beside what came, by bins of the test rows."""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.operate.report.charts.chart import PageChart
from pipeline.operate.report.charts.drawing import Chart, Point, bar_chart, dot_chart
from pipeline.operate.report.figures import figure
from pipeline.operate.report.inputs import Inputs
from pipeline.operate.report.measured import Measured
from pipeline.operate.report.scores import TENTHS, Group
from pipeline.training.tasks import TASKS, Truth


class Calibration(PageChart):
    """Observed over predicted."""

    name = "calibration"
    section = "calibration"

    def draw(self, inputs: Inputs, measured: Measured) -> Chart | None:
        """A dot a bin."""
        words = TASKS[inputs.model.task].words
        if words.truth is None:
            return None
        return calibration_chart(
            measured.scores.calibration, words.truth, mean_score=words.mean_score
        )


class RowsByBin(PageChart):
    """How many rows stand behind each dot."""

    name = "rows_by_bin"
    section = "calibration"

    def draw(self, inputs: Inputs, measured: Measured) -> Chart | None:
        """A bar a bin, also where there are no rows."""
        truth = TASKS[inputs.model.task].words.truth
        if truth is None:
            return None
        rows = {f"{k / TENTHS:.1f}": 0.0 for k in range(TENTHS)}
        rows |= {group.name: float(group.labelled) for group in measured.scores.calibration}
        return bar_chart(truth.rows, truth.bins, rows, unit=truth.unit)


def calibration_chart(groups: Sequence[Group], truth: Truth, *, mean_score: str) -> Chart:
    """Observed over predicted, a dot a bin, as large as its share of the rows.

    Args:
        groups: The bins.
        truth: What the two sides are; shares are drawn from 0.
        mean_score: What the predicted side is called.
    """
    points = [
        Point(
            x=group.predicted,
            y=group.observed,
            size=group.labelled,
            label=f"{group.labelled:,} {truth.unit}: predicted {figure(group.predicted)}, "
            f"observed {figure(group.observed)}",
        )
        for group in groups
    ]
    low = 0.0 if truth.share else None
    return dot_chart(truth.chart, mean_score, truth.observed, points, low=low)
