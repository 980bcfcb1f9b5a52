from __future__ import annotations

import time
from collections import Counter
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import PlanError
from pipeline.stream.plan import (
    EpochPlan,
    PlanSettings,
    check_ranks,
    default_canonical_shards,
    plan_epoch,
    steps_per_epoch,
    window_order,
)

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


def test_planning_a_resumed_epoch_of_100000_row_groups_takes_under_two_seconds() -> None:
    counts = np.full(100_000, 1_000, np.int64)
    settings = PlanSettings(rows_per_batch=4096, canonical_shards=8)
    start = time.process_time()
    plan = plans(counts, settings, 1, first_step=12_000)[0]
    assert time.process_time() - start < 2
    assert 0 < len(plan.items) < 60_000
