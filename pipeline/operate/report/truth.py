"""What each prediction is held against: pairs of predicted and observed, whatever the task."""

from __future__ import annotations

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from pipeline.features.prepared import SPLIT
from pipeline.features.spec import FeatureSpec

ALONE = "none"
"""In place of the split of a prediction without features."""


def joined(predictions: DataFrame, features: DataFrame, spec: FeatureSpec) -> DataFrame:
    """Each prediction with its row's label and split.

    Args:
        predictions: Rows of `predictions`.
        features: Rows of `features`.
        spec: Names the columns.

    Returns:
        Columns `score`, `period`, `split` (`ALONE` without), `label0` and so on, one for each of
        the label's columns (null where unknown), and what else the task predicts.
    """
    task = spec.label.definition
    left = predictions.select(
        *(F.col(key).alias(f"left{i}") for i, key in enumerate(spec.keys)),
        task.score().alias("score"),
        F.coalesce(F.col(spec.period_column), F.lit("")).alias("period"),
        *task.report_columns,
    )
    right = features.select(
        *(F.col(key).alias(f"right{i}") for i, key in enumerate(spec.keys)),
        *(F.col(name).alias(f"label{i}") for i, name in enumerate(spec.label_columns)),
        F.col(SPLIT).alias("split"),
    )
    same = [F.col(f"left{i}").eqNullSafe(F.col(f"right{i}")) for i in range(len(spec.keys))]
    both = left.join(right, same, "left").withColumn("split", F.coalesce("split", F.lit(ALONE)))
    return both.drop(*(f"{side}{i}" for side in ("left", "right") for i in range(len(spec.keys))))


def paired(rows: DataFrame, spec: FeatureSpec) -> DataFrame:
    """What `joined` returned, as pairs: one a row, or several, as the task has them.

    Returns:
        Columns `score`, `period`, `split`, `first` (true for one pair of each row), `predicted`,
        `observed` (null where unknown) and `loss` (of the pair: log-loss, or the squared error of
        a number; null where unknown).
    """
    same = ("score", "period", "split")
    task = spec.label.definition
    pairs = task.pairs(spec.label)
    if len(pairs) > 1:
        each = F.array(
            *(F.struct(p.alias("predicted"), observed.alias("observed")) for p, observed in pairs)
        )
        long = rows.select(*same, F.posexplode(each).alias("position", "pair"))
        told = long.select(*same, (F.col("position") == 0).alias("first"), "pair.*")
    else:
        [(predicted, observed)] = pairs
        told = rows.withColumns(
            {"first": F.lit(True), "predicted": predicted, "observed": observed}
        )
    return told.select(*same, "first", "predicted", "observed", task.pair_loss().alias("loss"))
