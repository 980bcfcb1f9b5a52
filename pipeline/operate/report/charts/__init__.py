"""A chart is one room: what it measures and how it is drawn is in its module, `CHARTS` lists it.

    inputs, measured ──> draw ──> Chart ──> templates/charts.html.j2 ──> its section of the page
                ^
    measure ────┘   on Spark, where the chart needs what no other part of the page measures

The template walks over the charts of each section and names none. A new chart is a module with a
subclass of `PageChart` and a line in `CHARTS`; charts that share their data share a module.

    chart.py        what a chart is: the class `PageChart`, and the sections that there are
    drawing.py      lines, bars and dots as coordinates
    training.py calibration.py spread.py periods.py    the charts
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pyspark.sql import SparkSession

from pipeline.features.spec import FeatureSpec
from pipeline.lake import Snapshot
from pipeline.operate.report.charts.calibration import Calibration, RowsByBin
from pipeline.operate.report.charts.chart import SECTIONS, PageChart
from pipeline.operate.report.charts.drawing import Chart
from pipeline.operate.report.charts.periods import PredictedByPeriod, PsiByPeriod
from pipeline.operate.report.charts.spread import SpreadByPeriod, SpreadBySplit
from pipeline.operate.report.charts.training import LossByEpoch, MetricByEpoch
from pipeline.operate.report.inputs import Inputs
from pipeline.operate.report.measured import Measured
from pipeline.training.tasks import TASKS, Task

__all__ = ["CHARTS", "PageChart", "drawn_charts", "measured_charts"]

CHARTS: Sequence[PageChart] = (
    LossByEpoch(),
    MetricByEpoch(),
    Calibration(),
    RowsByBin(),
    SpreadBySplit(),
    PsiByPeriod(),
    PredictedByPeriod(),
    SpreadByPeriod(),
)
"""All charts; those of one section stand on the page in this order."""


def measured_charts(
    spark: SparkSession, predictions: Snapshot, features: Snapshot, spec: FeatureSpec
) -> dict[str, Any]:
    """What the charts of the spec's task measure for themselves, by the chart's name."""
    return {
        chart.name: chart.measure(spark, predictions, features, spec)
        for chart in _charts_of(spec.label.definition)
    }


def drawn_charts(inputs: Inputs, measured: Measured) -> Mapping[str, list[Chart]]:
    """The charts that the model and its data have, by section of the page."""
    sections: dict[str, list[Chart]] = {section: [] for section in SECTIONS}
    for chart in _charts_of(TASKS[inputs.model.task]):
        drawn = chart.draw(inputs, measured)
        if drawn is not None:
            sections[chart.section].append(drawn)
    return sections


def _charts_of(task: Task) -> list[PageChart]:
    return [chart for chart in CHARTS if SECTIONS[chart.section](task) and chart.applies(task)]
