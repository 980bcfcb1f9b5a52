"""The whole way: clean, featurize, train, score, report; each stage by its name."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from pyspark.sql import SparkSession

from pipeline.clean.increment import clean_increment
from pipeline.clean.stage import clean
from pipeline.config import Pipeline
from pipeline.features.catalogue import newest_spec
from pipeline.features.spec import FeatureSpec
from pipeline.features.stage import ensure_features, featurize, follow
from pipeline.lake import Lake, Snapshot
from pipeline.outcome import Outcome
from pipeline.scoring.periods import Span


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What a run is asked for, beyond what the pipeline's YAML says."""

    incremental: bool = False
    """Only what came since the last run; no new fit and no new model where there is a champion."""
    retrain: bool = False
    """A new fit and a new model all the same, on all rows that are there."""
    rebuild: bool = False
    """With `incremental`: forgets which files were read, and begins anew."""
    models: tuple[str, ...] = ()
    """Score with these instead."""
    span: Span | None = None
    """Score these periods again."""

    @property
    def between_trainings(self) -> bool:
        """Whether new rows are taken with the fit and the model that are there."""
        return self.incremental and not self.retrain


_WHOLE = Asked()


def _clean(spark: SparkSession, pipeline: Pipeline, lake: Lake, asked: Asked = _WHOLE) -> Outcome:
    if asked.incremental:
        return clean_increment(spark, pipeline, lake, rebuild=asked.rebuild)
    return clean(spark, pipeline, lake)


def _featurize(
    spark: SparkSession, pipeline: Pipeline, lake: Lake, asked: Asked = _WHOLE
) -> Outcome:
    spec = _spec_in_charge(pipeline, lake) if asked.between_trainings else None
    if spec is not None:
        return follow(spark, pipeline, lake, spec)
    outcome, _ = featurize(spark, pipeline, lake)
    return outcome


def _train(spark: SparkSession, pipeline: Pipeline, lake: Lake, _: Asked = _WHOLE) -> Outcome:
    # Imported here: torch and MLflow take seconds, and clean and featurize need neither.
    from pipeline.training.stage import train

    def features_for(spec: FeatureSpec) -> Snapshot:
        present = lake.table("clean").snapshot()
        table, _ = ensure_features(spark, pipeline, lake, spec, present)
        return table.snapshot()

    spec = newest_spec(lake, pipeline.name)
    return train(pipeline, lake, spec, features_for=features_for, spark=spark)


def _score(spark: SparkSession, pipeline: Pipeline, lake: Lake, asked: Asked = _WHOLE) -> Outcome:
    from pipeline.scoring.stage import score

    return score(spark, pipeline, lake, models=asked.models, span=asked.span)


def _report(spark: SparkSession, pipeline: Pipeline, lake: Lake, _: Asked = _WHOLE) -> Outcome:
    from pipeline.operate.report.stage import report

    return report(spark, pipeline, lake)


def _spec_in_charge(pipeline: Pipeline, lake: Lake) -> FeatureSpec | None:
    """The spec of the model that scores; None before there is a champion."""
    from pipeline.scoring.models import scorers
    from pipeline.training.registry import CHAMPION, Registry

    if pipeline.score.model == CHAMPION and Registry(lake, pipeline.name).champion() is None:
        return None
    return scorers(lake, pipeline)[0].bundle.spec


Stage = Callable[..., Outcome]
"""Takes a session, a pipeline, a lake and perhaps what is `Asked`."""

STAGES: dict[str, Stage] = {
    "clean": _clean,
    "featurize": _featurize,
    "train": _train,
    "score": _score,
    "report": _report,
}
"""Stages by name, in the data's way."""


def walk(
    spark: SparkSession,
    pipeline: Pipeline,
    lake: Lake,
    stages: Sequence[str] = tuple(STAGES),
    asked: Asked = _WHOLE,
) -> Iterator[Outcome]:
    """Runs stages in order; what is done already costs a look at the table's log.

    Between trainings the stage `train` is left out where a model is in charge.

    Yields:
        What each stage did, as soon as it is done.
    """
    for name in stages:
        rests = name == "train" and asked.between_trainings
        if rests and _spec_in_charge(pipeline, lake) is not None:
            continue
        yield STAGES[name](spark, pipeline, lake, asked)
