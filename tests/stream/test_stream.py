from __future__ import annotations

import json
import random
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from pipeline.errors import PlanError
from pipeline.stream import BatchLayout, RowGroup, Stream, row_groups_of
from pipeline.stream.worker import RowGroupWorker
from tests.stream.examples import (
    IDS,
    drain,
    epoch_ids,
    flat,
    global_steps,
    ids_of,
    write_files,
)

ROWS = 10 * 12 * 9


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory):
    """10 files of 12 row groups of 9 rows: 1,080 rows."""
    return write_files(tmp_path_factory.mktemp("rows"), [[9] * 12] * 10)


@pytest.mark.long
def test_a_hundred_epochs_deliver_every_id_exactly_once_over_1_2_and_4_ranks(
    files: list[str],
) -> None:
    expected = Counter(range(ROWS))
    for world_size in (1, 2, 4):
        streams = [
            Stream(
                files,
                IDS,
                rows_per_batch=40,
                seed=7,
                rank=rank,
                world_size=world_size,
                shuffle_window_rows=80,
                canonical_shards=4,
            )
            for rank in range(world_size)
        ]
        for epoch in range(100):
            delivered = Counter(i for s in streams for i in drain(s.epoch(epoch)))
            assert delivered == expected, f"epoch {epoch} of {world_size} ranks"


def state_after(files: list[str], steps: int, **chosen: Any):
    """The state of a stream of one rank that was left after some steps of epoch 0."""
    with Stream(files, IDS, **chosen) as stream:
        batches = stream.epoch(0)
        for _ in range(steps):
            next(batches)
        return json.loads(json.dumps(stream.state_dict()))


def resumed_steps(
    files: list[str], state: dict[str, Any], world_size: int, epoch: int = 0, **chosen: Any
):
    ranks = []
    for rank in range(world_size):
        with Stream(files, IDS, rank=rank, world_size=world_size, **chosen) as stream:
            stream.load_state_dict(state)
            ranks.append([ids_of(batch) for batch in stream.epoch(epoch)])
    return [flat(parts) for parts in zip(*ranks, strict=True)]


def test_the_order_is_the_same_for_any_worker_count_and_timing(
    files: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = {"rows_per_batch": 64, "seed": 3, "shuffle_window_rows": 256}
    expected = epoch_ids(files, workers_count=1, **chosen)
    process = RowGroupWorker.process

    def slow(self: Any, **item: Any):
        time.sleep(random.random() * 0.003)  # noqa: S311
        process(self, **item)

    monkeypatch.setattr(RowGroupWorker, "process", slow)
    for workers_count in (1, 2, 4):
        assert epoch_ids(files, workers_count=workers_count, **chosen) == expected


def test_a_global_step_holds_the_same_rows_for_1_2_4_and_8_ranks(files: list[str]) -> None:
    chosen = {"rows_per_batch": 64, "seed": 3, "shuffle_window_rows": 256, "epoch": 2}
    expected = global_steps(files, 1, **chosen)
    for world_size in (2, 4, 8):
        assert global_steps(files, world_size, **chosen) == expected


def test_rows_are_shuffled_within_windows_and_row_groups_over_the_epoch(files: list[str]) -> None:
    delivered = flat(epoch_ids(files, rows_per_batch=60, canonical_shards=1))
    displacement = np.abs(np.array(delivered) - np.arange(ROWS)).mean()
    # A full permutation displaces a row by a third of the rows on average.
    assert displacement == pytest.approx(ROWS / 3, rel=0.1)
    assert delivered != flat(epoch_ids(files, 1, rows_per_batch=60, canonical_shards=1))


def test_without_shuffle_rows_come_in_file_order(files: list[str]) -> None:
    assert flat(epoch_ids(files, rows_per_batch=100, shuffle=False)) == list(range(ROWS))
    ranks = [
        flat(epoch_ids(files, rows_per_batch=100, shuffle=False, rank=rank, world_size=2))
        for rank in range(2)
    ]
    assert ranks[0] + ranks[1] == list(range(ROWS))


def test_resuming_continues_with_what_was_not_delivered_also_with_other_ranks(
    files: list[str],
) -> None:
    chosen = {"rows_per_batch": 64, "seed": 3, "shuffle_window_rows": 256}
    expected = global_steps(files, 1, **chosen)
    for stop in (0, 1, 3, 4, 5, 16, 17):
        state = state_after(files, stop, **chosen)
        for world_size in (1, 2, 4):
            assert resumed_steps(files, state, world_size, **chosen) == expected[stop:]


@pytest.fixture
def placed(monkeypatch: pytest.MonkeyPatch) -> threading.Semaphore:
    """Released once for each item that a worker has brought in."""
    placed, process = threading.Semaphore(0), RowGroupWorker.process

    def counted(self: Any, **item: Any):
        process(self, **item)
        placed.release()

    monkeypatch.setattr(RowGroupWorker, "process", counted)
    return placed


def test_an_epoch_that_is_read_ahead_is_the_same(files: list[str]) -> None:
    chosen: dict[str, Any] = {"rows_per_batch": 64, "seed": 3, "shuffle_window_rows": 256}
    with Stream(files, IDS, **chosen) as stream:
        # The epoch that was read ahead, another one, and one after which none was named.
        for epoch, then in [(0, 1), (1, 5), (2, None), (3, None)]:
            found = [ids_of(batch) for batch in stream.epoch(epoch, then=then)]
            assert found == epoch_ids(files, epoch, **chosen)
            assert stream.state_dict()["epoch"] == epoch


def test_the_last_window_and_the_next_epochs_first_are_all_that_is_held(
    files: list[str], placed: threading.Semaphore
) -> None:
    chosen: dict[str, Any] = {"shuffle_window_rows": 400, "canonical_shards": 1}

    def comes_in(items: int) -> None:
        for _ in range(items):
            assert placed.acquire(timeout=60)
        assert not placed.acquire(blocking=False)

    with Stream(files, IDS, rows_per_batch=40, workers_count=1, **chosen) as stream:
        own, ahead = ([item.window for item in stream._plan(e, 0).items] for e in (0, 1))
        batches = stream.epoch(0, then=1)
        for _ in range(20):  # windows 0 and 1
            next(batches)
        comes_in(len(own))
        next(batches)
        comes_in(ahead.count(0))
        state = stream.state_dict()
        assert state["step"] == 21
        assert len(list(batches)) == 6
        comes_in(ahead.count(1))
        assert stream.state_dict()["epoch"] == 0
        assert [ids_of(batch) for batch in stream.epoch(1)] == epoch_ids(
            files, 1, rows_per_batch=40, **chosen
        )


def test_a_state_goes_before_what_was_read_ahead(files: list[str]) -> None:
    chosen: dict[str, Any] = {"rows_per_batch": 64, "seed": 3}
    state = state_after(files, 5, **chosen)
    with Stream(files, IDS, **chosen) as stream:
        list(stream.epoch(1, then=0))
        stream.load_state_dict(state)
        found = [ids_of(batch) for batch in stream.epoch(0)]
    assert found == epoch_ids(files, **chosen)[5:]


def test_resuming_does_not_read_what_is_skipped(
    files: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = {"rows_per_batch": 40, "shuffle_window_rows": 40, "canonical_shards": 1}
    state = state_after(files, 24, **chosen)
    read = []
    process = RowGroupWorker.process

    def counted(self: Any, **item: Any):
        read.append(item)
        process(self, **item)

    monkeypatch.setattr(RowGroupWorker, "process", counted)
    assert len(flat(resumed_steps(files, state, 1, **chosen))) == ROWS - 24 * 40
    assert len(read) <= 15  # of 120


def test_a_finished_epochs_state_goes_on_with_the_next(files: list[str]) -> None:
    chosen = {"rows_per_batch": 100, "canonical_shards": 4}
    state = state_after(files, 11, **chosen)
    assert resumed_steps(files, state, 1, **chosen) == []
    assert resumed_steps(files, state, 1, epoch=1, **chosen) == global_steps(files, 1, 1, **chosen)


def test_a_state_in_the_middle_of_an_epoch_refuses_another_epoch(files: list[str]) -> None:
    state = state_after(files, 2, rows_per_batch=64)
    with Stream(files, IDS, rows_per_batch=64) as stream:
        stream.load_state_dict(state)
        with pytest.raises(PlanError, match="step 2 of epoch 0"):
            stream.epoch(1)


@pytest.mark.parametrize("other", [{"seed": 1}, {"rows_per_batch": 32}, {"drop_last": True}])
def test_a_state_of_other_settings_is_refused(files: list[str], other: dict[str, Any]) -> None:
    state = state_after(files, 2, rows_per_batch=64)
    with (
        Stream(files, IDS, **{"rows_per_batch": 64, **other}) as stream,
        pytest.raises(PlanError, match=next(iter(other))),
    ):
        stream.load_state_dict(state)


def test_a_state_of_other_data_is_refused(files: list[str]) -> None:
    state = state_after(files, 2, rows_per_batch=64)
    with (
        Stream(files[:-1], IDS, rows_per_batch=64) as stream,
        pytest.raises(PlanError, match="snapshot"),
    ):
        stream.load_state_dict(state)


@pytest.mark.parametrize(
    "sizes", [[], [[]], [[0]], [[1]], [[], [1], []], [[0, 3, 0], []], [[5], [0]], [[300]]]
)
@pytest.mark.parametrize("shuffle", [True, False])
def test_few_empty_and_huge_row_groups_work_on_more_ranks_than_row_groups(
    tmp_path: Path, sizes: list[list[int]], shuffle: bool
) -> None:
    files = write_files(tmp_path, sizes)
    rows = sum(map(sum, sizes))
    ranks = [
        epoch_ids(files, rows_per_batch=16, rank=rank, world_size=4, shuffle=shuffle)
        for rank in range(4)
    ]
    assert sorted(row_id for batches in ranks for row_id in flat(batches)) == list(range(rows))
    assert len({len(batches) for batches in ranks}) == 1


def test_a_short_last_batch_says_how_many_rows_count(files: list[str]) -> None:
    with Stream(files, IDS, rows_per_batch=1000, canonical_shards=4) as stream:
        assert [(b.step, b.rows, len(b.tensors["id"])) for b in stream.epoch(0)] == [
            (0, 1000, 1000),
            (1, 80, 80),
        ]
        assert stream.steps_per_epoch == 2


@pytest.mark.parametrize(
    ("rows", "expected"), [(10, [6, 4]), (11, [6, 5]), (12, [6, 6]), (13, [6, 6, 1]), (2, [2])]
)
def test_every_rank_knows_the_global_steps_rows_also_when_shards_differ_by_one(
    tmp_path: Path, rows: int, expected: list[int]
) -> None:
    files = write_files(tmp_path, [[rows]])
    for rank in range(3):  # 11 rows: shards of 3, 4 and 4
        with Stream(files, IDS, rows_per_batch=6, rank=rank, world_size=3, shuffle=False) as stream:
            assert [batch.global_rows for batch in stream.epoch(0)] == expected


def test_drop_last_gives_whole_batches_only(files: list[str]) -> None:
    batches = epoch_ids(files, rows_per_batch=100, canonical_shards=4, drop_last=True)
    assert [len(batch) for batch in batches] == [100] * 10
    assert len(set(flat(batches))) == 1000


def test_tensors_have_the_layouts_shapes_dtypes_and_values(files: list[str]) -> None:
    layout = BatchLayout(
        matrices={
            "numeric": ("num_a", "num_b"),
            "categorical": ("cat_a",),
            "wide": ("cat_a", "id"),
        },
        scalars={"label": "late", "id": "id"},
        strings=("name",),
    )
    with Stream(files, layout, rows_per_batch=64, shuffle_window_rows=128) as stream:
        batch = next(stream.epoch(0))
    ids = batch.tensors["id"]
    assert ids.shape == (64,)
    assert ids.dtype == torch.int64
    torch.testing.assert_close(batch.tensors["numeric"], torch.stack([ids * 0.5, ids * 2.0], 1))
    assert batch.tensors["numeric"].T.is_contiguous()  # as Parquet has it: column after column
    torch.testing.assert_close(batch.tensors["categorical"], (ids % 7).int()[:, None])
    torch.testing.assert_close(batch.tensors["wide"], torch.stack([ids % 7, ids], 1))
    torch.testing.assert_close(batch.tensors["label"], (ids % 2).float())
    assert batch.strings["name"].tolist() == [f"n{i}" for i in ids.tolist()]


@pytest.mark.parametrize("list_type", [pa.list_, pa.large_list, lambda t: pa.list_(t, 3)])
def test_lists_of_fixed_length_become_columns_of_a_matrix(
    tmp_path: Path, list_type: Callable[[pa.DataType], pa.DataType]
) -> None:
    ids = np.arange(50)
    packed = pa.array([[i, i + 0.25, i + 0.5] for i in ids], list_type(pa.float32()))
    table = pa.table({"id": ids, "packed": packed, "flat": pa.array(-ids * 1.0)})
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=13)
    layout = BatchLayout(
        matrices={"m": ("packed",), "mixed": ("flat", "packed")}, scalars={"id": "id"}
    )
    with Stream([str(tmp_path / "a.parquet")], layout, rows_per_batch=16) as stream:
        for batch in stream.epoch(0):
            row = batch.tensors["id"].float()
            expected = torch.stack([row, row + 0.25, row + 0.5], 1)
            torch.testing.assert_close(batch.tensors["m"], expected)
            mixed = torch.cat([-row[:, None], expected], 1)
            torch.testing.assert_close(batch.tensors["mixed"], mixed)


def test_batches_are_not_overwritten_by_later_ones(files: list[str]) -> None:
    with Stream(files, IDS, rows_per_batch=64, shuffle_window_rows=64) as stream:
        batches = list(stream.epoch(0))
    assert Counter(i for b in batches for i in ids_of(b)) == Counter(range(ROWS))


def test_uris_are_read_as_paths_are(tmp_path: Path) -> None:
    import fsspec

    folder = tmp_path / "with space"
    folder.mkdir()
    files = write_files(folder, [[10, 10]])
    remote = "memory://lakestorm/part-000.parquet"
    with fsspec.open(remote, "wb") as target:
        target.write((folder / "part-000.parquet").read_bytes())
    for uri in (f"file://{files[0].replace(' ', '%20')}", remote):
        assert sorted(flat(epoch_ids([uri], rows_per_batch=8))) == list(range(20))


def test_row_groups_are_listed_in_the_order_of_the_files(tmp_path: Path) -> None:
    files = write_files(tmp_path, [[3, 0], [], [5]])
    assert row_groups_of(files) == [
        RowGroup(files[0], 0, 3),
        RowGroup(files[0], 1, 0),
        RowGroup(files[2], 0, 5),
    ]


def test_few_row_groups_a_shard_are_warned_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    Stream(write_files(tmp_path, [[10] * 10]), IDS, rows_per_batch=8)
    assert "10 row groups for 8 canonical shards" in caplog.text
