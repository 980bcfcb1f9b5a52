"""What can befall the workers of a training, on real processes, and what comes of it."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from pipeline.errors import CheckpointError, StoppedError, TrainingError, WorkerLostError
from pipeline.lake import Lake
from pipeline.outcome import Outcome
from pipeline.training import stage
from pipeline.training.registry import Registry
from tests.training import examples

SPEC = examples.spec(cardinalities=())
COUNTS = {"train": 640, "validation": 200, "test": 100}
STEPS = 2 * 10  # of 640 rows in batches of 64
pytestmark = pytest.mark.timeout(280)

Train = Callable[..., Outcome]


@pytest.fixture
def filled(lake: Lake) -> Lake:
    examples.write_features(lake, SPEC, COUNTS)
    return lake


def train(lake: Lake, plan: dict[str, Any] | None = None, **how: Any) -> Outcome:
    """Trains with a network that something befalls at a step of a rank, some times."""
    file = Path(lake.root) / "plan.json"
    file.unlink(missing_ok=True)
    if plan is not None:
        file.write_text(json.dumps({"rank": 1, "times": 1, **plan}))
    settings = {
        "model": {
            "family": "custom",
            "custom": "tests.training.faulty:Faulty",
            "settings": {"plan": str(file)},
        },
        "epochs": 2,
        "workers": 2,
        "max_restarts": 1,
        "hang_seconds": 60,
        "shuffle_window_rows": 256,
        "stream_workers": 1,
        **how,
    }
    pipeline = examples.pipeline(lake, **settings)
    return stage.train(pipeline, lake, SPEC, features_for=lambda _spec: pytest.fail("not needed"))


def weights(lake: Lake) -> dict[str, torch.Tensor]:
    registry = Registry(lake, "small")
    [version] = registry.versions()
    [file] = Path(lake.root).glob("mlflow-artifacts/*/artifacts/model/weights.safetensors")
    assert version.metrics["validation"]["rows"] == COUNTS["validation"]
    return load_file(file)


def assert_same(found: Lake, expected: Lake) -> None:
    one, other = weights(found), weights(expected)
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


def checkpoints(lake: Lake) -> list[Path]:
    return sorted(Path(lake.root).glob("runs/small/*/step-*.ckpt"))


@pytest.fixture
def undisturbed(filled: Lake, tmp_path: Path) -> Lake:
    """The same features in another lake, trained without a fault."""
    other = tmp_path / "undisturbed"
    shutil.copytree(filled.root, other)
    lake = Lake(other)
    train(lake)
    return lake


@pytest.mark.long
def test_a_worker_that_is_killed_is_started_again_and_nothing_is_different(
    filled: Lake, undisturbed: Lake, caplog: pytest.LogCaptureFixture
) -> None:
    environment = dict(os.environ)
    train(filled, {"how": "kill", "step": 8})
    assert dict(os.environ) == environment
    assert "rank 1: was ended by SIGKILL" in caplog.text
    assert "Restart 1 of 1" in caplog.text
    assert_same(filled, undisturbed)


def test_a_loss_that_is_no_number_stops_with_the_rows_it_came_from_and_is_not_tried_again(
    filled: Lake, caplog: pytest.LogCaptureFixture
) -> None:
    told = (
        r"step 7, epoch 1, rank 1: the loss is nan; the batch is of "
        r".*/split=train/period=2013-01/.*\.parquet row group 0 \(32 rows\)"
    )
    with pytest.raises(TrainingError, match=told):
        train(filled, {"how": "nan", "step": 7})
    assert "Restart" not in caplog.text
    assert len(checkpoints(filled)) == 2  # of steps 3 and 6


@pytest.mark.long
def test_a_loss_that_is_no_number_can_be_left_out(filled: Lake) -> None:
    train(filled, {"how": "nan", "step": 7}, on_nan="skip")
    assert all(torch.isfinite(weight).all() for weight in weights(filled).values())


@pytest.mark.long
@pytest.mark.parametrize("how", ["hang", "freeze"])
def test_a_rank_that_hangs_is_ended_and_started_again(
    filled: Lake, undisturbed: Lake, caplog: pytest.LogCaptureFixture, how: str
) -> None:
    train(filled, {"how": how, "step": 8}, hang_seconds=20)
    assert "made no progress for 20 s" in caplog.text
    assert how == "hang" or "rank 1: made no progress" in caplog.text
    assert_same(filled, undisturbed)


@pytest.mark.long
def test_a_full_disk_ends_the_run_with_the_checkpoints_it_has(
    filled: Lake, undisturbed: Lake, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(CheckpointError, match=r"step-0000000009\.ckpt: cannot be written: .*large"):
        train(filled, {"how": "full", "step": 8, "rank": 0})
    assert "Restart" not in caplog.text
    assert [path.name for path in checkpoints(filled)] == [
        "step-0000000003.ckpt",
        "step-0000000006.ckpt",
    ]
    assert not list(Path(filled.root).glob("runs/small/*/*.partial"))
    train(filled)
    assert_same(filled, undisturbed)


@pytest.mark.long
def test_asked_to_stop_it_writes_a_checkpoint_and_goes_on_from_there(
    filled: Lake, undisturbed: Lake
) -> None:
    with pytest.raises(StoppedError, match="asked to stop"):
        train(filled, {"how": "term", "step": 8})
    newest = checkpoints(filled)[-1].name
    assert newest not in ("step-0000000006.ckpt", "step-0000000009.ckpt"), "it was asked at step 8"
    train(filled)
    assert_same(filled, undisturbed)


@pytest.mark.long
def test_after_the_last_restart_the_first_cause_is_told(filled: Lake) -> None:
    told = r"rank 1: was ended by SIGKILL; restarted 1 times"
    with pytest.raises(WorkerLostError, match=told):
        train(filled, {"how": "kill", "step": 2, "times": 9})
    with pytest.raises(TrainingError, match=r"rank 1: KeyError: 'a bug of my own'"):
        train(filled, {"how": "raise", "step": 2})
