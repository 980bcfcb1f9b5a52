"""What each prediction is held against: pairs of predicted and observed, whatever the task."""

from __future__ import annotations

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from pipeline.config import Task
from pipeline.features.prepared import SPLIT
from pipeline.features.spec import FeatureSpec

ALONE = "none"
"""In place of the split of a prediction without features."""
# float32 cannot tell numbers closer to 1, and a logarithm must not see 0.
CLOSEST = 1e-7


def score_of(task: Task) -> Column:
    """The one number, as double, that a row of `predictions` is told by."""
    if task == "multilabel":
        each = F.col("probabilities")
        return F.aggregate(each, F.lit(0.0), lambda total, one: total + one) / F.size(each)
    return F.col("score").cast("double")


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
    task = spec.label.task
    said = {"multiclass": ("class", "probabilities"), "multilabel": ("probabilities",)}
    left = predictions.select(
        *(F.col(key).alias(f"left{i}") for i, key in enumerate(spec.keys)),
        score_of(task).alias("score"),
        F.coalesce(F.col(spec.period_column), F.lit("")).alias("period"),
        *said.get(task, ()),
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
    """What `joined` returned, as pairs: one a row, for `multilabel` one for each label.

    Returns:
        Columns `score`, `period`, `split`, `first` (true for one pair of each row), `predicted`,
        `observed` (null where unknown) and `loss` (of the pair: log-loss, or the squared error of
        a number; null where unknown).
    """
    same = ("score", "period", "split")
    if spec.label.task == "multilabel":
        pairs = F.array(*(_label_pair(i) for i in range(len(spec.label_columns))))
        long = rows.select(*same, F.posexplode(pairs).alias("position", "pair"))
        told = long.select(*same, (F.col("position") == 0).alias("first"), "pair.*")
    else:
        observed = _observed(spec).cast("double").alias("observed")
        told = rows.withColumns({"first": F.lit(True), "predicted": F.col("score")})
        told = told.select("*", observed)
    return told.select(
        *same, "first", "predicted", "observed", _loss(spec.label.task).alias("loss")
    )


def _label_pair(position: int) -> Column:
    return F.struct(
        F.get("probabilities", F.lit(position)).cast("double").alias("predicted"),
        F.col(f"label{position}").cast("double").alias("observed"),
    )


def _observed(spec: FeatureSpec) -> Column:
    """The label; for classes, whether the one that was predicted is right."""
    if not spec.label_columns:
        return F.lit(None)
    if spec.label.task == "multiclass":
        return F.col("class") == class_name(spec)
    return F.col("label0")


def class_name(spec: FeatureSpec) -> Column:
    """The class that `label0` stands for; null for null."""
    return F.get(F.array(*(F.lit(name) for name in spec.label.classes)), F.col("label0"))


def _loss(task: Task) -> Column:
    predicted, observed = F.col("predicted"), F.col("observed")
    if task in ("regression", "reconstruction"):
        return F.pow(predicted - observed, F.lit(2.0))
    if task == "multiclass":
        likelihood = F.get("probabilities", F.col("label0")).cast("double")
    else:
        likelihood = F.when(observed > 0.5, predicted).when(observed <= 0.5, 1 - predicted)
    safe = F.least(F.greatest(likelihood, F.lit(CLOSEST)), F.lit(1 - CLOSEST))
    # Both functions skip nulls, and would make a likelihood of what is not known.
    return F.when(likelihood.isNotNull(), -F.log(safe))
