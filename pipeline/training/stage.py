"""The stage: from a pinned version of the features to a registered model.

Each step leaves its mark when it is complete, in this order: checkpoints, the upload, the version,
the decision about the champion. Started again after a kill, the stage goes on at the first mark
that is missing.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from pipeline.config import Pipeline
from pipeline.errors import ConfigError, LakestormError, TrainingError
from pipeline.features.spec import FeatureSpec
from pipeline.features.transform import TEST, TRAIN, VALIDATION
from pipeline.lake import Lake, Snapshot, fingerprint
from pipeline.outcome import Outcome
from pipeline.stream import Stream
from pipeline.training.bundle import Facts, load_bundle, save_bundle
from pipeline.training.champion import Arena, Verdict, compare
from pipeline.training.checkpoint import CheckpointFolder
from pipeline.training.loop import Fitted, evaluate, fit
from pipeline.training.model import Architecture, build
from pipeline.training.progress import ProgressReport
from pipeline.training.registry import Registered, Registry
from pipeline.training.splits import evaluation_stream, layout_of

ALGORITHM = 1
"""To be raised when the same settings, data and spec would train to another model."""

_WITHOUT_EFFECT = {"device", "stream_workers", "checkpoint_every_steps"}
"""Settings of `train` that a run may change in its middle: they move last bits at most."""


@dataclass(frozen=True, kw_only=True)
class _Task:
    """One training, as it was asked for."""

    pipeline: Pipeline
    lake: Lake
    spec: FeatureSpec
    features: Snapshot
    device: torch.device

    @property
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
        """Its checkpoints."""
        return Path(self.lake.root) / "runs" / self.pipeline.name / self.fingerprint

    def split(self, name: str) -> Snapshot:
        """The rows of one split."""
        return self.features.select(split={name})


def train(
    pipeline: Pipeline,
    lake: Lake,
    spec: FeatureSpec,
    *,
    features_for: Callable[[FeatureSpec], Snapshot],
) -> Outcome:
    """Trains on the features of a spec and registers the model, unless that was done before.

    Args:
        pipeline: What to train, and how.
        lake: Holds the features, takes checkpoints, and MLflow's data if nothing else does.
        spec: Whose features to train on.
        features_for: Gives the features of the present clean rows under a spec; only asked when
            the champion has another one, so that both are compared on the same rows.

    Returns:
        Rows of the train split, the model's version, metrics of the splits validation and test.

    Raises:
        TrainingError: A split is empty or of one class, the loss is not a number, or another
            process is training the same.
        ModelError: MLflow refuses, or the present champion is damaged.
    """
    began = time.monotonic()
    task = _Task(
        pipeline=pipeline,
        lake=lake,
        spec=spec,
        features=lake.table(spec.table).snapshot(),
        device=choose_device(pipeline.train.device),
    )
    registry = Registry(lake, pipeline.name)
    found = registry.find(task.fingerprint)
    unchanged = found is not None and found.decision is not None
    if found is None or found.decision is None:
        found = _train_and_register(task, registry, features_for)
    rows = task.split(TRAIN).rows
    return Outcome(
        stage="train",
        table=pipeline.name,
        version=found.version,
        rows_in=rows,
        rows_out=rows,
        seconds=time.monotonic() - began,
        unchanged=unchanged,
        metrics=found.metrics,
        note=found.decision or "",
    )


def choose_device(setting: str) -> torch.device:
    """The device for a setting `train.device`: `auto` takes a GPU where there is one.

    Raises:
        ConfigError: `cuda` is asked for and not there.
    """
    available = torch.cuda.is_available()
    if setting == "cuda" and not available:
        raise ConfigError(
            "train.device", "is cuda, but torch finds no GPU", "Set it to auto or cpu."
        )
    return torch.device("cuda" if available and setting != "cpu" else "cpu")


def _train_and_register(
    task: _Task, registry: Registry, features_for: Callable[[FeatureSpec], Snapshot]
) -> Registered:
    checkpoints = CheckpointFolder(task.folder, task.fingerprint)
    with checkpoints.alone():
        registered = registry.find(task.fingerprint)
        if registered is None:
            with _tracked(task, registry) as run_id:
                if not registry.is_uploaded(run_id):
                    fitted = _fit(task, checkpoints, registry, run_id)
                    _upload(task, fitted, registry, run_id)
                registered = registry.register(run_id)
        if registered.decision is None:
            verdict = _decide(task, registry, registered.version, features_for)
            registry.decide(registered.version, verdict.promote, verdict.reason)
            registered = replace(registered, decision=verdict.reason)
        checkpoints.remove()
    return registered


@contextmanager
def _tracked(task: _Task, registry: Registry) -> Iterator[str]:
    """The run in MLflow, marked as failed if the block raises."""
    tags = {
        "features_table": task.features.name,
        "data_version": str(task.features.version),
        "spec_hash": task.spec.hash,
    }
    run_id = registry.open_run(task.fingerprint, tags, _flat(task.pipeline))
    try:
        yield run_id
    except BaseException:
        with suppress(LakestormError):  # the first fault is the one to show
            registry.fail_run(run_id)
        raise


def _fit(task: _Task, checkpoints: CheckpointFolder, registry: Registry, run_id: str) -> Fitted:
    for split in (TRAIN, VALIDATION):
        if not task.split(split).rows:
            raise TrainingError(
                f"table {task.features.name}, split {split}",
                "has no rows",
                f"Choose features.splits.{split} so that rows with a label meet it.",
            )
    settings, seed = task.pipeline.train, task.pipeline.seed
    with (
        _threads_beside(settings.stream_workers),
        _train_stream(task) as batches,
        evaluation_stream(
            task.split(VALIDATION).uris(), task.spec, settings.stream_workers
        ) as validation,
        ProgressReport(settings.epochs) as progress,
    ):
        return fit(
            build(_architecture(task), seed),
            batches,
            validation,
            settings,
            seed=seed,
            device=task.device,
            checkpoints=checkpoints,
            progress=progress,
            on_history=lambda history: registry.log_history(run_id, history),
        )


@contextmanager
def _threads_beside(stream_workers: int) -> Iterator[None]:
    """Leaves the stream's threads a core each; torch would take them all.

    Torch's threads spin while they wait for each other: on 2 busy cores, 2 of them took 18 s for
    an epoch of the flights that 1 did in 1.7 s, and on 2 idle ones they were no faster.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(max(1, before - stream_workers))
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _train_stream(task: _Task) -> Stream:
    settings = task.pipeline.train
    return Stream(
        task.split(TRAIN).uris(),
        layout_of(task.spec),
        rows_per_batch=settings.rows_per_batch,
        seed=task.pipeline.seed,
        shuffle_window_rows=settings.shuffle_window_rows,
        workers_count=settings.stream_workers,
    )


def _architecture(task: _Task) -> Architecture:
    model = task.pipeline.train.model
    return Architecture(
        family=model.family,
        numeric_width=len(task.spec.numeric_columns),
        cardinalities=task.spec.cardinalities,
        hidden=model.hidden,
        embedding_dimension=model.embedding_dimension,
        dropout=model.dropout,
    )


def _upload(task: _Task, fitted: Fitted, registry: Registry, run_id: str) -> None:
    """Saves the model, and measures on the test split what was saved."""
    facts = Facts(
        architecture=_architecture(task),
        spec_hash=task.spec.hash,
        features_table=task.features.name,
        features_version=task.features.version,
        label=task.spec.label_column,
    )
    with tempfile.TemporaryDirectory(prefix="lakestorm-bundle-") as name:
        folder = Path(name)
        save_bundle(folder, fitted.weights, facts, task.spec)
        module = load_bundle(folder).module.to(task.device)
        files, workers = task.split(TEST).uris(), task.pipeline.train.stream_workers
        with evaluation_stream(files, task.spec, workers) as stream:
            test = evaluate(module, stream, task.device)
        metrics = {VALIDATION: fitted.best.validation.to_dict(), TEST: test.to_dict()}
        registry.upload(run_id, folder, metrics)


def _decide(
    task: _Task,
    registry: Registry,
    version: int,
    features_for: Callable[[FeatureSpec], Snapshot],
) -> Verdict:
    present = registry.champion()
    if present is None or present == version:  # it is, if the alias was set just before a kill
        return Verdict(promote=True, reason=f"version {version} is champion: there was no other")
    challenger, _ = registry.load(str(version))
    champion, _ = registry.load(str(present))
    arena = Arena(
        lake=task.lake,
        features_for=features_for,
        device=task.device,
        workers_count=task.pipeline.train.stream_workers,
    )
    verdict = compare(challenger, champion, arena)
    outcome = f"beats version {present}" if verdict.promote else f"leaves {present} champion"
    return replace(verdict, reason=f"version {version} {outcome}: {verdict.reason}")


def _flat(pipeline: Pipeline) -> dict[str, str]:
    """The settings of a training as MLflow's parameters: `train.model.hidden` and so on."""

    def walk(path: str, value: Any) -> Iterator[tuple[str, str]]:
        if isinstance(value, dict):
            for name, below in value.items():
                yield from walk(f"{path}.{name}", below)
        else:
            yield path, str(value)

    settings = pipeline.train.model_dump(mode="json")
    return {"seed": str(pipeline.seed), **dict(walk("train", settings))}
