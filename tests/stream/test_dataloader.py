"""The stream under torch's DataLoader, and its batches on their way to a device."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from pipeline.errors import PlanError
from pipeline.stream import Batch, Stream
from tests.stream.conftest import stream_threads
from tests.stream.every_kind import EVERY_KIND, every_kind, same_batch
from tests.stream.test_tensors import write

ROWS = 130
STEPS = 9


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    return write(tmp_path_factory.mktemp("rows"), every_kind(ROWS))


@pytest.fixture
def stream(files: list[str]) -> Iterator[Stream]:
    with Stream(files, EVERY_KIND, rows_per_batch=16, shuffle_window_rows=48, seed=2) as stream:
        yield stream


@pytest.fixture(scope="module")
def epochs(files: list[str]) -> list[list[Batch]]:
    """What epochs 0 to 3 hold."""
    chosen: dict[str, Any] = {"rows_per_batch": 16, "shuffle_window_rows": 48, "seed": 2}
    with Stream(files, EVERY_KIND, **chosen) as stream:
        return [list(stream.epoch(epoch)) for epoch in range(4)]


def loader_of(stream: Stream, **chosen: Any) -> DataLoader[Batch]:
    return DataLoader(stream, batch_size=None, **{"num_workers": 0, **chosen})


def assert_same(found: list[Batch], expected: list[Batch]) -> None:
    assert len(found) == len(expected)
    assert all(map(same_batch, found, expected))


def test_every_iteration_of_a_loader_is_the_next_epoch(
    stream: Stream, epochs: list[list[Batch]]
) -> None:
    loader = loader_of(stream)
    assert_same(list(loader), epochs[0])
    assert_same(list(loader), epochs[1])
    # Another loader over the same stream goes on with it.
    assert_same(list(loader_of(stream)), epochs[2])
    assert len(epochs[0]) == stream.steps_per_epoch == STEPS


def test_an_iteration_that_was_left_is_followed_by_the_next_epoch(
    stream: Stream, epochs: list[list[Batch]]
) -> None:
    loader = loader_of(stream)
    for batch in loader:
        assert same_batch(batch, epochs[0][0])
        break
    assert_same(list(loader), epochs[1])


def test_an_epoch_that_is_named_may_come_between(stream: Stream, epochs: list[list[Batch]]) -> None:
    assert_same(list(stream.epoch(2)), epochs[2])
    assert_same(list(loader_of(stream)), epochs[3])


def test_leaving_the_loop_of_a_loader_leaves_no_thread(stream: Stream) -> None:
    before = stream_threads()

    def consume() -> None:
        for batch in loader_of(stream):
            raise KeyboardInterrupt(batch.step)

    with pytest.raises(KeyboardInterrupt):
        consume()
    assert stream_threads() <= before


def test_worker_processes_are_refused_with_what_to_do(stream: Stream) -> None:
    # torch takes an error with three parts out of its process as a RuntimeError with its text.
    with pytest.raises((PlanError, RuntimeError), match=r"PlanError(.|\n)*Set num_workers=0, and"):
        next(iter(loader_of(stream, num_workers=1)))


@pytest.mark.parametrize("stop", [0, 1, 4, STEPS])
@pytest.mark.parametrize("first_epoch", [0, 1])
def test_a_state_taken_under_a_loader_goes_on_under_another(
    stream: Stream, files: list[str], epochs: list[list[Batch]], stop: int, first_epoch: int
) -> None:
    loader = loader_of(stream)
    for _ in range(first_epoch):
        list(loader)
    batches = iter(loader)
    for step in range(stop):
        assert same_batch(next(batches), epochs[first_epoch][step])
    state = json.loads(json.dumps(stream.state_dict()))
    chosen: dict[str, Any] = {"rows_per_batch": 16, "shuffle_window_rows": 48, "seed": 2}
    with Stream(files, EVERY_KIND, **chosen) as resumed:
        resumed.load_state_dict(state)
        again = loader_of(resumed)
        if stop < STEPS:
            assert_same(list(again), epochs[first_epoch][stop:])
        assert_same(list(again), epochs[first_epoch + 1])


# --- torchdata ------------------------------------------------------------------------------------


# What torchdata 0.11 calls, torch 2.13 is about to drop.
torchdata = pytest.mark.filterwarnings("ignore:'set_vital' is deprecated:UserWarning")


def stateful_loader(stream: Stream) -> Any:
    """torchdata's loader, which asks the stream for its state itself."""
    stateful = pytest.importorskip("torchdata.stateful_dataloader")
    return stateful.StatefulDataLoader(stream, batch_size=None, num_workers=0)


@torchdata
def test_torchdatas_loader_gives_the_same_epochs(stream: Stream, epochs: list[list[Batch]]) -> None:
    loader = stateful_loader(stream)
    assert_same(list(loader), epochs[0])
    assert_same(list(loader), epochs[1])


@torchdata
@pytest.mark.parametrize("stop", [1, 4, STEPS])
@pytest.mark.parametrize("first_epoch", [0, 1])
def test_torchdatas_loader_resumes_the_stream(
    stream: Stream, files: list[str], epochs: list[list[Batch]], stop: int, first_epoch: int
) -> None:
    loader = stateful_loader(stream)
    for _ in range(first_epoch):
        list(loader)
    batches = iter(loader)
    for _ in range(stop):
        next(batches)
    if stop == STEPS:
        assert next(batches, None) is None
    state = loader.state_dict()
    chosen: dict[str, Any] = {"rows_per_batch": 16, "shuffle_window_rows": 48, "seed": 2}
    with Stream(files, EVERY_KIND, **chosen) as resumed:
        again = stateful_loader(resumed)
        again.load_state_dict(state)
        if stop < STEPS:
            assert_same(list(again), epochs[first_epoch][stop:])
        assert_same(list(again), epochs[first_epoch + 1])


@torchdata
def test_asking_torchdatas_loader_for_its_state_before_the_first_batch_skips_no_epoch(
    stream: Stream, epochs: list[list[Batch]]
) -> None:
    loader = stateful_loader(stream)
    loader.state_dict()
    assert_same(list(loader), epochs[0])
    assert_same(list(loader), epochs[1])


# --- devices --------------------------------------------------------------------------------------


@pytest.mark.parametrize("non_blocking", [True, False])
def test_a_batch_goes_to_a_device_with_lengths_and_strings(
    epochs: list[list[Batch]], non_blocking: bool
) -> None:
    for batch in epochs[0]:
        moved = batch.to("cpu", non_blocking=non_blocking)
        assert same_batch(moved, batch)
        assert moved.strings["text"] is batch.strings["text"]
    there = epochs[0][0].to(torch.device("meta"), non_blocking=non_blocking)
    devices = {t.device.type for t in [*there.tensors.values(), *there.lengths.values()]}
    assert devices == {"meta"}
    assert (there.rows, there.step) == (16, 0)
    assert isinstance(there.strings["text"], np.ndarray)


def test_a_loader_pins_batches_by_their_own_method(
    epochs: list[list[Batch]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """torch's `pin_memory` of its loader looks for a method of this name."""
    from torch.utils.data._utils.pin_memory import pin_memory

    pinned = []

    def pin(tensor: torch.Tensor) -> torch.Tensor:
        pinned.append(tensor)
        return tensor.clone()

    monkeypatch.setattr(torch.Tensor, "pin_memory", pin)
    batch = epochs[0][0]
    found = pin_memory(batch)
    assert same_batch(found, batch)
    assert len(pinned) == len(batch.tensors) + len(batch.lengths)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_pinned_batches_are_copied_to_cuda_while_the_host_goes_on(
    stream: Stream, epochs: list[list[Batch]]
) -> None:
    found = []
    for batch in loader_of(stream, pin_memory=True):
        assert all(tensor.is_pinned() for tensor in batch.tensors.values() if tensor.numel())
        found.append(batch.to("cuda", non_blocking=True))
    torch.cuda.synchronize()
    assert {tensor.device.type for batch in found for tensor in batch.tensors.values()} == {"cuda"}
    assert_same([batch.to("cpu") for batch in found], epochs[0])


def test_a_snapshot_without_rows_has_no_batches(tmp_path: Path) -> None:
    stream = Stream(write(tmp_path, every_kind(0)), EVERY_KIND, rows_per_batch=16)
    loader = loader_of(stream)
    assert list(loader) == list(loader) == []
