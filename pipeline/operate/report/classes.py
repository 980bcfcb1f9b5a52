"""Classes that were predicted against those that came, on test rows; Spark sends counts only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from pipeline.features.prepared import TEST
from pipeline.features.spec import FeatureSpec
from pipeline.lake import Snapshot
from pipeline.operate.report.truth import joined
from pipeline.training.tasks.multiclass import class_name

MOST_CLASSES = 20
"""Of a table with a column for each: with more, a class only tells its right and wrong rows."""


@dataclass(frozen=True, kw_only=True)
class Confusion:
    """Labelled test rows by what they are and what was predicted."""

    classes: tuple[str, ...]
    rows: Mapping[tuple[str, str | None], int]
    """(observed, predicted) to rows; of many classes, all wrong ones count under None."""

    @property
    def whole(self) -> bool:
        """Whether each pair of classes was counted."""
        return len(self.classes) <= MOST_CLASSES

    def observed(self, name: str) -> int:
        """Rows of one class."""
        return sum(rows for (truth, _), rows in self.rows.items() if truth == name)

    def right(self, name: str) -> int:
        """Those of them that were predicted to be."""
        return self.count(name, name)

    def count(self, observed: str, predicted: str) -> int:
        """Rows of one class that were taken for another."""
        return self.rows.get((observed, predicted), 0)


def measure_classes(
    spark: SparkSession, predictions: Snapshot, features: Snapshot, spec: FeatureSpec
) -> Confusion:
    """Counts the test rows by class.

    Args:
        spark: The session.
        predictions: Those of one model version.
        features: What they were made from.
        spec: Names keys, label and classes.
    """
    test = features.select(split={TEST}).dataframe(spark)
    rows = joined(predictions.dataframe(spark), test, spec)
    cells = confusion_cells(rows, spec).collect()
    return Confusion(
        classes=spec.label.classes,
        rows={(cell["observed"], cell["predicted"]): cell["rows"] for cell in cells},
    )


def confusion_cells(rows: DataFrame, spec: FeatureSpec) -> DataFrame:
    """The aggregate behind a confusion: observed, predicted, rows."""
    predicted = F.col("class")
    if len(spec.label.classes) > MOST_CLASSES:
        # Else a thousand classes would send a million cells.
        predicted = F.when(predicted == class_name(spec.label), predicted)
    known = rows.where(F.col("label0").isNotNull())
    by = known.groupBy(class_name(spec.label).alias("observed"), predicted.alias("predicted"))
    return by.agg(F.count(F.lit(1)).alias("rows"))
