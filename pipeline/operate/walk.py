"""The whole way: clean, featurize, train, score, report; each stage by its name."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from pyspark.sql import SparkSession

from pipeline.clean.stage import clean
from pipeline.config import Pipeline
from pipeline.features.catalogue import newest_spec
from pipeline.features.spec import FeatureSpec
from pipeline.features.stage import ensure_features, featurize
from pipeline.lake import Lake, Snapshot
from pipeline.outcome import Outcome


def _featurize(spark: SparkSession, pipeline: Pipeline, lake: Lake) -> Outcome:
    outcome, _ = featurize(spark, pipeline, lake)
    return outcome


def _train(spark: SparkSession, pipeline: Pipeline, lake: Lake) -> Outcome:
    # Imported here: torch and MLflow take seconds, and clean and featurize need neither.
    from pipeline.training.stage import train

    def features_for(spec: FeatureSpec) -> Snapshot:
        present = lake.table("clean").snapshot()
        table, _ = ensure_features(spark, pipeline, lake, spec, present)
        return table.snapshot()

    spec = newest_spec(lake, pipeline.name)
    return train(pipeline, lake, spec, features_for=features_for, spark=spark)


def _score(spark: SparkSession, pipeline: Pipeline, lake: Lake) -> Outcome:
    from pipeline.scoring.stage import score

    return score(spark, pipeline, lake)


def _report(spark: SparkSession, pipeline: Pipeline, lake: Lake) -> Outcome:
    from pipeline.operate.report.stage import report

    return report(spark, pipeline, lake)


Stage = Callable[[SparkSession, Pipeline, Lake], Outcome]

STAGES: dict[str, Stage] = {
    "clean": clean,
    "featurize": _featurize,
    "train": _train,
    "score": _score,
    "report": _report,
}
"""Stages by name, in the data's way."""


def walk(
    spark: SparkSession, pipeline: Pipeline, lake: Lake, stages: Sequence[str] = tuple(STAGES)
) -> Iterator[Outcome]:
    """Runs stages in order; what is done already costs a look at the table's log.

    Yields:
        What each stage did, as soon as it is done.
    """
    for name in stages:
        yield STAGES[name](spark, pipeline, lake)
