from __future__ import annotations

import multiprocessing
import random
import signal
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from multiprocessing import forkserver
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.stream.examples import write_files
from tests.stream.killed_training import Training, train

ROWS = 6 * 10 * 15
STEPS_PER_EPOCH = 75
MOST_STEPS = 20
"""That a process takes before it is killed."""


@pytest.fixture(scope="module")
def processes() -> Iterator[Any]:
    """Starts processes that have the slow imports behind them, and nothing of this one."""
    context = multiprocessing.get_context("forkserver")
    # There is one for all, with what the first who asked wanted it to import.
    forkserver._forkserver._stop()  # type: ignore[attr-defined]
    context.set_forkserver_preload(["tests.stream.killed_training"])
    yield context
    forkserver._forkserver._stop()  # type: ignore[attr-defined]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """6 files of 10 row groups of 15 rows, so that batches of 12 and windows of 96 cut them."""
    return write_files(tmp_path_factory.mktemp("rows"), [[15] * 10] * 6)


@pytest.mark.parametrize("cached", [False, True], ids=["decoding", "cached"])
def test_a_training_killed_a_few_times_sees_each_row_once_an_epoch(
    tmp_path: Path, files: list[str], processes: Any, cached: bool
) -> None:
    check_killed(processes, tmp_path, files, kills=5, epochs=3, cached=cached)


@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.parametrize("cached", [False, True], ids=["decoding", "cached"])
def test_a_training_killed_a_hundred_times_sees_each_row_once_an_epoch(
    tmp_path: Path, files: list[str], processes: Any, cached: bool
) -> None:
    check_killed(processes, tmp_path, files, kills=100, epochs=30, cached=cached)


def check_killed(
    processes: Any, folder: Path, files: list[str], *, kills: int, epochs: int, cached: bool
) -> None:
    alone, killed = (
        Training(
            files=files,
            folder=folder / name,
            epochs=epochs,
            checkpoint_every_steps=5,
            cached=cached,
        )
        for name in ("alone", "killed")
    )
    for training in (alone, killed):
        training.folder.mkdir()
    live(processes, alone)
    moments = random.Random(kills)  # noqa: S311 - reproducible, not secret
    for _ in range(kills):
        live(processes, killed, kill_after=moments.randint(1, 2 * MOST_STEPS))
    live(processes, killed)

    log = read_log(killed.log)
    assert len(log.resumed_at) == kills + 1
    inside = [step for step in log.resumed_at if step % STEPS_PER_EPOCH]
    assert len(inside) >= 0.6 * kills, f"few kills inside an epoch: {log.resumed_at}"
    assert log.void >= kills / 2, "nothing was repeated: was it killed at all?"
    check_rows(log, epochs)
    uninterrupted = read_log(alone.log)
    assert uninterrupted.resumed_at == [0]
    assert log.steps == uninterrupted.steps
    assert_same(alone.checkpoints.load(), killed.checkpoints.load())


def live(processes: Any, training: Training, kill_after: int | None = None) -> None:
    """Trains in a process of its own, to the end or until it has sent some words.

    It goes on while it is being killed, so it may be anywhere a few points behind the last word.
    """
    here, there = processes.Pipe(duplex=False)
    most_steps = MOST_STEPS if kill_after is not None else None
    process = processes.Process(target=train, args=(training, there, most_steps))
    process.start()
    there.close()
    try:
        words = 0
        while here.recv() != "done":
            words += 1
            if words == kill_after:
                process.kill()
                break
        process.join(60)
        assert process.exitcode == (0 if kill_after is None else -signal.SIGKILL)
    finally:
        process.kill()
        process.join()
        here.close()


@dataclass(frozen=True)
class Log:
    """What a log comes to when what was lost with a process is struck out."""

    steps: dict[int, tuple[int, tuple[int, ...]]]
    """Step -> its epoch and rows, where the weights hold what it did."""

    resumed_at: list[int]
    void: int
    """Steps that were logged and whose process died before the next checkpoint."""


def read_log(path: Path) -> Log:
    log = Log({}, [], 0)
    lines = path.read_text().splitlines()
    for line in filter(None, lines):
        word, *numbers = line.split()
        if word == "resumed":
            (reached,) = map(int, numbers)
            log.resumed_at.append(reached)
            lost = [step for step in log.steps if step > reached]
            log = replace(log, void=log.void + len(lost))
            for step in lost:
                del log.steps[step]
            assert len(log.steps) == reached, "the checkpoint holds steps that no process took"
        elif word == "step" and len(numbers) > 1:  # else cut short when the process was killed
            step, epoch, *ids = map(int, numbers)
            assert step == len(log.steps) + 1
            log.steps[step] = (epoch, tuple(ids))
    return log


def check_rows(log: Log, epochs: int) -> None:
    seen = [Counter[int]() for _ in range(epochs)]
    for epoch, ids in log.steps.values():
        seen[epoch].update(ids)
    for epoch, rows in enumerate(seen):
        assert rows == Counter(range(ROWS)), f"epoch {epoch}"
    assert len(log.steps) == epochs * STEPS_PER_EPOCH


def assert_same(one: Any, other: Any) -> None:
    """Bit for bit: weights, the optimiser's momentum, and where the stream is."""
    if isinstance(one, torch.Tensor):
        assert torch.equal(one, other)
    elif isinstance(one, dict):
        assert one.keys() == other.keys()
        for key, value in one.items():
            assert_same(value, other[key])
    else:
        assert one == other
