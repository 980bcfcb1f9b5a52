"""What a feature may be made of: the columns of `clean` less those known only afterwards."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pyspark.sql import DataFrame, SparkSession

from pipeline.config import Pipeline
from pipeline.errors import LeakageError, SpecError
from pipeline.expressions import Checked, checked, is_taken
from pipeline.features.weight import SETTING, WEIGHT, weight_value
from pipeline.lake import Snapshot
from pipeline.lake.schema import to_spark


def with_derived(
    frame: DataFrame,
    derive: Mapping[str, str],
    leakage: Sequence[str],
    hidden: Sequence[str],
    weight: str | None = None,
) -> DataFrame:
    """Adds the derived columns and the weight, and takes the leakage columns away.

    The expressions see a frame without the leakage columns, and each other's results: whatever a
    feature is made of, it cannot follow from them.

    Args:
        frame: Rows of `clean`, with our own hidden columns.
        derive: New column to Spark SQL, in order.
        leakage: Columns known only after the moment of prediction.
        hidden: Columns that are no business of any expression.
        weight: Spark SQL of the column `WEIGHT`, over the derived columns, too; None for none.

    Raises:
        LeakageError: An expression uses a leakage column.
        SpecError: An expression is wrong in another way, or names a column that exists.
    """
    for name, text in derive.items():
        where = f"features.derive.{name}"
        if is_taken(name, frame):
            raise SpecError(where, "is a column of clean already", "Choose another name.")
        derived = without_leakage(frame.drop(*hidden), text, where, leakage)
        frame = frame.withColumn(name, derived.column)
    if weight is not None:
        found = without_leakage(frame.drop(*hidden), weight, SETTING, leakage)
        frame = frame.withColumn(WEIGHT, weight_value(found, weight))
    return frame.drop(*leakage)


def without_leakage(
    everything: DataFrame, text: str, where: str, leakage: Sequence[str]
) -> Checked:
    """Resolves an expression against the columns that are known at the moment of prediction.

    Raises:
        LeakageError: It uses a leakage column.
        SpecError: It is wrong in another way.
    """
    try:
        return checked(everything.drop(*leakage), text, where, SpecError)
    except SpecError as error:
        reason = error
    try:
        checked(everything, text, where, SpecError)
    except SpecError:
        raise reason from reason.__cause__
    # It is right only with the leakage columns: they are what it used.
    raise LeakageError(
        where,
        f"{text!r} uses a column listed under features.leakage or made by features.outcomes "
        f"({', '.join(leakage)})",
        "Leave it out: at the moment of prediction it is not known yet.",
    ) from reason


def require_no_leakage_in_clean(spark: SparkSession, pipeline: Pipeline, clean: Snapshot) -> None:
    """Refuses columns that `clean` itself made of leakage: what a join found, and the period.

    Raises:
        LeakageError: One is not listed under leakage, or is the period.
    """
    leakage = pipeline.features.leakage
    for name, join in pipeline.clean.joins.items():
        open_to_features = sorted(set(join.select) - set(leakage))
        keys = sorted({left for left, _ in join.compared} & set(leakage))
        if keys and open_to_features:
            raise LeakageError(
                f"clean.joins.{name}.select.{open_to_features[0]}",
                f"is found by {keys[0]}, which is listed under features.leakage",
                "List it there too.",
            )
    period = pipeline.clean.period
    contract = spark.createDataFrame([], to_spark(clean.schema)).drop(period.column)
    without_leakage(contract, period.expression, "clean.period.expression", leakage)
