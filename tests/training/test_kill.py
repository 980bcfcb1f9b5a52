from __future__ import annotations

import hashlib
import multiprocessing
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest

from pipeline.lake import Lake
from pipeline.training.registry import Registry
from tests.training import examples
from tests.training.killed import train_telling

COUNTS = {"train": 1200, "validation": 300, "test": 200}
STEPS = 3 * 19  # 1,200 rows in batches of 64


@pytest.fixture(scope="module")
def processes() -> Any:
    """Starts processes that have the slow imports behind them, and nothing of this one."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(
        ["tests.training.killed", "mlflow.store.tracking.sqlalchemy_store"]
    )
    return context


def run_until(processes: Any, root: Path, steps: int | None) -> int:
    """Trains in a process that is killed after some steps; returns the steps it took."""
    here, there = processes.Pipe(duplex=False)
    process = processes.Process(target=train_telling, args=(root, there))
    process.start()
    there.close()
    taken = 0
    try:
        while here.recv() == "step":
            taken += 1
            if taken == steps:
                process.kill()
                break
        process.join(60)
        assert process.exitcode == (0 if steps is None else -signal.SIGKILL)
    finally:
        process.kill()
        process.join()
        here.close()
    return taken


def outcome(lake: Lake) -> tuple[dict[str, list[tuple[int, float]]], str]:
    """The loss curve with the validation metrics as MLflow has it, and the weights' digest."""
    registry = Registry(lake, "small")
    client = registry._client
    [version] = client.search_model_versions("name='small'")
    run_id = str(version.run_id)
    curve = {
        key: [(m.step, m.value) for m in client.get_metric_history(run_id, key)]
        for key in client.get_run(run_id).data.metrics
    }
    [weights] = Path(lake.root).glob("mlflow-artifacts/*/artifacts/model/weights.safetensors")
    return curve, hashlib.sha256(weights.read_bytes()).hexdigest()


def test_a_killed_process_started_again_ends_bit_for_bit_as_one_left_alone(
    lake: Lake, tmp_path: Path, processes: Any
) -> None:
    examples.write_features(lake, examples.spec(), COUNTS)
    other = tmp_path / "killed"
    shutil.copytree(lake.root, other)
    # Files are named by chance: the copy holds the same, and so has the same fingerprint.
    assert run_until(processes, Path(lake.root), None) == STEPS
    taken = [run_until(processes, other, steps) for steps in (14, 5, 17)]
    rest = run_until(processes, other, None)
    assert rest < STEPS, "it began again from the beginning"
    assert sum(taken) + rest > STEPS, "nothing was repeated: was it killed at all?"
    assert outcome(Lake(other)) == outcome(lake)
    assert not list(other.glob("runs/small/*/*")), "checkpoints of a registered model stay"
