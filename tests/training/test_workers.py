"""Ranks that train together: the same curve whatever their number, and after any kill."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline.lake import Lake
from pipeline.training import causes
from pipeline.training.job import Job
from pipeline.training.loop import evaluate, fitted_of
from pipeline.training.networks import build
from pipeline.training.ranks import Ranks
from pipeline.training.splits import evaluation_stream
from pipeline.training.worker import checkpoints_of
from tests.training import examples

SPEC = examples.spec()
pytestmark = [pytest.mark.long, pytest.mark.timeout(900)]

Curve = dict[tuple[int, int], str]
"""(epoch, step) to the loss, in hexadecimal digits."""


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Lake:
    lake = Lake(tmp_path_factory.mktemp("lake"))
    # 2,540 rows: the last step of an epoch is of 44 rows, and 4 ranks share them.
    examples.write_features(lake, SPEC, {"train": 2540, "validation": 300, "test": 2000})
    return lake


def job_of(lake: Lake, seed: int = 5, **how: Any) -> Job:
    settings = {"patience_epochs": 99, "checkpoint_every_steps": 7, "stream_workers": 1, **how}
    pipeline = examples.pipeline(lake, **settings).model_copy(update={"seed": seed})
    version = lake.table(SPEC.table).snapshot().version
    return Job(pipeline=pipeline, lake=lake, spec=SPEC, features_version=version)


def told(job: Job, workers: int, pipe: Path, kill_after: int | None = None) -> Iterator[str]:
    """Runs a job by torchrun; yields each step's line. Kills all its processes after some."""
    job.folder.mkdir(parents=True, exist_ok=True)
    causes.clear(job.folder)  # as the driver does before it launches
    if not pipe.exists():
        os.mkfifo(pipe)
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(workers)]
    process = subprocess.Popen(
        [sys.executable, *torchrun, "-m", "tests.training.ranked", str(job.write()), str(pipe)],
        start_new_session=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "TORCH_CPP_LOG_LEVEL": "ERROR"},
        stderr=subprocess.PIPE,
    )
    try:
        with pipe.open() as lines:
            for count, line in enumerate(lines, start=1):
                yield line
                if count == kill_after:
                    os.killpg(process.pid, signal.SIGKILL)
                    break
        _, said = process.communicate()
        expected = 0 if kill_after is None else -signal.SIGKILL
        assert process.returncode == expected, said.decode()
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def curve(job: Job, workers: int, pipe: Path, kill_after: int | None = None) -> Curve:
    found = {}
    for line in told(job, workers, pipe, kill_after):
        epoch, step, loss = line.split()
        found[int(epoch), int(step)] = loss
    return found


def test_one_two_and_four_workers_take_the_same_200_steps(lake: Lake, tmp_path: Path) -> None:
    exact: dict[str, Any] = {
        "model": {"hidden": [32, 16], "embedding_dimension": 3},
        "precision": "float64",
        "epochs": 5,
    }
    curves = {}
    for workers in (1, 2, 4):
        job = job_of(lake, **exact)
        curves[workers] = curve(job, workers, tmp_path / "pipe")
        checkpoints_of(job).remove()
    assert len(curves[1]) == 200
    furthest = 0.0
    for workers in (2, 4):
        assert curves[workers].keys() == curves[1].keys()
        for place, loss in curves[1].items():
            one, other = float.fromhex(loss), float.fromhex(curves[workers][place])
            furthest = max(furthest, abs(one - other) / one)
    print(f"largest relative difference {furthest:.1e}")  # noqa: T201 (a figure to be told)
    assert furthest < 1e-9


def test_in_float32_the_test_metric_hardly_depends_on_the_workers(
    lake: Lake, tmp_path: Path
) -> None:
    for seed in (1, 2, 3):
        found = []
        for workers in (1, 2, 4):
            job = job_of(lake, seed, model={"hidden": [16], "embedding_dimension": 3})
            assert curve(job, workers, tmp_path / "pipe")
            module = build(job.architecture)
            module.load_state_dict(fitted_of(checkpoints_of(job)).weights)
            checkpoints_of(job).remove()
            with evaluation_stream(job.split("test").uris(), SPEC, 1) as stream:
                found.append(evaluate(module, stream, Ranks(), job.objective).values["auroc"])
        print(f"seed {seed}: test AUROC {found}")  # noqa: T201 (a figure to be told)
        assert max(found) - min(found) <= 0.003


def test_four_killed_ranks_go_on_bit_for_bit(lake: Lake, tmp_path: Path) -> None:
    # 1.1 million weights: more than the first bucket of DDP's gradients. Dropout: every rank draws.
    large: dict[str, Any] = {
        "model": {"hidden": [1024, 1024], "embedding_dimension": 3, "dropout": 0.2}
    }
    job = job_of(lake, **large, epochs=2)
    expected = curve(job, 4, tmp_path / "pipe")
    weights = fitted_of(checkpoints_of(job)).weights
    checkpoints_of(job).remove()
    found: Curve = {}
    taken = 0
    for kill_after in (17, 5, 30, None):
        part = curve(job, 4, tmp_path / "pipe", kill_after)
        taken += len(part)
        assert all(found.get(place, loss) == loss for place, loss in part.items())
        found |= part
    assert found == expected
    assert taken > len(expected) == 80, "nothing was repeated: was it killed at all?"
    again = fitted_of(checkpoints_of(job)).weights
    checkpoints_of(job).remove()
    assert all(torch.equal(again[name], weights[name]) for name in weights)
