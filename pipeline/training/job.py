"""One training, as it was asked for: what the driver decides once and every rank reads."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Self

import torch

from pipeline.config import Pipeline, Storage
from pipeline.errors import ConfigError
from pipeline.features.prepared import TEST, TRAIN, VALIDATION
from pipeline.features.spec import FeatureSpec
from pipeline.lake import Lake, Snapshot, fingerprint
from pipeline.training.class_weights import class_weights_of
from pipeline.training.networks import Architecture, architecture_of
from pipeline.training.objective import Objective
from pipeline.training.splits import shapes_of

ALGORITHM = 2
"""To be raised when the same settings, data and spec would train to another model."""

# Settings of `train` that a run may change in its middle: they move last bits at most.
_WITHOUT_EFFECT = {
    "device",
    "stream_workers",
    "checkpoint_every_steps",
    "checkpoint_every_minutes",
    "checkpoints_kept",
    "workers",
    "max_restarts",
    "hang_seconds",
    "compile",
    "accumulate",
}
_FILE = "job.json"


@dataclass(frozen=True, kw_only=True)
class Job:
    """A training and all that decides how it comes out."""

    pipeline: Pipeline
    lake: Lake
    spec: FeatureSpec
    features_version: int
    run_id: str = ""
    """MLflow's, once it is open."""
    class_weights: tuple[float, ...] | None = None
    """Of each class, none where all count the same; None until `weighing` has looked."""

    @cached_property
    def features(self) -> Snapshot:
        """The rows, at the version that was the newest when the job was made."""
        return self.lake.table(self.spec.table).snapshot(self.features_version)

    @cached_property
    def fingerprint(self) -> str:
        """Equal for trainings that give the same model."""
        # Rows that no network sees, such as unlabelled ones, may come without a new training.
        seen = self.features.select(split={TRAIN, VALIDATION, TEST})
        return fingerprint(
            algorithm=ALGORITHM,
            settings=self.pipeline.train.model_dump(mode="json", exclude=_WITHOUT_EFFECT),
            seed=self.pipeline.seed,
            spec=self.spec.hash,
            data=[(file.path, file.rows) for file in seen.files],
        )

    @property
    def folder(self) -> Path:
        """Its checkpoints, and what its workers tell the driver."""
        return self.lake.work("runs", self.pipeline.name, self.fingerprint)

    @property
    def objective(self) -> Objective:
        """Loss, metric and weights of classes."""
        settings, weights = self.pipeline.train, self.class_weights or ()
        return Objective.of(self.spec.label.task, settings.loss, settings.metric, weights)

    @property
    def architecture(self) -> Architecture:
        """The network for the spec's features."""
        return architecture_of(
            self.pipeline.train.model, shapes_of(self.spec), self.spec.label.outputs
        )

    def split(self, name: str) -> Snapshot:
        """The rows of one split."""
        return self.features.select(split={name})

    def of_run(self, run_id: str) -> Job:
        """The job with MLflow's id of its run."""
        return replace(self, run_id=run_id)

    def weighing(self) -> Job:
        """The job with the weights of the classes; the train split's labels are read but once.

        Raises:
            TrainingError: They are to be balanced, and a class has no row.
        """
        if self.class_weights is not None:
            return self
        setting = self.pipeline.train.class_weights
        weights = class_weights_of(setting, self.spec.label, self.split(TRAIN))
        return replace(self, class_weights=weights)

    def write(self) -> Path:
        """Puts the job into its folder, where the workers read it; returns the file."""
        path = self.folder / _FILE
        content = {
            # Without defaults: some settings may not be written beside others, whatever they say.
            "pipeline": self.pipeline.model_dump(mode="json", exclude_unset=True),
            "lake": self.lake.root,
            "storage": self.lake.storage.model_dump(mode="json"),
            "spec": json.loads(self.spec.to_json()),
            "features_version": self.features_version,
            "run_id": self.run_id,
            "class_weights": self.class_weights,
        }
        partial = path.with_suffix(".partial")
        partial.write_text(json.dumps(content), encoding="utf-8")
        partial.replace(path)
        return path

    @classmethod
    def read(cls, path: Path) -> Self:
        """The job that `write` put there."""
        content = json.loads(path.read_text(encoding="utf-8"))
        return cls(
            pipeline=Pipeline.model_validate(content["pipeline"]),
            lake=Lake(content["lake"], Storage.model_validate(content["storage"])),
            spec=FeatureSpec.from_json(json.dumps(content["spec"])),
            features_version=content["features_version"],
            run_id=content["run_id"],
            class_weights=tuple(content["class_weights"])
            if content["class_weights"] is not None
            else None,
        )


def choose_device(setting: str) -> torch.device:
    """The device of this process for a setting `train.device`: `auto` takes a GPU if there is one.

    Of several GPUs it takes the one of its rank on this machine.

    Raises:
        ConfigError: `cuda` is asked for and not there.
    """
    available = torch.cuda.is_available()
    if setting == "cuda" and not available:
        raise ConfigError(
            "train.device", "is cuda, but torch finds no GPU", "Set it to auto or cpu."
        )
    if not available or setting == "cpu":
        return torch.device("cpu")
    here = int(os.environ.get("LOCAL_RANK", "0"))
    return torch.device("cuda", here % max(1, torch.cuda.device_count()))


def custom_class(pipeline: Pipeline) -> str | None:
    """The user's own network, `package.module:Class`, which no artifact names."""
    return pipeline.train.model.user_class
