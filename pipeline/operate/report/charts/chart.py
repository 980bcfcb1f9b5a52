"""What a chart of the page is: its section, its own measures, and how it is drawn."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Literal

from pyspark.sql import SparkSession

from pipeline.features.spec import FeatureSpec
from pipeline.lake import Snapshot
from pipeline.operate.report.charts.drawing import Chart
from pipeline.operate.report.inputs import Inputs
from pipeline.operate.report.measured import Measured
from pipeline.training.tasks import Task

NO_PERIOD = "(none)"
"""What rows without a period are called."""

Section = Literal["quality", "training", "metrics", "calibration", "classes", "spread", "drift"]

SECTIONS: Mapping[Section, Callable[[Task], bool]] = {
    "quality": lambda _: True,
    "training": lambda _: True,
    "metrics": lambda _: True,
    "calibration": lambda task: task.words.truth is not None,
    "classes": lambda task: "classes" in task.report_parts,
    "spread": lambda task: "spread" in task.report_parts,
    "drift": lambda _: True,
}
"""The sections of the page that charts can stand in, and for which tasks they are there."""


class PageChart(ABC):
    """A chart of the page; stateless, one instance each, in `CHARTS`."""

    name: ClassVar[str]
    """Tells it from the other charts."""
    section: ClassVar[Section]

    def applies(self, task: Task) -> bool:
        """Whether models of this task have the chart; only asked where its section is there."""
        del task
        return True

    def measure(
        self, spark: SparkSession, predictions: Snapshot, features: Snapshot, spec: FeatureSpec
    ) -> Any:
        """Aggregates on Spark what no other part of the page measures; by default nothing.

        Args:
            spark: The session.
            predictions: Those of one model version.
            features: What they were made from.
            spec: Names keys, label and period.

        Returns:
            What `draw` finds as `measured.charts[self.name]`.
        """
        del spark, predictions, features, spec

    @abstractmethod
    def draw(self, inputs: Inputs, measured: Measured) -> Chart | None:
        """The chart, by the functions of `drawing.py`; None where its data are not there.

        Args:
            inputs: The model with its epochs, the quality of the data, the tables.
            measured: Scores, drift, and what `measure` returned.
        """
