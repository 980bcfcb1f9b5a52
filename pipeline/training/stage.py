"""The stage: from a pinned version of the features to a registered model.

Each step leaves its mark when it is complete, in this order: checkpoints, the upload, the version,
the decision about the champion. Started again after a kill, the stage goes on at the first mark
that is missing.
"""

from __future__ import annotations

import platform
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from importlib.metadata import version as version_of
from pathlib import Path
from typing import Any

from pyspark.sql import SparkSession

from pipeline.config import Pipeline
from pipeline.errors import LakestormError
from pipeline.features.catalogue import local_of
from pipeline.features.prepared import TEST, TRAIN, VALIDATION
from pipeline.features.spec import FeatureSpec
from pipeline.lake import Lake, Snapshot
from pipeline.outcome import Outcome
from pipeline.training.bundle import Facts, load_bundle, save_bundle
from pipeline.training.champion import Arena, Verdict, compare
from pipeline.training.flavor import add_flavor
from pipeline.training.job import Job, choose_device, custom_class
from pipeline.training.launch import run_job
from pipeline.training.loop import Fitted, evaluate, fitted_of
from pipeline.training.measure import reference_of
from pipeline.training.networks import add_export
from pipeline.training.ranks import Ranks
from pipeline.training.registry import Registered, Registry
from pipeline.training.splits import evaluation_stream
from pipeline.training.worker import checkpoints_of

_ENVIRONMENT = ("lakestorm", "torch", "pyspark", "pyarrow", "numpy", "petastorm")


def train(
    pipeline: Pipeline,
    lake: Lake,
    spec: FeatureSpec,
    *,
    features_for: Callable[[FeatureSpec], Snapshot],
    spark: SparkSession | None = None,
) -> Outcome:
    """Trains on the features of a spec and registers the model, unless that was done before.

    Args:
        pipeline: What to train, and how.
        lake: Holds the features, takes checkpoints, and MLflow's data if nothing else does.
        spec: Whose features to train on.
        features_for: Gives the features of the present clean rows under a spec; only asked when
            the champion has another one, so that both are compared on the same rows.
        spark: Whose executors train; None or a local one: processes of this machine.

    Returns:
        Rows of the train split, the model's version, metrics of the splits validation and test.

    Raises:
        TrainingError: A split is empty or of one class, the loss is not a number, a worker was
            lost too often, or another process is training the same.
        ModelError: MLflow refuses, or the present champion is damaged.
    """
    began = time.monotonic()
    table = lake.table(spec.table)
    job = Job(pipeline=pipeline, lake=lake, spec=spec, features_version=table.snapshot().version)
    registry = Registry(lake, pipeline.name)
    found = registry.find(job.fingerprint)
    unchanged = found is not None and found.decision is not None
    if found is None or found.decision is None:
        found = _train_and_register(job, registry, features_for, spark)
    rows = job.split(TRAIN).rows
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


def _train_and_register(
    job: Job,
    registry: Registry,
    features_for: Callable[[FeatureSpec], Snapshot],
    spark: SparkSession | None,
) -> Registered:
    checkpoints = checkpoints_of(job)
    with checkpoints.alone():
        registered = registry.find(job.fingerprint)
        if registered is None:
            with _tracked(job, registry) as run_id:
                if not registry.is_uploaded(run_id):
                    run_job(job.weighing().of_run(run_id), spark)
                    _upload(job, fitted_of(checkpoints), registry, run_id)
                registered = registry.register(run_id)
        if registered.decision is None:
            verdict = _decide(job, registry, registered.version, features_for)
            registry.decide(registered.version, verdict.promote, verdict.reason)
            registered = replace(registered, decision=verdict.reason)
        checkpoints.remove()
    return registered


@contextmanager
def _tracked(job: Job, registry: Registry) -> Iterator[str]:
    """The run in MLflow, marked as failed if the block raises."""
    tags = {
        "features_table": job.features.name,
        "data_version": str(job.features.version),
        "spec_hash": job.spec.hash,
        "python": platform.python_version(),
        "machine": platform.machine(),
        **{package: version_of(package) for package in _ENVIRONMENT},
    }
    run_id = registry.open_run(job.fingerprint, tags, _flat(job.pipeline))
    try:
        yield run_id
    except BaseException:
        with suppress(LakestormError):  # the first fault is the one to show
            registry.fail_run(run_id)
        raise


def _upload(job: Job, fitted: Fitted, registry: Registry, run_id: str) -> None:
    """Saves the model, and measures what was saved: on the test split, and for its reference."""
    facts = Facts(
        architecture=job.architecture,
        task=job.spec.label.task,
        classes=job.spec.label.classes,
        labels=job.spec.label_columns,
        loss=job.objective.loss,
        spec_hash=job.spec.hash,
        features_table=job.features.name,
        features_version=job.features.version,
    )
    custom = custom_class(job.pipeline)
    ranks = Ranks(device=choose_device(job.pipeline.train.device))
    with tempfile.TemporaryDirectory(prefix="lakestorm-bundle-") as name:
        folder = Path(name)
        save_bundle(folder, fitted.weights, facts, job.spec)
        bundle = load_bundle(folder, custom)
        add_export(folder, bundle.module, job.architecture)
        module = bundle.module.to(ranks.device)
        files, workers = job.split(TEST).uris(), job.pipeline.train.stream_workers
        with evaluation_stream(files, job.spec, workers) as stream:
            test = evaluate(module, stream, ranks, job.objective, job.pipeline.seed)
        metrics = {VALIDATION: fitted.best.validation.to_dict(), TEST: test.to_dict()}
        reference = reference_of(bundle, job.split(TRAIN), ranks, workers)
        local = local_of(job.lake, job.spec)
        save_bundle(folder, fitted.weights, facts, job.spec, reference=reference, local=local)
        add_flavor(folder, job.spec, local)
        registry.upload(run_id, folder, metrics)


def _decide(
    job: Job,
    registry: Registry,
    version: int,
    features_for: Callable[[FeatureSpec], Snapshot],
) -> Verdict:
    present = registry.champion()
    if present is None or present == version:  # it is, if the alias was set just before a kill
        return Verdict(promote=True, reason=f"version {version} is champion: there was no other")
    custom = custom_class(job.pipeline)
    challenger, _ = registry.load(str(version), custom)
    champion, _ = registry.load(str(present), custom)
    arena = Arena(
        lake=job.lake,
        features_for=features_for,
        metric=job.objective.metric,
        seed=job.pipeline.seed,
        ranks=Ranks(device=choose_device(job.pipeline.train.device)),
        workers_count=job.pipeline.train.stream_workers,
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
