"""Rows reach the trainer through Petastorm, or not at all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from petastorm.reader import Reader
from petastorm.workers_pool.ventilator import ConcurrentVentilator
from petastorm.workers_pool.worker_base import WorkerBase

from pipeline.errors import StreamError
from pipeline.stream import Stream
from pipeline.stream.reader import PlanReader
from pipeline.stream.worker import RowGroupWorker
from tests.stream.examples import IDS, drain, write_files


@pytest.fixture
def stream(tmp_path: Path):
    with Stream(write_files(tmp_path, [[10] * 20]), IDS, rows_per_batch=40) as stream:
        yield stream


def test_without_petastorms_iteration_no_row_comes(
    stream: Stream, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ends(_self: Any):
        raise StopIteration

    monkeypatch.setattr(Reader, "__next__", ends)
    with pytest.raises(StreamError, match="came with 0 rows"):
        next(stream.epoch(0))


def test_without_petastorms_ventilator_no_row_comes(
    stream: Stream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ConcurrentVentilator, "_ventilate", lambda _self: None)
    with pytest.raises(StreamError, match="the ventilator ended after 0 of"):
        next(stream.epoch(0))


def test_without_petastorms_reader_no_row_comes(
    stream: Stream, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_args: Any, **_kwargs: Any):
        raise RuntimeError("sabotaged")

    monkeypatch.setattr(Reader, "__init__", fails)
    with pytest.raises(RuntimeError, match="sabotaged"):
        next(stream.epoch(0))


def test_every_item_is_ventilated_and_read_by_petastorm_exactly_once(
    stream: Stream, monkeypatch: pytest.MonkeyPatch
) -> None:
    ventilated: list[int] = []
    read: list[int] = []
    ventilator_start, reader_next = ConcurrentVentilator.start, Reader.__next__

    def start(self: Any):
        ventilated.extend(item["item"].row_group for item in self._items_to_ventilate)
        ventilator_start(self)

    def read_next(self: Any):
        placed = reader_next(self)
        read.append(placed.rows)
        return placed

    monkeypatch.setattr(ConcurrentVentilator, "start", start)
    monkeypatch.setattr(Reader, "__next__", read_next)
    assert sorted(drain(stream.epoch(0))) == list(range(200))
    assert set(ventilated) == set(range(20))
    assert len(read) == len(ventilated)
    assert sum(read) == 200


def test_reader_and_worker_are_petastorms() -> None:
    assert issubclass(PlanReader, Reader)
    assert issubclass(RowGroupWorker, WorkerBase)
