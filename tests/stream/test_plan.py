from __future__ import annotations

import shutil
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import PlanError
from pipeline.stream import Stream
from pipeline.stream.cache import CacheSettings
from pipeline.stream.plan import (
    EpochPlan,
    Item,
    PlanSettings,
    check_ranks,
    default_canonical_shards,
    plan_epoch,
    steps_per_epoch,
    window_order,
)
from pipeline.stream.worker import RowGroupWorker
from tests.stream.examples import IDS, ids_of, write_files

Counts = npt.NDArray[np.int64]

row_counts = st.lists(st.integers(0, 40), max_size=30).map(lambda sizes: np.array(sizes, np.int64))


@st.composite
def settings_and_ranks(draw: st.DrawFn) -> tuple[PlanSettings, int]:
    world_size = draw(st.integers(1, 8))
    shards = world_size * draw(st.integers(1, 4))
    settings = PlanSettings(
        rows_per_batch=shards * draw(st.integers(1, 9)),
        canonical_shards=shards,
        seed=draw(st.integers(0, 5)),
        shuffle=draw(st.booleans()),
        shuffle_window_rows=draw(st.integers(1, 200)),
    )
    return settings, world_size


def plans(
    counts: Counts, settings: PlanSettings, world_size: int, epoch: int = 0, first_step: int = 0
) -> list[EpochPlan]:
    return [
        plan_epoch(
            counts, settings, epoch=epoch, rank=rank, world_size=world_size, first_step=first_step
        )
        for rank in range(world_size)
    ]


def rows_of(plan: EpochPlan) -> list[tuple[int, int]]:
    return [(i.row_group, row) for i in plan.items for row in range(i.start, i.stop)]


@given(row_counts, settings_and_ranks(), st.integers(0, 3))
def test_every_row_is_planned_exactly_once_over_all_ranks(
    counts: Counts, chosen: tuple[PlanSettings, int], epoch: int
) -> None:
    settings, world_size = chosen
    planned = Counter(
        r for plan in plans(counts, settings, world_size, epoch) for r in rows_of(plan)
    )
    assert planned == Counter((g, row) for g, n in enumerate(counts) for row in range(n))


@given(row_counts, settings_and_ranks())
def test_ranks_take_equal_steps_and_shards_are_equal_within_a_row(
    counts: Counts, chosen: tuple[PlanSettings, int]
) -> None:
    settings, world_size = chosen
    made = plans(counts, settings, world_size)
    lengths = [rows for plan in made for rows in plan.shard_rows]
    assert len({plan.steps for plan in made}) == 1
    assert max(lengths) - min(lengths) <= 1
    # The oracle deals the rows like cards and counts rounds.
    dealt = np.array_split(np.arange(counts.sum()), settings.canonical_shards)
    rounds = np.ceil(max(len(part) for part in dealt) / settings.rows_per_shard_step)
    assert made[0].steps == rounds


@given(row_counts, settings_and_ranks())
def test_a_shard_has_the_same_items_whatever_the_world_size(
    counts: Counts, chosen: tuple[PlanSettings, int]
) -> None:
    settings, world_size = chosen
    alone = plans(counts, settings, 1)[0].items
    shared = [item for plan in plans(counts, settings, world_size) for item in plan.items]
    assert set(alone) == set(shared)


@given(row_counts, settings_and_ranks())
def test_items_come_window_by_window_and_without_gaps(
    counts: Counts, chosen: tuple[PlanSettings, int]
) -> None:
    settings, world_size = chosen
    for plan in plans(counts, settings, world_size):
        windows = [item.first_row // settings.rows_per_shard_window for item in plan.items]
        assert windows == sorted(windows)
        reached = dict.fromkeys(plan.shards, 0)
        for item in plan.items:
            assert item.first_row == reached[item.shard]
            reached[item.shard] += item.stop - item.start
        assert tuple(reached.values()) == plan.shard_rows


@given(row_counts, settings_and_ranks(), st.integers(0, 50))
def test_a_resumed_plan_is_the_rest_from_the_windows_beginning(
    counts: Counts, chosen: tuple[PlanSettings, int], step: int
) -> None:
    settings, world_size = chosen
    step = min(step, steps_per_epoch(int(counts.sum()), settings))
    skipped = step // settings.steps_per_window * settings.rows_per_shard_window
    whole = plans(counts, settings, world_size)
    resumed = plans(counts, settings, world_size, first_step=step)
    for before, after in zip(whole, resumed, strict=True):
        for shard in before.shards:
            assert shard_rows(after, shard) == shard_rows(before, shard)[skipped:]


def shard_rows(plan: EpochPlan, shard: int) -> list[tuple[int, int]]:
    items = sorted((i for i in plan.items if i.shard == shard), key=lambda i: i.first_row)
    return [(i.row_group, row) for i in items for row in range(i.start, i.stop)]


@given(row_counts, settings_and_ranks())
def test_drop_last_keeps_whole_steps_only(counts: Counts, chosen: tuple[PlanSettings, int]) -> None:
    settings, world_size = chosen
    dropping = PlanSettings(
        rows_per_batch=settings.rows_per_batch,
        canonical_shards=settings.canonical_shards,
        drop_last=True,
    )
    planned = sum(len(rows_of(plan)) for plan in plans(counts, dropping, world_size))
    assert planned == steps_per_epoch(int(counts.sum()), dropping) * dropping.rows_per_batch
    assert counts.sum() - planned < settings.rows_per_batch + settings.canonical_shards


def test_epochs_and_seeds_have_orders_of_their_own() -> None:
    counts = np.full(100, 5, np.int64)

    def order(seed: int, epoch: int) -> list[int]:
        settings = PlanSettings(rows_per_batch=8, canonical_shards=1, seed=seed)
        return [item.row_group for item in plans(counts, settings, 1, epoch)[0].items]

    orders = [order(seed, epoch) for seed in (0, 1) for epoch in (0, 1)]
    assert order(1, 1) == orders[3]
    assert len({tuple(o) for o in orders}) == 4


def test_windows_have_orders_of_their_own() -> None:
    settings = PlanSettings(rows_per_batch=8, canonical_shards=2, seed=0)
    orders = {
        tuple(window_order(settings, epoch, shard, window, 50))
        for epoch in (0, 1)
        for shard in (0, 1)
        for window in (0, 1)
    }
    assert len(orders) == 8
    assert all(sorted(order) == list(range(50)) for order in orders)


@pytest.mark.parametrize(("batch", "shards"), [(4096, 8), (12, 4), (6, 2), (7, 1), (1, 1)])
def test_canonical_shards_depend_on_the_global_batch_alone(batch: int, shards: int) -> None:
    assert default_canonical_shards(batch) == shards


def test_ranks_that_do_not_divide_the_shards_are_told_which_do() -> None:
    settings = PlanSettings(rows_per_batch=4096, canonical_shards=8)
    with pytest.raises(PlanError, match=r"3 does not divide the 8 .*\[1, 2, 4, 8\]"):
        check_ranks(settings, 0, 3)
    with pytest.raises(PlanError, match="rank: 2 of 2 ranks"):
        check_ranks(settings, 2, 2)


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("rows_per_batch", 0),
        ("canonical_shards", 3),
        ("canonical_shards", 0),
        ("shuffle_window_rows", 0),
        ("seed", -1),
    ],
)
def test_a_setting_out_of_range_is_named(setting: str, value: int) -> None:
    chosen: dict[str, Any] = {"rows_per_batch": 8, "canonical_shards": 2, setting: value}
    with pytest.raises(PlanError, match=setting):
        PlanSettings(**chosen)


def test_resuming_among_100000_row_groups_reads_only_what_comes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = write_100000_row_groups(tmp_path)
    chosen: dict[str, Any] = {
        "rows_per_batch": 64,
        "shuffle_window_rows": 256,  # 4 steps
        "workers_count": 2,
        "cache": CacheSettings(folder=str(tmp_path / "cache"), max_bytes=1 << 30),
    }
    with Stream(files, IDS, **chosen) as stream:
        assert stream.row_groups == 100_000
        state = stream.state_dict() | {"epoch": 1, "step": 782}  # of 1,563: in window 195
    parsed, decoded = count_reads(monkeypatch)

    start = time.process_time()
    with Stream(files, IDS, **chosen) as stream:
        stream.load_state_dict(state)
        batches = stream.epoch(1)
        assert not parsed, "opening or seeking parsed footers whose row counts are cached"
        assert not decoded
        batch = next(batches)
        seconds = time.process_time() - start
    sys.stdout.write(f"{seconds:.2f} s of CPU until the first batch\n")  # seen with pytest -s
    assert (batch.step, len(ids_of(batch))) == (782, 64)
    # The window of the step, the next, and what each worker may always have in hand.
    assert {item.window for item in decoded} <= {195, 196, 197}
    assert len(decoded) == len(set(decoded)) <= 2 * 256 + 4
    # Once for each file that rows come from; two workers that need one at once both parse it.
    assert len(parsed) <= 2 * len(files)


def test_resuming_where_row_groups_are_cached_parses_no_footer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = write_files(tmp_path, [[8] * 16] * 4)
    chosen: dict[str, Any] = {
        "rows_per_batch": 64,
        "shuffle_window_rows": 128,
        "cache": CacheSettings(folder=str(tmp_path / "cache"), max_bytes=1 << 30),
    }
    with Stream(files, IDS, **chosen) as stream:
        steps = [ids_of(batch) for batch in stream.epoch(0)]
        state = stream.state_dict() | {"step": 3}
    parsed, _ = count_reads(monkeypatch)
    with Stream(files, IDS, **chosen) as stream:
        stream.load_state_dict(state)
        assert [ids_of(batch) for batch in stream.epoch(0)] == steps[3:]
    assert not parsed


def write_100000_row_groups(folder: Path) -> list[str]:
    """Writes 20 files of 5,000 row groups of one row; the same file, as writing takes long."""
    ids = np.arange(5_000)
    table = pa.table({"id": ids, "num_a": pa.array(ids * 0.5, pa.float32())})
    files = [str(folder / f"part-{number:02d}.parquet") for number in range(20)]
    pq.write_table(table, files[0], row_group_size=1)
    for file in files[1:]:
        shutil.copy(files[0], file)
    return files


def count_reads(monkeypatch: pytest.MonkeyPatch) -> tuple[list[Any], list[Item]]:
    """Lists, from here on, what footers are parsed from, and the items that are decoded."""
    parsed: list[Any] = []
    decoded: list[Item] = []
    read_metadata, process = pq.read_metadata, RowGroupWorker.process

    def counted_footer(source: Any, *options: Any, **named: Any) -> pq.FileMetaData:
        parsed.append(source)
        return read_metadata(source, *options, **named)

    def counted_item(self: RowGroupWorker, item: Item) -> None:
        decoded.append(item)
        process(self, item=item)

    monkeypatch.setattr(pq, "read_metadata", counted_footer)
    monkeypatch.setattr(RowGroupWorker, "process", counted_item)
    return parsed, decoded
