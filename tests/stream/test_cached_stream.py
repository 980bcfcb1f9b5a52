"""The stream with a cache: the same batches, and nothing read twice, stale or broken."""

from __future__ import annotations

import multiprocessing
import os
import re
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.errors import NullValueError, RowGroupError
from pipeline.stream import BatchLayout, Stream
from pipeline.stream.cache import CacheSettings
from pipeline.stream.layout import SequenceColumn, TensorColumn
from tests.stream.every_kind import (
    EVERY_KIND,
    assert_same_batches,
    batches_of,
    every_kind,
    write_parts,
)
from tests.stream.examples import IDS, flat, ids_of
from tests.stream.test_tensors import assert_every_kind

MIB = 2**20
ROWS = 300
SPAWN = multiprocessing.get_context("spawn")
PATIENCE_SECONDS = 60
DENSE = BatchLayout(
    scalars=EVERY_KIND.scalars, matrices=EVERY_KIND.matrices, tensors=EVERY_KIND.tensors
)


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    """Three files of ten row groups of ten rows."""
    return write_parts(tmp_path, ROWS, 10)


@pytest.fixture
def cache(tmp_path: Path) -> CacheSettings:
    return CacheSettings(folder=str(tmp_path / "cache"), max_bytes=64 * MIB)


def entries(cache: CacheSettings) -> list[Path]:
    return sorted(Path(cache.folder).glob("*.block"))


def blank(file: str) -> None:
    """Makes a file unreadable without a sign from outside: who reads any of it fails."""
    if file.startswith("memory:"):
        held = fsspec.filesystem("memory").store[file.removeprefix("memory:/")]
        size = held.getbuffer().nbytes
        held.seek(0)
        held.write(bytes(size))
        return
    status = Path(file).stat()
    Path(file).write_bytes(bytes(status.st_size))
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))


@pytest.fixture(params=["local", "memory"])
def stored(request: pytest.FixtureRequest, files: list[str]) -> Iterator[list[str]]:
    if request.param == "local":
        yield files
        return
    filesystem = fsspec.filesystem("memory")
    for file in files:
        filesystem.pipe(f"/cached/{Path(file).name}", Path(file).read_bytes())
    yield [f"memory://cached/{Path(file).name}" for file in files]
    filesystem.store.clear()
    filesystem.pseudo_dirs[:] = [""]


def test_blanked_files_cannot_be_read(stored: list[str]) -> None:
    """The tests below rest on this."""
    stream = Stream(stored, IDS, rows_per_batch=40)
    for file in stored:
        blank(file)
    with pytest.raises(RowGroupError):
        list(stream.epoch(0))
    with pytest.raises(RowGroupError, match="footer"):
        Stream(stored, IDS, rows_per_batch=40)


@pytest.mark.parametrize(
    "chosen",
    [
        {},
        {"shuffle": False},
        {"shuffle_window_rows": 40, "workers_count": 3},
        {"rank": 1, "world_size": 4, "seed": 3},
        {"rows_per_batch": 16, "drop_last": True},
    ],
    ids=str,
)
def test_the_batches_are_those_without_a_cache(
    stored: list[str], cache: CacheSettings, chosen: dict[str, Any]
) -> None:
    expected = batches_of(stored, 3, **chosen)
    assert_same_batches(batches_of(stored, 3, cache=cache, **chosen), expected)
    assert_same_batches(batches_of(stored, 3, cache=cache, **chosen), expected)


def test_the_second_epoch_reads_nothing_of_the_files(
    stored: list[str], cache: CacheSettings
) -> None:
    expected = batches_of(stored, 3)
    with Stream(stored, EVERY_KIND, rows_per_batch=40, cache=cache) as stream:
        found = list(stream.epoch(0))
        for file in stored:
            blank(file)
        found += [*stream.epoch(1), *stream.epoch(2)]
    assert_same_batches(found, expected)


@pytest.mark.parametrize("layout", [DENSE, EVERY_KIND], ids=["dense", "with ragged columns"])
def test_a_restart_reads_nothing_of_the_files_not_even_footers(
    stored: list[str], cache: CacheSettings, layout: BatchLayout
) -> None:
    expected = batches_of(stored, 2, layout)
    batches_of(stored, 1, layout, cache=cache)
    for file in stored:
        blank(file)
    assert_same_batches(batches_of(stored, 2, layout, cache=cache), expected)
    # Also one that has another seed, other shards and other batches: row groups are kept whole.
    other = {"rows_per_batch": 6, "canonical_shards": 3, "seed": 9, "rank": 1, "world_size": 3}
    found = batches_of(stored, 1, layout, cache=cache, **other)
    assert sum(batch.rows for batch in found) == ROWS // 3


def test_a_state_goes_on_from_the_cache_alone(files: list[str], cache: CacheSettings) -> None:
    expected = batches_of(files, 1, DENSE)
    batches_of(files, 1, DENSE, cache=cache)
    with Stream(files, DENSE, rows_per_batch=40, cache=cache) as stream:
        batches = stream.epoch(0)
        next(batches)
        state = stream.state_dict()
    for file in files:
        blank(file)
    with Stream(files, DENSE, rows_per_batch=40, cache=cache) as stream:
        stream.load_state_dict(state)
        assert_same_batches(list(stream), expected[1:])


def read_as_rank(files: list[str], cache: CacheSettings, rank: int, told: Connection) -> None:
    chosen: dict[str, Any] = {"rank": rank, "world_size": 2, "rows_per_batch": 40}
    with Stream(files, DENSE, cache=cache, **chosen) as stream:
        for epoch in range(4):
            assert told.recv() == epoch
            told.send(
                [
                    {name: tensor.numpy() for name, tensor in batch.tensors.items()}
                    for batch in stream.epoch(epoch)
                ]
            )


def test_two_ranks_in_two_processes_share_the_cache(files: list[str], cache: CacheSettings) -> None:
    ranks = []
    for rank in range(2):
        told, end = SPAWN.Pipe()
        process = SPAWN.Process(target=read_as_rank, args=(files, cache, rank, end))
        process.start()
        end.close()
        ranks.append((process, told))
    expected = {rank: batches_of(files, 4, DENSE, rank=rank, world_size=2) for rank in range(2)}
    found: dict[int, list[Any]] = {0: [], 1: []}
    for epoch in range(4):
        for _, told in ranks:
            told.send(epoch)
        for rank, (_, told) in enumerate(ranks):
            assert told.poll(PATIENCE_SECONDS)
            found[rank] += told.recv()
        # From here on each rank needs what the other one decoded.
        for file in files:
            blank(file)
    for process, _ in ranks:
        process.join(PATIENCE_SECONDS)
        assert process.exitcode == 0
    for rank in range(2):
        assert len(found[rank]) == len(expected[rank])
        for got, batch in zip(found[rank], expected[rank], strict=True):
            assert list(got) == list(batch.tensors)
            for name, tensor in batch.tensors.items():
                np.testing.assert_array_equal(got[name], tensor.numpy(), strict=True)


# --- never stale ----------------------------------------------------------------------------------


def test_a_file_with_other_content_of_the_same_shape_is_never_served_stale(
    files: list[str], cache: CacheSettings
) -> None:
    assert_every_kind(batches_of(files, cache=cache), ROWS)
    status = Path(files[1]).stat()
    # As many bytes, row groups and rows; and changed as little later as a disk can tell.
    other = every_kind(ROWS)["number"].to_numpy()[::-1]
    write_parts(Path(files[1]).parent, ROWS, 10, number=pa.array(other))
    os.utime(files[1], ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    found = batches_of(files, cache=cache)
    assert_same_batches(found, batches_of(files))
    for batch in found:
        expected = (ROWS - 1 - batch.tensors["id"]) / 2
        assert batch.tensors["one"].tolist() == expected.tolist()


def test_a_file_with_other_row_groups_has_its_footer_read_again(
    files: list[str], cache: CacheSettings
) -> None:
    batches_of(files, cache=cache)
    table = pq.read_table(files[0])
    pq.write_table(table, files[0], row_group_size=7)
    assert_same_batches(batches_of(files, cache=cache), batches_of(files))


def test_a_changed_object_of_a_store_is_never_served_stale(
    files: list[str], cache: CacheSettings
) -> None:
    filesystem = fsspec.filesystem("memory")
    uri = "memory://stale/part.parquet"
    for file in files:
        filesystem.pipe("/stale/part.parquet", Path(file).read_bytes())
        assert_same_batches(batches_of([uri], 2, cache=cache), batches_of([uri], 2))
    filesystem.store.clear()
    filesystem.pseudo_dirs[:] = [""]


@pytest.mark.parametrize("change", ["content", "gone"])
def test_a_file_that_changes_between_opening_and_reading_is_an_error(
    files: list[str], cache: CacheSettings, change: str
) -> None:
    stream = Stream(files, EVERY_KIND, rows_per_batch=40, cache=cache)
    table = pq.read_table(files[1])
    Path(files[1]).unlink()
    if change == "content":
        pq.write_table(table, files[1], row_group_size=10, compression="none")
    problem = "when its footer was read" if change == "content" else "FileNotFoundError"
    with pytest.raises(RowGroupError, match=rf"part-001.parquet.*{problem}"):
        list(stream.epoch(0))
    # Nothing of the changed file came into the cache under the old one's name.
    if change == "content":
        assert_same_batches(batches_of(files, cache=cache), batches_of(files))


def test_layouts_that_differ_in_anything_do_not_share_entries(
    files: list[str], cache: CacheSettings
) -> None:
    layouts = [
        BatchLayout(tensors={"x": TensorColumn(column="pair", shape=(2,))}),
        BatchLayout(tensors={"x": TensorColumn(column="pair", shape=(1, 2))}),
        BatchLayout(tensors={"x": TensorColumn(column="pair", shape=(2, 1))}),
        BatchLayout(tensors={"x": TensorColumn(column="pair", shape=(2,), dtype="float64")}),
        BatchLayout(tensors={"x": TensorColumn(column="image", shape=(2, 3))}),
        BatchLayout(tensors={"x": TensorColumn(column="image", shape=(2, 3), dtype="float32")}),
        BatchLayout(matrices={"x": ("number", "pair")}),
        BatchLayout(matrices={"x": ("pair", "number")}),
        BatchLayout(matrices={"x": ("number", "number")}),
        BatchLayout(matrices={"x": ("number",)}),
        BatchLayout(scalars={"x": "number"}),
        BatchLayout(scalars={"x": "id"}),
        BatchLayout(sequences={"x": SequenceColumn(column="sequence")}),
        BatchLayout(sequences={"x": SequenceColumn(column="sequence", padding=-1)}),
        BatchLayout(sequences={"x": SequenceColumn(column="pair")}),
        BatchLayout(strings=("text",)),
    ]
    expected = [batches_of(files, 1, layout) for layout in layouts]
    for _ in range(2):
        for layout, batches in zip(layouts, expected, strict=True):
            assert_same_batches(batches_of(files, 1, layout, cache=cache), batches)


def test_an_error_is_not_kept(tmp_path: Path, cache: CacheSettings) -> None:
    path = tmp_path / "nulls.parquet"
    pq.write_table(pa.table({"id": [1, None]}), path)
    for _ in range(2):
        with pytest.raises(NullValueError, match=r"nulls.parquet, row group 0, column 'id'"):
            batches_of([str(path)], 1, IDS, cache=cache)
    pq.write_table(pa.table({"id": [1, 2]}), path)
    (batch,) = batches_of([str(path)], 1, IDS, cache=cache)
    assert sorted(ids_of(batch)) == [1, 2]


# --- broken and small caches ----------------------------------------------------------------------


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) * 2 // 3] ^= 0x10
    path.write_bytes(content)


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def dropped(caplog: pytest.LogCaptureFixture) -> set[str]:
    """The keys: a row group that is cut in two may be found broken by two threads at once."""
    return set(re.findall(r"cache entry (\w+) is broken and dropped", caplog.text))


def empty(path: Path) -> None:
    os.truncate(path, 0)


def swap(path: Path) -> None:
    """Puts the next entry in its place."""
    siblings = sorted(path.parent.glob("*.block"))
    # Going through them in order, the last is given what the first was given: the second's bytes.
    other = siblings[(siblings.index(path) + 1) % len(siblings)]
    path.write_bytes(other.read_bytes())


@pytest.mark.parametrize("break_it", [flip, cut, empty, swap])
def test_broken_entries_are_dropped_and_read_again(
    files: list[str],
    cache: CacheSettings,
    caplog: pytest.LogCaptureFixture,
    break_it: Callable[[Path], None],
) -> None:
    expected = batches_of(files, 2)
    with Stream(files, EVERY_KIND, rows_per_batch=40, cache=cache) as stream:
        found = list(stream.epoch(0))
        kept = entries(cache)
        assert len(kept) == 34  # 30 row groups, 3 footers, and the bytes of a row
        for path in kept:
            break_it(path)
        found += list(stream.epoch(1))
    assert_same_batches(found, expected)
    assert len(dropped(caplog)) == 30
    caplog.clear()
    # A restart: the footers and the bytes of a row are broken still.
    assert_same_batches(batches_of(files, 2, cache=cache), expected)
    assert len(dropped(caplog)) == 4


def test_entries_that_vanish_are_read_again(files: list[str], cache: CacheSettings) -> None:
    expected = batches_of(files, 2)
    with Stream(files, EVERY_KIND, rows_per_batch=40, cache=cache) as stream:
        found = list(stream.epoch(0))
        for path in entries(cache):
            path.unlink()
        found += list(stream.epoch(1))
    assert_same_batches(found, expected)


@pytest.mark.parametrize("kept_entries", [0.5, 4])
def test_a_cache_that_is_too_small_is_never_exceeded(
    files: list[str], cache: CacheSettings, kept_entries: float
) -> None:
    batches_of(files, cache=cache)
    largest = max(path.stat().st_size for path in entries(cache))
    small = CacheSettings(folder=f"{cache.folder}-small", max_bytes=int(largest * kept_entries))
    found = []
    with Stream(files, EVERY_KIND, rows_per_batch=40, cache=small, seed=1) as stream:
        for epoch in range(3):
            for batch in stream.epoch(epoch):
                found.append(batch)
                assert volume(small) <= small.max_bytes
    assert volume(small) <= small.max_bytes
    assert entries(small)  # of footers, if nothing else fits
    assert_same_batches(found, batches_of(files, 3, seed=1))
    assert sorted(flat([ids_of(batch) for batch in found[:8]])) == list(range(ROWS))


def volume(cache: CacheSettings) -> int:
    """Bytes of whatever is in the folder, but for the lock; an entry may go meanwhile."""
    total = 0
    for path in Path(cache.folder).iterdir():
        try:
            total += path.stat().st_size if path.name != "lock" else 0
        except FileNotFoundError:
            continue
    return total
