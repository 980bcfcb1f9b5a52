"""The spread of an anomaly score, which nothing that came can be held against."""

from __future__ import annotations

from pipeline.features.prepared import TEST, TRAIN, VALIDATION
from pipeline.operate.report.charts.chart import NO_PERIOD, PageChart
from pipeline.operate.report.charts.drawing import Chart, line_chart
from pipeline.operate.report.inputs import Inputs
from pipeline.operate.report.measured import Measured
from pipeline.operate.report.spread import SHARES

EXCEEDED_BY_FEW = ("median", "95%", "99%")


class SpreadBySplit(PageChart):
    """Quantiles of the splits that a model is judged by."""

    name = "spread_by_split"
    section = "spread"

    def draw(self, inputs: Inputs, measured: Measured) -> Chart | None:
        """A line a split."""
        del inputs
        if measured.spread is None:
            return None
        splits = measured.spread.splits
        return line_chart(
            "Quantiles of the anomaly score by split",
            "share of the rows",
            list(SHARES),
            {
                name: list(splits[name].values())
                for name in (TRAIN, VALIDATION, TEST)
                if name in splits
            },
        )


class SpreadByPeriod(PageChart):
    """What most rows and what few exceed, by period."""

    name = "spread_by_period"
    section = "drift"

    def draw(self, inputs: Inputs, measured: Measured) -> Chart | None:
        """A line a quantile."""
        del inputs
        if measured.spread is None:
            return None
        periods = sorted(measured.spread.periods.items())
        return line_chart(
            "Anomaly score by period",
            "period",
            [name or NO_PERIOD for name, _ in periods],
            {share: [found[share] for _, found in periods] for share in EXCEEDED_BY_FEW},
        )
