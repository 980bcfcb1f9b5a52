"""The run that made a registered model, read from MLflow: nothing is loaded, and no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipeline.errors import ModelError
from pipeline.lake import Lake
from pipeline.training.tracking import import_quietly, open_client, tracking_uri, translated

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

_NEEDED_TAGS = ("spec_hash", "features_table", "data_version")


@dataclass(frozen=True, kw_only=True)
class Epoch:
    """What one epoch came to."""

    number: int
    """Counted from 1."""
    train_loss: float
    validation_log_loss: float
    validation_auroc: float


@dataclass(frozen=True, kw_only=True)
class TrainedModel:
    """A registered version, and where it came from."""

    name: str
    version: int
    aliases: tuple[str, ...]
    spec_hash: str
    features_table: str
    features_version: int
    decision: str
    """How the comparison with the champion came out."""
    settings: Mapping[str, str]
    """Of the training."""
    epochs: tuple[Epoch, ...]
    metrics: Mapping[str, Mapping[str, float]]
    """Of the version's weights, by split and name."""

    @property
    def best(self) -> Epoch | None:
        """The epoch whose weights were kept: the highest AUROC, of equal ones the earliest."""
        return max(self.epochs, key=lambda epoch: epoch.validation_auroc, default=None)


def trained_model(lake: Lake, name: str, reference: str) -> TrainedModel:
    """Reads what MLflow knows of a model.

    Args:
        lake: Where it is registered, unless `MLFLOW_TRACKING_URI` names another place.
        name: Of the registered model.
        reference: An alias or a version number.

    Raises:
        ModelError: There is none such, or lakestorm did not train it.
    """
    uri = tracking_uri(lake.root)
    import_quietly()
    client = open_client(uri, lake.root)
    with translated(uri):
        version, aliases = _found(client, name, reference)
        run_id = str(version.run_id)
        run = client.get_run(run_id)
        curves = {
            key: {metric.step: metric.value for metric in client.get_metric_history(run_id, key)}
            for key in ("train/loss", "validation/log_loss", "validation/auroc")
        }
    tags = run.data.tags
    missing = [tag for tag in _NEEDED_TAGS if tag not in tags]
    if missing:
        raise ModelError(
            f"model {name}, version {version.version}",
            f"its run has no tag {missing[0]}: lakestorm did not train it",
            "Name a version that lakestorm trained.",
        )
    return TrainedModel(
        name=name,
        version=int(version.version),
        aliases=aliases,
        spec_hash=tags["spec_hash"],
        features_table=tags["features_table"],
        features_version=int(tags["data_version"]),
        decision=version.tags.get("decision", "not compared yet"),
        settings=dict(sorted(run.data.params.items())),
        epochs=_epochs(*curves.values()),
        metrics=_final(run.data.metrics),
    )


def _found(client: MlflowClient, name: str, reference: str) -> tuple[ModelVersion, tuple[str, ...]]:
    """The version that an alias or a number names, and all its aliases."""
    aliases = {
        alias: str(number)
        for model in client.search_registered_models(f"name='{name}'")
        for alias, number in model.aliases.items()
    }
    versions = {
        str(found.version): found for found in client.search_model_versions(f"name='{name}'")
    }
    wanted = aliases.get(reference, reference)
    if wanted not in versions or versions[wanted].run_id is None:
        known = ", ".join([*sorted(aliases), *sorted(versions, key=int)]) or "nothing"
        raise ModelError(
            f"model {name}",
            f"has no version or alias {reference!r} with a run; registered: {known}",
            "Set score.model to one of these, or train one: lakestorm train.",
        )
    own = sorted(alias for alias, number in aliases.items() if number == wanted)
    return versions[wanted], tuple(own)


def _epochs(
    train_loss: Mapping[int, float], log_loss: Mapping[int, float], auroc: Mapping[int, float]
) -> tuple[Epoch, ...]:
    """The epochs that are logged whole."""
    return tuple(
        Epoch(
            number=step + 1,
            train_loss=train_loss[step],
            validation_log_loss=log_loss[step],
            validation_auroc=auroc[step],
        )
        for step in sorted(train_loss.keys() & log_loss.keys() & auroc.keys())
    )


def _final(metrics: Mapping[str, float]) -> dict[str, dict[str, float]]:
    by_split: dict[str, dict[str, float]] = {}
    for key, value in sorted(metrics.items()):
        kind, _, place = key.partition("/")
        split, _, name = place.partition("/")
        if kind == "final" and name:
            by_split.setdefault(split, {})[name] = value
    return by_split
