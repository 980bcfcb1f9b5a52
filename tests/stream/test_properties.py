from __future__ import annotations

import json
import random
import sys
import tempfile
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

from pipeline.stream import Batch, BatchLayout, Stream
from pipeline.stream.layout import SequenceColumn
from tests.stream.examples import IDS, flat, ids_of, table_of, write_files
from tests.stream.oracle import Oracle

# Columns of every kind, so that a row mixed up with another in any of them shows.
LAYOUT = BatchLayout(
    matrices={"numeric": ("num_a", "num_b"), "packed": ("packed", "cat_a")},
    scalars={"id": "id", "late": "late"},
    sequences={"tokens": SequenceColumn(column="tokens", padding=-1)},
    strings=("name",),
)
MOST_STEPS = 100


@dataclass(frozen=True, kw_only=True)
class Leg:
    """A part of an epoch, read by some ranks that then stop."""

    world_size: int
    workers_count: int
    stop: int
    """Modulo the steps: the step to stop before."""


@dataclass(frozen=True, kw_only=True)
class Case:
    sizes: list[list[int]]
    canonical_shards: int
    rows_per_shard_step: int
    window_rows: int
    shuffle: bool
    drop_last: bool
    seed: int
    epoch: int
    legs: list[Leg]
    last_leg: Leg

    @property
    def rows_per_batch(self) -> int:
        return self.canonical_shards * self.rows_per_shard_step

    @property
    def settings(self) -> dict[str, Any]:
        return {
            "rows_per_batch": self.rows_per_batch,
            "canonical_shards": self.canonical_shards,
            "shuffle_window_rows": self.window_rows,
            "shuffle": self.shuffle,
            "drop_last": self.drop_last,
            "seed": self.seed,
        }

    @property
    def oracle(self) -> Oracle:
        whole_steps = -(-self.window_rows // self.rows_per_batch)
        return Oracle(
            self.sizes,
            rows_per_shard_step=self.rows_per_shard_step,
            steps_per_window=whole_steps if self.shuffle else 1,
            drop_last=self.drop_last,
        )


@st.composite
def layouts(draw: st.DrawFn) -> list[list[int]]:
    """Files of row groups: mostly small, some empty, at times one that dwarfs all others."""
    sizes = st.one_of(st.integers(0, 6), st.integers(0, 60))
    files = draw(st.lists(st.lists(sizes, max_size=6), max_size=6))
    huge = draw(st.sampled_from([0, 0, 0, 300, 5_000]))
    if huge and files:
        place = draw(st.integers(0, len(files) - 1))
        files[place].insert(draw(st.integers(0, len(files[place]))), huge)
    return files


@st.composite
def cases(draw: st.DrawFn) -> Case:
    sizes = draw(layouts())
    rows = sum(map(sum, sizes))
    shards = draw(st.sampled_from([1, 2, 3, 4, 5, 6, 7, 8, 12]))
    legs = st.builds(
        Leg,
        world_size=st.sampled_from([n for n in range(1, 9) if shards % n == 0]),
        workers_count=st.integers(1, 8),
        stop=st.integers(0, 10_000),
    )
    return Case(
        sizes=sizes,
        canonical_shards=shards,
        rows_per_shard_step=rows // (shards * MOST_STEPS) + draw(st.integers(1, 9)),
        window_rows=draw(st.one_of(st.integers(1, 100), st.integers(1, 8_000))),
        shuffle=draw(st.sampled_from([True, True, False])),
        drop_last=draw(st.booleans()),
        seed=draw(st.integers(0, 3)),
        epoch=draw(st.integers(0, 2)),
        legs=draw(st.lists(legs, max_size=2)),
        last_leg=draw(legs),
    )


def check_case(case: Case) -> None:
    """All that is promised of any epoch, however it is shared out and interrupted."""
    with tempfile.TemporaryDirectory() as folder:
        files = write_rich_files(Path(folder), case.sizes)
        shard_each = Leg(world_size=case.canonical_shards, workers_count=1, stop=0)
        shards, steps, _ = read(files, case, shard_each)
        assert len(shards[0]) == steps
        case.oracle.check(shards, shuffled=case.shuffle)
        whole = joined(shards)
        reached, state = 0, None
        delivered: list[list[int]] = []
        for leg in sorted(case.legs, key=lambda leg: leg.stop % (steps + 1)):
            stop = leg.stop % (steps + 1)
            ranks, _, state = read(files, case, leg, state, stop - reached)
            delivered += joined(ranks)
            reached = stop
        ranks, _, _ = read(files, case, case.last_leg, state)
        assert delivered + joined(ranks) == whole
        if case.shuffle and case.oracle.permutes([case.oracle.cells(s) for s in shards]):
            for other in ({"epoch": case.epoch + 1}, {"seed": case.seed + 1}):
                again = read_ids(files, case, **other)
                case.oracle.check_every_id_once(flat(again))
                assert [len(ids) for ids in again] == [len(ids) for ids in whole]
                assert again != whole, f"the same order with {other}"


@settings(max_examples=100, derandomize=True, deadline=None, suppress_health_check=[*HealthCheck])
@given(cases())
def test_any_epoch_is_what_the_oracle_says_however_it_is_shared_out_and_interrupted(
    case: Case,
) -> None:
    check_case(case)


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_a_thousand_epochs_are_what_the_oracle_says(
    request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = request.config.getoption("--hypothesis-seed")
    number = random.SystemRandom().getrandbits(32) if asked in {None, "random"} else int(asked)
    with capsys.disabled():
        sys.stdout.write(f"\nto see the same cases: pytest -m long --hypothesis-seed={number}\n")
    often = settings(
        max_examples=1_000,
        deadline=None,
        database=None,
        print_blob=True,
        suppress_health_check=[*HealthCheck],
    )
    often(seed(number)(given(cases())(check_case)))()


def test_seeds_epochs_shards_and_windows_each_have_an_order_of_their_own(tmp_path: Path) -> None:
    """64 row groups of 16 rows, each a window of its own: both orders can be read off the ids."""
    files = write_files(tmp_path, [[16] * 8] * 8)
    chosen: dict[str, Any] = {
        "rows_per_batch": 32,
        "shuffle_window_rows": 32,
        "canonical_shards": 2,
    }
    orders_of_groups: set[tuple[int, ...]] = set()
    orders_of_rows: list[tuple[int, ...]] = []
    for number in (0, 1):
        with Stream(files, IDS, seed=number, **chosen) as stream:
            for epoch in (0, 1):
                cells = np.concatenate(
                    [np.array(ids_of(b)).reshape(2, 16) for b in stream.epoch(epoch)]
                )
                assert (cells // 16 == cells[:, :1] // 16).all()
                orders_of_groups.add(tuple((cells[:, 0] // 16).tolist()))
                orders_of_rows += [tuple(order) for order in (cells % 16).tolist()]
    assert len(orders_of_groups) == 4
    assert len(set(orders_of_rows)) == len(orders_of_rows) == 4 * 64


def read(
    files: list[str],
    case: Case,
    leg: Leg,
    state: dict[str, Any] | None = None,
    most_steps: int | None = None,
) -> tuple[list[list[list[int]]], int, dict[str, Any]]:
    """Reads on from a state, to the end or some steps far; all ranks must agree.

    Returns:
        The ids of each batch of each rank, the steps of an epoch, and the state after it.
    """
    ranks, told, steps, states = [], [], [], []
    for rank in range(leg.world_size):
        with Stream(
            files,
            LAYOUT,
            rank=rank,
            world_size=leg.world_size,
            workers_count=leg.workers_count,
            **case.settings,
        ) as stream:
            if state is not None:
                stream.load_state_dict(state)
            batches = list(islice(stream.epoch(case.epoch), most_steps))
            ranks.append([checked_ids(batch) for batch in batches])
            told.append([batch.global_rows for batch in batches])
            steps.append(stream.steps_per_epoch)
            states.append(json.loads(json.dumps(stream.state_dict())))
    assert all(other == states[0] for other in states), "ranks differ in where they are"
    assert len(set(steps)) == 1
    assert told == [[len(ids) for ids in joined(ranks)]] * leg.world_size, "not the global rows"
    return ranks, steps[0], states[0]


def read_ids(files: list[str], case: Case, *, epoch: int | None = None, **other: Any):
    """The ids of each batch of one rank, with something changed."""
    with Stream(files, IDS, workers_count=2, **{**case.settings, **other}) as stream:
        return [ids_of(batch) for batch in stream.epoch(case.epoch if epoch is None else epoch)]


def joined(ranks: list[list[list[int]]]) -> list[list[int]]:
    """The ids of each global step; a rank with another number of steps fails."""
    return [flat(parts) for parts in zip(*ranks, strict=True)]


def write_rich_files(folder: Path, sizes: list[list[int]]) -> list[str]:
    """Writes files whose every column follows from the id, lists and strings too."""
    ids = np.arange(sum(map(sum, sizes)))
    rich = table_of(0, len(ids))
    packed = pa.array(np.stack([ids, ids * 3], axis=1).tolist(), pa.list_(pa.int32(), 2))
    tokens = pa.array([[i] * (i % 4) for i in ids.tolist()], pa.list_(pa.int64()))
    rich = rich.append_column("packed", packed).append_column("tokens", tokens)
    files, begin = [], 0
    for number, of_file in enumerate(sizes):
        path = folder / f"part-{number:03d}.parquet"
        with pq.ParquetWriter(path, rich.schema) as writer:
            for rows in of_file:
                writer.write_table(rich.slice(begin, rows))
                begin += rows
        files.append(str(path))
    return files


def checked_ids(batch: Batch) -> list[int]:
    """The ids of a batch, all of whose columns belong to them."""
    ids, tensors = batch.tensors["id"], batch.tensors
    assert batch.rows == len(ids)
    assert torch.equal(tensors["numeric"], torch.stack([ids * 0.5, ids * 2.0], 1))
    assert torch.equal(tensors["packed"], torch.stack([ids, ids * 3, ids % 7], 1).int())
    assert torch.equal(tensors["late"], (ids % 2).float())
    assert torch.equal(batch.lengths["tokens"], ids % 4)
    places = torch.arange(tensors["tokens"].shape[1])
    expected = torch.where(places < (ids % 4)[:, None], ids[:, None], -1)
    assert torch.equal(tensors["tokens"], expected)
    assert batch.strings["name"].tolist() == [f"n{i}" for i in ids.tolist()]
    return ids_of(batch)
