from __future__ import annotations

import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings

from pipeline.errors import PlanError
from pipeline.stream import Batch, BatchLayout, Origin, Stream
from tests.stream.examples import ids_of
from tests.stream.test_properties import Case, cases

# Held column by column, row by row and as Arrow: every way in which windows shuffle.
LAYOUT = BatchLayout(
    matrices={"place": ("file", "row_group")}, scalars={"id": "id"}, strings=("name",)
)


def write_marked(folder: Path, sizes: list[list[int]]) -> list[str]:
    """Writes files whose every row says which file, row group and row of all it is."""
    files, next_id = [], 0
    for number, of_file in enumerate(sizes):
        path = folder / f"part-{number:03d}.parquet"
        with pq.ParquetWriter(path, marked(0, 0, 0, 0).schema) as writer:
            for group, rows in enumerate(of_file):
                writer.write_table(marked(number, group, next_id, rows))
                next_id += rows
        files.append(str(path))
    return files


def marked(file: int, row_group: int, first_id: int, rows: int) -> pa.Table:
    ids = np.arange(first_id, first_id + rows)
    return pa.table(
        {
            "file": pa.array(np.full(rows, file), pa.int32()),
            "row_group": pa.array(np.full(rows, row_group), pa.int32()),
            "id": pa.array(ids, pa.int64()),
            "name": pa.array([f"{file}/{row_group}/{i}" for i in ids], pa.string()),
        }
    )


def delivered(files: list[str], batch: Batch) -> list[Origin]:
    """What a batch's rows say of themselves, in the order of the files."""
    places = [(file, group) for file, group in batch.tensors["place"].tolist()]
    named = zip(places, ids_of(batch), strict=True)
    assert batch.strings["name"].tolist() == [f"{f}/{g}/{i}" for (f, g), i in named]
    return [Origin(files[f], g, rows) for (f, g), rows in sorted(Counter(places).items())]


def resumed(stream: Stream, epoch: int, step: int) -> Stream:
    """The stream, gone to a step as if that had been the next when its run was killed."""
    stream.load_state_dict({**stream.state_dict(), "epoch": epoch, "step": step})
    return stream


def check_case(case: Case) -> None:
    """Each batch of each rank, from some step on, is of what `origins` says."""
    leg = case.last_leg
    with tempfile.TemporaryDirectory() as folder:
        files = write_marked(Path(folder), case.sizes)
        for rank in range(leg.world_size):
            with Stream(
                files, LAYOUT, rank=rank, world_size=leg.world_size, **case.settings
            ) as stream:
                first_step = leg.stop % (stream.steps_per_epoch + 1)
                for batch in resumed(stream, case.epoch, first_step).epoch(case.epoch):
                    assert stream.origins(case.epoch, batch.step) == delivered(files, batch)


@settings(max_examples=40, derandomize=True, deadline=None, suppress_health_check=[*HealthCheck])
@given(cases())
def test_every_batch_of_any_epoch_is_made_of_its_origins(case: Case) -> None:
    check_case(case)


@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_origins_are_right_in_windows_that_cut_row_groups_and_in_every_epoch(
    tmp_path: Path, world_size: int, seed: int, shuffle: bool
) -> None:
    """Row groups of 13 and 70 rows; a shard has 156 or 157, a window 24, a step 6 of each."""
    files = write_marked(tmp_path, [[13] * 9, [], [70, 0, 13], [13] * 30, [37]])
    chosen: dict[str, Any] = {"canonical_shards": 4, "seed": seed, "shuffle": shuffle}
    for rank in range(world_size):
        with Stream(
            files,
            LAYOUT,
            rows_per_batch=24,
            shuffle_window_rows=96,
            rank=rank,
            world_size=world_size,
            **chosen,
        ) as stream:
            assert stream.rows == 627
            for epoch, first_step in [(0, 0), (1, 9), (2, 26)]:
                for batch in resumed(stream, epoch, first_step).epoch(epoch):
                    assert stream.origins(epoch, batch.step) == delivered(files, batch)


def test_a_row_group_cut_into_shards_is_the_origin_of_each_ranks_batch(tmp_path: Path) -> None:
    files = write_marked(tmp_path, [[0], [1000]])
    for rank in range(4):
        with Stream(files, LAYOUT, rows_per_batch=400, rank=rank, world_size=4) as stream:
            origins = [stream.origins(3, step) for step in range(3)]
            assert origins == [[Origin(files[1], 0, rows)] for rows in (100, 100, 50)]


def test_a_batch_without_rows_has_no_origins(tmp_path: Path) -> None:
    files = write_marked(tmp_path, [[1]])
    ranks = [
        Stream(files, LAYOUT, rows_per_batch=2, rank=rank, world_size=2).origins(0, 0)
        for rank in range(2)
    ]
    assert sorted(map(len, ranks)) == [0, 1]


def test_an_epoch_goes_on_undisturbed_by_questions_about_it_and_others(tmp_path: Path) -> None:
    files = write_marked(tmp_path, [[9] * 12] * 5)
    chosen: dict[str, Any] = {"rows_per_batch": 32, "shuffle_window_rows": 128, "seed": 3}
    with Stream(files, LAYOUT, **chosen) as stream:
        expected = [ids_of(batch) for batch in stream.epoch(0)]
    with Stream(files, LAYOUT, **chosen) as stream:
        seen = []
        for batch in stream.epoch(0):
            state = stream.state_dict()
            for epoch, step in [(0, 0), (0, batch.step), (0, 16), (1, batch.step)]:
                stream.origins(epoch, step)
            assert stream.state_dict() == state
            seen.append(ids_of(batch))
    assert seen == expected


def test_a_loaded_state_is_not_used_up_by_asking(tmp_path: Path) -> None:
    files = write_marked(tmp_path, [[9] * 12])
    with Stream(files, LAYOUT, rows_per_batch=8) as stream:
        resumed(stream, epoch=2, step=5).origins(0, 1)
        assert next(iter(stream)).step == 5


def test_no_data_is_read_to_tell(tmp_path: Path) -> None:
    files = write_marked(tmp_path, [[9] * 12] * 2)
    dense = BatchLayout(scalars={"id": "id"})
    with Stream(files, dense, rows_per_batch=8) as stream:
        for file in files:
            Path(file).unlink()
        told = [stream.origins(0, step) for step in range(stream.steps_per_epoch)]
    of_row_group = Counter[tuple[str, int]]()
    for origin in (origin for origins in told for origin in origins):
        of_row_group[origin.file, origin.row_group] += origin.rows
    assert of_row_group == {(file, group): 9 for file in files for group in range(12)}


@pytest.mark.parametrize(("sizes", "step"), [([[9]], 2), ([[9]], -1), ([], 0), ([[0]], 0)])
def test_a_step_that_no_epoch_has_is_refused(
    tmp_path: Path, sizes: list[list[int]], step: int
) -> None:
    stream = Stream(write_marked(tmp_path, sizes), LAYOUT, rows_per_batch=8)
    with pytest.raises(PlanError, match=f"step {step}: an epoch has"):
        stream.origins(0, step)
