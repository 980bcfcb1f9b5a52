"""MLflow: runs with their metrics, and the registered model with its versions and aliases.

Without `MLFLOW_TRACKING_URI` both live in the lake: `mlflow.db` and `mlflow-artifacts/`. MLflow
takes seconds to import, so it is imported when a `Registry` is made.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.errors import ModelError
from pipeline.lake import Lake
from pipeline.training.bundle import Bundle, load_bundle
from pipeline.training.tracking import (
    DATABASE,
    import_quietly,
    open_client,
    own_uri,
    tracking_uri,
    translated,
)

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

    from pipeline.training.loop import EpochRecord

CHAMPION = "champion"
_ARTIFACTS = "model"
_FINAL = "final"
_FINGERPRINT = "fingerprint"
_UPLOADED = "uploaded"
_DECISION = "decision"


@dataclass(frozen=True, kw_only=True)
class Registered:
    """A version of a registered model."""

    name: str
    version: int
    metrics: dict[str, dict[str, float]]
    """Of the version's weights, by split and name."""
    decision: str | None
    """How the comparison with the champion came out; None while it is still to be made."""
    aliases: tuple[str, ...] = ()


class Registry:
    """The runs and versions of one model.

    Every method raises ModelError where MLflow or its storage refuses.

    Args:
        lake: Where they are kept, unless `MLFLOW_TRACKING_URI` names another place.
        name: Of the registered model, and of the experiment with its runs.
    """

    def __init__(self, lake: Lake, name: str) -> None:
        self._lake = lake
        self._name = name
        self._uri = tracking_uri(lake.root)
        import_quietly()

    def find(self, fingerprint: str) -> Registered | None:
        """The version that a run of this fingerprint was registered as, if any."""
        where = f"name='{self._name}' and tag.{_FINGERPRINT}='{fingerprint}'"
        with translated(self._uri):
            found = self._client.search_model_versions(where)
            return self._registered(found[0]) if found else None

    def open_run(self, fingerprint: str, tags: Mapping[str, str], params: Mapping[str, str]) -> str:
        """Takes up the run of this fingerprint where it was left, or begins it.

        Returns:
            MLflow's id of the run.
        """
        from mlflow.entities import Param

        with translated(self._uri):
            found = self._client.search_runs(
                [self._experiment], f"tags.{_FINGERPRINT} = '{fingerprint}'", max_results=1
            )
            if found:
                run_id: str = found[0].info.run_id
                self._client.update_run(run_id, status="RUNNING")
            else:
                run = self._client.create_run(
                    self._experiment,
                    tags={**tags, _FINGERPRINT: fingerprint},
                    run_name=f"{self._name}-{fingerprint[:8]}",
                )
                run_id = run.info.run_id
            self._client.log_batch(run_id, params=[Param(*item) for item in params.items()])
        return run_id

    def log_history(self, run_id: str, history: Sequence[EpochRecord]) -> None:
        """Logs the epochs that are not logged yet; a run killed in between leaves no gap."""
        with translated(self._uri):
            logged = self._client.get_metric_history(run_id, "train/loss")
            done = {metric.step for metric in logged}
            for record in history:
                if record.epoch not in done:
                    values = {"validation/" + k: v for k, v in record.validation.to_dict().items()}
                    # The loss comes last: it is what tells that the epoch is logged.
                    self._log(run_id, {**values, "train/loss": record.train_loss}, record.epoch)

    def fail_run(self, run_id: str) -> None:
        """Marks a run that ended by an error; starting it again takes it up."""
        with translated(self._uri):
            self._client.set_terminated(run_id, "FAILED")

    def is_uploaded(self, run_id: str) -> bool:
        """Whether the run's bundle and final metrics are complete in MLflow."""
        with translated(self._uri):
            return _UPLOADED in self._client.get_run(run_id).data.tags

    def upload(self, run_id: str, bundle: Path, metrics: Mapping[str, Mapping[str, float]]) -> None:
        """Stores a run's bundle and the metrics of its weights, by split and name."""
        final = {
            f"{_FINAL}/{split}/{name}": value
            for split, values in metrics.items()
            for name, value in values.items()
        }
        with translated(self._uri):
            self._log(run_id, final, step=0)
            self._client.log_artifacts(run_id, str(bundle), _ARTIFACTS)
            # Last, so that an interrupted upload is done again.
            self._client.set_tag(run_id, _UPLOADED, "true")

    def register(self, run_id: str) -> Registered:
        """Makes an uploaded run the model's next version."""
        from mlflow.exceptions import MlflowException

        with translated(self._uri):
            run = self._client.get_run(run_id)
            try:
                self._client.create_registered_model(self._name)
            except MlflowException as error:
                if error.error_code != "RESOURCE_ALREADY_EXISTS":
                    raise
            version = self._client.create_model_version(
                self._name,
                source=f"{run.info.artifact_uri}/{_ARTIFACTS}",
                run_id=run_id,
                tags={_FINGERPRINT: run.data.tags[_FINGERPRINT]},
            )
            return self._registered(version)

    def champion(self) -> int | None:
        """The version that has the alias, if any."""
        return self._aliases().get(CHAMPION)

    def decide(self, version: int, promote: bool, decision: str) -> None:
        """Ends a version's run: records the decision, and gives the alias to one that won."""
        with translated(self._uri):
            if promote:
                self._client.set_registered_model_alias(self._name, CHAMPION, str(version))
            found = self._client.get_model_version(self._name, str(version))
            self._client.set_terminated(_run_id(found), "FINISHED")
            # Last, so that an interrupted decision is made again.
            self._client.set_model_version_tag(self._name, str(version), _DECISION, decision)

    def versions(self) -> list[Registered]:
        """All versions that lakestorm trained, the newest first."""
        with translated(self._uri):
            found = self._client.search_model_versions(f"name='{self._name}'")
            # A search does not tell the aliases.
            listed = [
                self._registered(self._client.get_model_version(self._name, version.version))
                for version in found
                if version.run_id is not None
            ]
        return sorted(listed, key=lambda version: version.version, reverse=True)

    def promote(self, version: int) -> int | None:
        """Gives the alias `champion` to a version, whatever its metrics.

        Returns:
            The version that had it.

        Raises:
            ModelError: There is no such version (the error lists what there is).
        """
        self.resolve(str(version))
        before = self.champion()
        with translated(self._uri):
            self._client.set_registered_model_alias(self._name, CHAMPION, str(version))
        return before

    def load(self, reference: str, custom: str | None = None) -> tuple[Bundle, int]:
        """Reads a version's bundle.

        Args:
            reference: An alias or a version number.
            custom: The user's own class, `package.module:Class`, where the network is one.

        Raises:
            ModelError: There is none such (the error lists what there is), or it is damaged.
        """
        version = self.resolve(reference)
        with tempfile.TemporaryDirectory(prefix="lakestorm-model-") as folder:
            with translated(self._uri):
                found = self._client.get_model_version(self._name, str(version))
                self._client.download_artifacts(_run_id(found), _ARTIFACTS, folder)
            return load_bundle(Path(folder) / _ARTIFACTS, custom), version

    def resolve(self, reference: str) -> int:
        """The version that an alias or a number stands for.

        Raises:
            ModelError: There is none such (the error lists what there is).
        """
        aliases = self._aliases()
        if reference in aliases:
            return aliases[reference]
        with translated(self._uri):
            found = self._client.search_model_versions(f"name='{self._name}'")
        versions = sorted(int(version.version) for version in found)
        if reference.isdecimal() and int(reference) in versions:
            return int(reference)
        named = ", ".join(f"{alias} ({version})" for alias, version in sorted(aliases.items()))
        raise ModelError(
            f"model {self._name}",
            f"has no version or alias {reference!r}; versions: "
            f"{', '.join(map(str, versions)) or 'none'}; aliases: {named or 'none'}",
            "Name one of these." if versions else "Train it: lakestorm train.",
        )

    def _aliases(self) -> dict[str, int]:
        from mlflow.exceptions import MlflowException

        with translated(self._uri):
            try:
                model = self._client.get_registered_model(self._name)
            except MlflowException as error:
                if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                    raise
                return {}
        return {alias: int(version) for alias, version in model.aliases.items()}

    def _registered(self, version: ModelVersion) -> Registered:
        metrics: dict[str, dict[str, float]] = {}
        for key, value in self._client.get_run(_run_id(version)).data.metrics.items():
            kind, *place = key.split("/")
            if kind == _FINAL:
                split, name = place
                metrics.setdefault(split, {})[name] = value
        return Registered(
            name=self._name,
            version=int(version.version),
            metrics=metrics,
            decision=version.tags.get(_DECISION),
            aliases=tuple(version.aliases),
        )

    def _log(self, run_id: str, values: Mapping[str, float], step: int) -> None:
        from mlflow.entities import Metric

        now_milliseconds = int(time.time() * 1000)
        metrics = [Metric(key, value, now_milliseconds, step) for key, value in values.items()]
        self._client.log_batch(run_id, metrics=metrics)

    @cached_property
    def _client(self) -> MlflowClient:
        return open_client(self._uri, self._lake.root)

    @cached_property
    def _experiment(self) -> str:
        """Id of the experiment; its artifacts lie in the lake if MLflow's database does."""
        from mlflow.exceptions import MlflowException

        if (found := self._client.get_experiment_by_name(self._name)) is not None:
            return found.experiment_id
        artifacts = Path(self._lake.root) / "mlflow-artifacts"
        own = self._uri == own_uri(self._lake.root)
        try:
            return self._client.create_experiment(self._name, artifacts.as_uri() if own else None)
        except MlflowException as error:
            found = self._client.get_experiment_by_name(self._name)
            if error.error_code != "RESOURCE_ALREADY_EXISTS" or found is None:
                raise
            return found.experiment_id  # somebody was faster


def _run_id(version: ModelVersion) -> str:
    if version.run_id is None:
        raise ModelError(
            f"model {version.name}, version {version.version}",
            "was not registered by lakestorm: no run belongs to it",
            "Name a version that lakestorm trained.",
        )
    return version.run_id


def load_registered(
    lake: Lake, name: str, reference: str, custom: str | None = None
) -> tuple[Bundle, int]:
    """Reads a registered model.

    Args:
        lake: Where it is registered, unless `MLFLOW_TRACKING_URI` names another place.
        name: Of the model, which is the pipeline's name.
        reference: An alias such as `champion`, or a version number.
        custom: The user's own class, `package.module:Class`, where the network is one.

    Returns:
        The bundle and its version.

    Raises:
        ModelError: There is none such (the error lists what there is), or it is damaged.
    """
    return Registry(lake, name).load(reference, custom)


def registered_models(lake: Lake) -> list[str]:
    """Names of all models that are registered where a lake's are."""
    uri = tracking_uri(lake.root)
    import_quietly()
    with translated(uri):
        found = open_client(uri, lake.root).search_registered_models()
    return sorted(model.name for model in found)


def trained_versions(lake: Lake) -> set[tuple[str, int]]:
    """Table and version of the features that each registered model was trained on.

    Raises:
        ModelError: MLflow cannot be reached or read, so that nobody knows.
    """
    uri = tracking_uri(lake.root)
    if uri == own_uri(lake.root) and not (Path(lake.root) / DATABASE).exists():
        return set()
    import_quietly()
    found: set[tuple[str, int]] = set()
    with translated(uri):
        client = open_client(uri, lake.root)
        token: str | None = None
        while token != "":
            page = client.search_model_versions("", page_token=token)
            for version in page:
                if version.run_id is None:  # not lakestorm's
                    continue
                tags = client.get_run(version.run_id).data.tags
                if "features_table" in tags and "data_version" in tags:
                    found.add((tags["features_table"], int(tags["data_version"])))
            token = page.token or ""
    return found
