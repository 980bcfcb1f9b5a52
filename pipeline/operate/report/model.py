"""The run that made a registered model, read from MLflow; its weights are not loaded."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce

from pipeline.config import METRICS, Pipeline, TaskName
from pipeline.errors import ModelError
from pipeline.features.catalogue import spec_of_hash
from pipeline.features.spec import FeatureSpec
from pipeline.lake import Lake
from pipeline.training.metrics import is_better
from pipeline.training.registry import Registry
from pipeline.training.tracking import open_client, tracking_uri, translated

_NEEDED_TAGS = ("spec_hash", "features_table", "data_version")
_LOSS = "train/loss"


@dataclass(frozen=True, kw_only=True)
class Epoch:
    """What one epoch came to."""

    number: int
    """Counted from 1."""
    train_loss: float
    validation: Mapping[str, float]
    """The task's metrics by name; NaN where the run is older than the metric."""


@dataclass(frozen=True, kw_only=True)
class TrainedModel:
    """A registered version, and where it came from."""

    name: str
    version: int
    aliases: tuple[str, ...]
    spec_hash: str
    features_table: str
    features_version: int
    task: TaskName
    metric: str
    """Decides which epoch is the best."""
    decision: str
    """How the comparison with the champion came out."""
    settings: Mapping[str, str]
    """Of the training."""
    epochs: tuple[Epoch, ...]
    metrics: Mapping[str, Mapping[str, float]]
    """Of the version's weights, by split and name."""

    @property
    def best(self) -> Epoch | None:
        """The epoch whose weights were kept: the best by the metric, of equal ones the earliest."""
        return reduce(self._better, self.epochs) if self.epochs else None

    def _better(self, one: Epoch, later: Epoch) -> Epoch:
        values = (epoch.validation[self.metric] for epoch in (later, one))
        return later if is_better(self.metric, *values) else one


def trained_model(lake: Lake, pipeline: Pipeline) -> tuple[TrainedModel, FeatureSpec]:
    """Reads what MLflow knows of the model that a pipeline scores with, and its features' spec.

    Args:
        lake: Where it is registered, unless `MLFLOW_TRACKING_URI` names another place.
        pipeline: Names the model, by alias or version, and the metric.

    Raises:
        ModelError: There is none such, or lakestorm did not train it.
        SpecError: Its spec is not on record.
    """
    registry = Registry(lake, pipeline.name)
    number = registry.resolve(pipeline.score.model)
    found = next(one for one in registry.versions() if one.version == number)
    uri = tracking_uri(lake.root)
    client = open_client(uri, lake.root)
    with translated(uri):
        # MLflow's search, which lists versions, leaves their aliases out.
        version = client.get_model_version(pipeline.name, str(number))
        run_id = str(version.run_id)
        run = client.get_run(run_id)
    tags = run.data.tags
    missing = [tag for tag in _NEEDED_TAGS if tag not in tags]
    if missing:
        raise ModelError(
            f"model {pipeline.name}, version {number}",
            f"its run has no tag {missing[0]}: lakestorm did not train it",
            "Name a version that lakestorm trained.",
        )
    spec = spec_of_hash(lake, pipeline.name, tags["spec_hash"])
    task = spec.label.task
    names = METRICS[task]
    with translated(uri):
        curves = {
            key: {metric.step: metric.value for metric in client.get_metric_history(run_id, key)}
            for key in (_LOSS, *map(_validation, names))
        }
    # It may be older than a metric of its task, and than the pipeline's present task and metric.
    logged = [name for name in names if curves[_validation(name)]] or names
    chosen = pipeline.train.metric
    model = TrainedModel(
        name=pipeline.name,
        version=number,
        aliases=tuple(sorted(version.aliases)),
        spec_hash=tags["spec_hash"],
        features_table=tags["features_table"],
        features_version=int(tags["data_version"]),
        task=task,
        metric=chosen if chosen is not None and chosen in logged else logged[0],
        decision=found.decision or "not compared yet",
        settings=dict(sorted(run.data.params.items())),
        epochs=_epochs(curves, names, logged),
        metrics=found.metrics,
    )
    return model, spec


def _epochs(
    curves: Mapping[str, Mapping[int, float]], names: Sequence[str], logged: Sequence[str]
) -> tuple[Epoch, ...]:
    """The epochs that are logged whole; what the run has no curve of is NaN."""
    whole = set.intersection(*(set(curves[key]) for key in (_LOSS, *map(_validation, logged))))
    return tuple(
        Epoch(
            number=step + 1,
            train_loss=curves[_LOSS][step],
            validation={name: curves[_validation(name)].get(step, math.nan) for name in names},
        )
        for step in sorted(whole)
    )


def _validation(metric: str) -> str:
    return f"validation/{metric}"
