from __future__ import annotations

import hashlib
import io
import json
import logging
import multiprocessing
import os
import pickle
import random
import resource
import signal
import struct
import threading
import zlib
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import hypothesis.extra.numpy as hnp
import hypothesis.strategies as st
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings

from pipeline.errors import CacheError
from pipeline.stream import cache as cache_module
from pipeline.stream.block_format import Block, from_buffer, to_parts
from pipeline.stream.cache import BlockCache, CacheSettings, block_key

MIB = 2**20
SPAWN = multiprocessing.get_context("spawn")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def open_cache(folder: Path, max_bytes: int = 64 * MIB) -> BlockCache:
    return BlockCache(CacheSettings(folder=str(folder), max_bytes=max_bytes))


def key_of(number: int) -> str:
    return block_key("part-0.parquet", "v1", number, "layout")


def block_of(number: int, rows: int = 1000) -> Block:
    """A block whose every value follows from its number, so that a mixture would be seen."""
    return {"x": np.full((rows, 2), number, "f4"), "name": pa.array([str(number)] * rows)}


def entry(folder: Path, key: str) -> Path:
    return folder / f"{key}.block"


def size_of(key: str, block: Block) -> int:
    return sum(len(part) for part in to_parts(key, block))


def assert_same(found: Block | None, expected: Block) -> None:
    assert found is not None
    assert list(found) == list(expected)
    for name, array in expected.items():
        got = found[name]
        if isinstance(array, np.ndarray):
            assert isinstance(got, np.ndarray)
            assert (got.dtype, got.shape) == (array.dtype, array.shape)
            assert got.tobytes() == array.tobytes()
        else:
            assert isinstance(got, pa.Array)
            assert got.type == array.type
            assert got.to_pylist() == array.to_pylist()


dense = st.one_of(
    hnp.boolean_dtypes(),
    hnp.integer_dtypes(endianness="?"),
    hnp.unsigned_integer_dtypes(endianness="?"),
    hnp.floating_dtypes(endianness="?"),
    hnp.complex_number_dtypes(),
    hnp.datetime64_dtypes(),
    hnp.timedelta64_dtypes(),
    hnp.byte_string_dtypes(max_len=5),
    hnp.unicode_string_dtypes(max_len=5),
).flatmap(lambda dtype: hnp.arrays(dtype, hnp.array_shapes(min_dims=0, max_dims=4, min_side=0)))
texts = st.lists(st.none() | st.text(max_size=8))
numbers = st.none() | st.integers(-(2**31), 2**31 - 1)
arrow = st.one_of(
    texts.map(lambda rows: pa.array(rows, pa.string())),
    texts.map(lambda rows: pa.array(rows, pa.large_string())),
    texts.map(lambda rows: pa.array(rows, pa.string()).dictionary_encode()),
    st.lists(st.none() | st.binary(max_size=8)).map(lambda rows: pa.array(rows, pa.binary())),
    st.lists(st.none() | st.lists(numbers)).map(lambda rows: pa.array(rows, pa.list_(pa.int32()))),
    st.lists(st.none() | st.lists(texts)).map(
        lambda rows: pa.array(rows, pa.large_list(pa.list_(pa.string())))
    ),
)
blocks = st.dictionaries(st.text(max_size=8), dense | arrow, max_size=4)


@settings(deadline=None)
@given(block=blocks)
def test_a_block_comes_back_as_it_was_put(block: Block, tmp_path_factory: pytest.TempPathFactory):
    cache = open_cache(tmp_path_factory.mktemp("cache"))
    cache.put(key_of(0), block)
    assert_same(cache.get(key_of(0)), block)


def test_arrays_that_lie_in_any_order_and_slices_come_back(folder: Path):
    rows = np.arange(24.0).reshape(4, 6)
    block: Block = {
        "fortran": np.asfortranarray(rows),
        "strided": rows[::2, ::-3],
        "slice": pa.array([["a"], None, ["b", "c"], []]).slice(1, 2),
    }
    cache = open_cache(folder)
    cache.put(key_of(0), block)
    assert_same(cache.get(key_of(0)), block)


def test_arrays_are_read_only_views_of_one_aligned_buffer(folder: Path):
    cache = open_cache(folder)
    cache.put(key_of(0), {name: np.arange(5, dtype="i1") for name in "abc"})
    found = cache.get(key_of(0))
    assert found is not None
    for array in found.values():
        assert array.ctypes.data % 64 == 0
        assert not array.flags.writeable
        assert not array.flags.owndata


@pytest.mark.parametrize(
    "array",
    [
        np.array(["a", None], object),
        np.array([(1, 2.0)], [("a", "i4"), ("b", "f8")]),
        np.ma.masked_array([1, 2], [True, False]),
        pa.chunked_array([[1], [2]]),
        [1, 2],
    ],
    ids=["object", "structured", "masked", "chunked", "list"],
)
def test_what_is_no_plain_bytes_is_refused(folder: Path, array: Any):
    cache = open_cache(folder)
    with pytest.raises(TypeError, match="column_a"):
        cache.put(key_of(0), {"column_a": array})
    assert cache.volume() == 0


def test_what_was_never_put_is_not_there(folder: Path, caplog: pytest.LogCaptureFixture):
    assert open_cache(folder).get(key_of(0)) is None
    assert not caplog.records


def test_a_key_that_would_leave_the_folder_is_refused(folder: Path):
    cache = open_cache(folder)
    for key in ("../x", "", "a" * 63, "A" * 64, "a" * 64 + "\n"):
        with pytest.raises(ValueError, match="block_key"):
            cache.get(key)


def test_the_key_tells_apart_whatever_tells_row_groups_apart():
    parts = [("a", "1", 0, "x"), ("a1", "", 0, "x"), ("a", "1", 1, "x"), ("a", "1", 0, "y")]
    parts += [("a", "2", 0, "x"), ('a", "1', "1", 0, "x")]
    keys = {block_key(*part) for part in parts}
    assert len(keys) == len(parts)
    assert all(len(key) == 64 for key in keys)
    assert block_key("a", "1", 0, "x") == hashlib.sha256(b'["a", "1", 0, "x"]').hexdigest()


# --- the bound ----------------------------------------------------------------------------------


@settings(deadline=None)
@given(
    puts=st.lists(st.tuples(st.integers(0, 9), st.integers(0, 400)), max_size=30),
    max_bytes=st.integers(1, 8000),
)
def test_the_volume_never_exceeds_the_bound(
    puts: list[tuple[int, int]], max_bytes: int, tmp_path_factory: pytest.TempPathFactory
):
    folder = tmp_path_factory.mktemp("cache")
    cache = open_cache(folder, max_bytes)
    for number, rows in puts:
        block: Block = {"x": np.full(rows, number, "u1")}
        cache.put(key_of(number), block)
        assert cache.volume() <= max_bytes
        fits = size_of(key_of(number), block) <= max_bytes
        if fits:
            assert_same(cache.get(key_of(number)), block)
    on_disk = sum(path.stat().st_size for path in folder.iterdir() if path.name != "lock")
    assert on_disk == cache.volume()


def test_the_least_recently_used_goes_first(folder: Path):
    size = size_of(key_of(0), block_of(0))
    cache = open_cache(folder, 4 * size)
    for number in range(4):
        cache.put(key_of(number), block_of(number))
    assert cache.volume() == 4 * size
    cache.get(key_of(0))
    cache.get(key_of(2))
    cache.put(key_of(4), block_of(4))
    # 1 and, so that the folder is not listed at every put, 3 went; then 0 is the oldest.
    assert [n for n in range(5) if entry(folder, key_of(n)).exists()] == [0, 2, 4]
    cache.put(key_of(5), block_of(5))
    cache.put(key_of(6), block_of(6))
    assert not entry(folder, key_of(0)).exists()


def test_an_entry_put_again_counts_once(folder: Path):
    size = size_of(key_of(0), block_of(0))
    cache = open_cache(folder, 3 * size)
    cache.put(key_of(1), block_of(1))
    for _ in range(10):
        cache.put(key_of(0), block_of(0))
    assert cache.volume() == 2 * size
    cache.put(key_of(2), block_of(2))
    assert cache.volume() == 3 * size


def test_a_block_larger_than_the_cache_is_not_kept_and_evicts_nothing(folder: Path):
    cache = open_cache(folder, size_of(key_of(0), block_of(0)))
    cache.put(key_of(0), block_of(0))
    cache.put(key_of(1), block_of(1, rows=2000))
    assert cache.get(key_of(1)) is None
    assert_same(cache.get(key_of(0)), block_of(0))


def test_files_of_others_are_neither_counted_nor_evicted(folder: Path):
    folder.mkdir()
    for name in ("notes.txt", "x.block", "a" * 64):
        (folder / name).write_bytes(bytes(5000))
    cache = open_cache(folder, size_of(key_of(0), block_of(0)))
    for number in range(3):
        cache.put(key_of(number), block_of(number))
    assert_same(cache.get(key_of(2)), block_of(2))
    assert {"notes.txt", "x.block", "a" * 64} <= {path.name for path in folder.iterdir()}


def test_entries_outlive_a_restart_and_a_smaller_bound_then_holds(folder: Path):
    size = size_of(key_of(0), block_of(0))
    first = open_cache(folder)
    for number in range(6):
        first.put(key_of(number), block_of(number))
    second = open_cache(folder, 3 * size)
    assert_same(second.get(key_of(0)), block_of(0))
    second.put(key_of(6), block_of(6))
    assert second.volume() <= 3 * size
    assert_same(second.get(key_of(0)), block_of(0))
    assert second.get(key_of(1)) is None


# --- damage -------------------------------------------------------------------------------------


def assert_dropped(cache: BlockCache, path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.clear()
    assert cache.get(path.stem) is None
    warnings = [r for r in caplog.records if r.levelno == logging.WARNING]
    assert len(warnings) == 1
    assert path.stem in warnings[0].getMessage()
    assert not path.is_symlink()
    assert not path.exists()


def test_no_flipped_bit_is_ever_served(folder: Path, caplog: pytest.LogCaptureFixture):
    cache, path = open_cache(folder), entry(folder, key_of(0))
    cache.put(key_of(0), {"x": np.arange(6, dtype="f4"), "s": pa.array(["a", None, "bc"])})
    whole = path.read_bytes()
    for position in range(len(whole)):
        broken = bytearray(whole)
        broken[position] ^= 1 << position % 8
        path.write_bytes(broken)
        assert_dropped(cache, path, caplog)


def test_no_truncated_entry_is_ever_served(folder: Path, caplog: pytest.LogCaptureFixture):
    cache, path = open_cache(folder), entry(folder, key_of(0))
    cache.put(key_of(0), {"x": np.zeros(6, "f4")})
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        assert_dropped(cache, path, caplog)
    path.write_bytes(whole + b"\0")
    assert_dropped(cache, path, caplog)


def test_a_deleted_entry_is_not_there(folder: Path, caplog: pytest.LogCaptureFixture):
    cache = open_cache(folder)
    cache.put(key_of(0), block_of(0))
    entry(folder, key_of(0)).unlink()
    assert cache.get(key_of(0)) is None
    assert not caplog.records


def test_an_entry_under_another_key_is_not_served(folder: Path, caplog: pytest.LogCaptureFixture):
    cache = open_cache(folder)
    cache.put(key_of(0), block_of(0))
    entry(folder, key_of(0)).rename(entry(folder, key_of(1)))
    assert_dropped(cache, entry(folder, key_of(1)), caplog)


@pytest.mark.parametrize(
    "text", [b"", b"?" * 20, b"\xff" * 20, b"9" * 20, b"0" * 20, b"x" * 999], ids=repr
)
def test_a_damaged_count_of_bytes_is_no_error(folder: Path, text: bytes):
    size = size_of(key_of(0), block_of(0))
    cache = open_cache(folder, 3 * size)
    cache.put(key_of(0), block_of(0))
    (folder / "lock").write_bytes(text)
    for number in range(1, 9):
        cache.put(key_of(number), block_of(number))
        assert_same(cache.get(key_of(number)), block_of(number))
    if text != b"0" * 20:  # a forged count, no damage
        assert cache.volume() <= 3 * size


def test_what_a_killed_writer_left_is_swept(folder: Path):
    size = size_of(key_of(0), block_of(0))
    cache = open_cache(folder, 3 * size)
    cache.put(key_of(0), block_of(0))
    (folder / "incoming").write_bytes(bytes(2 * size))
    (folder / "lock").write_bytes(b"?" * 20)
    cache.put(key_of(1), block_of(1))
    assert cache.volume() == 2 * size


# --- malice -------------------------------------------------------------------------------------


class Evil:
    """Creates a file when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.marker),)


def forge(key: str, columns: list[dict[str, Any]], payload: bytes) -> bytes:
    """An entry whose checksum is right."""
    header = json.dumps({"key": key, "columns": columns}).encode()
    body = struct.pack("<I", len(header)) + header
    body += bytes(-(12 + len(body)) % 64) + payload
    return b"LSBLOCK1" + struct.pack("<I", zlib.crc32(body)) + body


def test_the_forger_of_these_tests_is_a_good_one(folder: Path):
    column = {"name": "x", "offset": 0, "bytes": 3, "dtype": "|u1", "shape": [3]}
    cache = open_cache(folder)
    entry(folder, key_of(0)).write_bytes(forge(key_of(0), [column], b"abc"))
    assert_same(cache.get(key_of(0)), {"x": np.frombuffer(b"abc", "u1")})


def test_no_pickle_is_ever_run(folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture):
    cache, marker = open_cache(folder), tmp_path / "marker"
    pickled = pickle.dumps(Evil(marker))
    path = entry(folder, key_of(0))
    objects = {"name": "x", "offset": 0, "bytes": 8, "dtype": "|O", "shape": [1]}
    stream = {"name": "x", "offset": 0, "bytes": len(pickled)}
    for content in (
        pickled,
        forge(key_of(0), [objects], pickled),
        forge(key_of(0), [stream], pickled),
    ):
        path.write_bytes(content)
        assert_dropped(cache, path, caplog)
    for name in ("lock", "incoming"):
        (folder / name).write_bytes(pickled)
    cache.put(key_of(0), block_of(0))
    assert_same(cache.get(key_of(0)), block_of(0))
    assert not marker.exists()
    pickle.loads(pickled)  # noqa: S301 - the marker does come where a pickle is run
    assert marker.exists()


@pytest.mark.parametrize(
    "change",
    [
        {"shape": [2**40]},
        {"shape": [-2]},
        {"shape": [9]},
        {"shape": [2**62, 8]},
        {"shape": "no"},
        {"offset": 2**40},
        {"offset": -4096},
        {"dtype": "no such dtype"},
        {"dtype": [["a", "O"]]},
        {"dtype": "O,O"},
        {"dtype": "T"},
        {"name": ["no text"]},
    ],
    ids=str,
)
def test_a_forged_header_reaches_no_other_memory(
    folder: Path, change: dict[str, Any], caplog: pytest.LogCaptureFixture
):
    column = {"name": "x", "offset": 0, "bytes": 64, "dtype": "<i8", "shape": [8], **change}
    path = entry(folder, key_of(0))
    cache = open_cache(folder)
    path.write_bytes(forge(key_of(0), [column], bytes(64)))
    assert_dropped(cache, path, caplog)


def test_forged_offsets_of_an_arrow_array_reach_no_other_memory(
    folder: Path, caplog: pytest.LogCaptureFixture
):
    good_stream = bytes(to_parts(key_of(0), {"x": pa.array(["a" * 77, "b", "c"])})[4])
    offsets = struct.pack("<4i", 0, 77, 78, 79)
    # An offset in the middle: Arrow itself looks at the last one when it reads the stream.
    bad_stream = good_stream.replace(offsets, struct.pack("<4i", 0, 10**6, 78, 79))
    assert bad_stream != good_stream
    path = entry(folder, key_of(0))
    cache = open_cache(folder)
    column = {"name": "x", "offset": 0, "bytes": len(bad_stream)}
    path.write_bytes(forge(key_of(0), [column], bad_stream))
    assert_dropped(cache, path, caplog)


def test_links_and_pipes_are_neither_followed_nor_waited_for(
    folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    cache = open_cache(folder)
    cache.put(key_of(0), block_of(0))
    target = tmp_path / "target"
    entry(folder, key_of(0)).rename(target)
    before = target.read_bytes()
    entry(folder, key_of(0)).symlink_to(target)
    assert_dropped(cache, entry(folder, key_of(0)), caplog)
    os.mkfifo(entry(folder, key_of(0)))
    assert_dropped(cache, entry(folder, key_of(0)), caplog)
    (folder / "incoming").symlink_to(target)
    cache.put(key_of(1), block_of(1))
    assert target.read_bytes() == before


def test_the_folder_is_for_its_user_alone(folder: Path):
    open_cache(folder).put(key_of(0), block_of(0))
    assert folder.stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in folder.iterdir()} == {0o600}


# --- a disk that refuses ------------------------------------------------------------------------


@pytest.mark.parametrize("inside", ["", "below/it"])
def test_a_file_in_the_way_is_named(tmp_path: Path, inside: str):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(CacheError, match="cannot hold the cache"):
        open_cache(tmp_path / "file" / inside)


def test_a_folder_that_cannot_be_written_is_named(folder: Path):
    (folder / "incoming").mkdir(parents=True)
    with pytest.raises(CacheError, match="incoming"):
        open_cache(folder)


@pytest.mark.parametrize(
    ("where", "max_bytes"), [("", 1), ("s3://bucket/cache", 1), ("c", 0), ("c", -1)]
)
def test_impossible_settings_are_refused(where: str, max_bytes: int):
    with pytest.raises(CacheError, match="cache"):
        CacheSettings(folder=where, max_bytes=max_bytes)


def test_a_folder_removed_while_in_use_is_no_error(folder: Path, caplog: pytest.LogCaptureFixture):
    cache = open_cache(folder)
    cache.put(key_of(0), block_of(0))
    for path in folder.iterdir():
        path.unlink()
    folder.rmdir()
    for number in range(3):
        cache.put(key_of(number), block_of(number))
        assert cache.get(key_of(number)) is None
    assert len(caplog.records) == 1


def fill_a_disk_of_little_room(folder: Path, told: Connection) -> None:
    """Its files may be 100,000 bytes long; longer writes truly fail, in the middle."""
    text = io.StringIO()
    cache_module.log.addHandler(logging.StreamHandler(text))
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
    cache = open_cache(folder)
    for number in range(3):
        cache.put(key_of(number), block_of(number, rows=100))
        cache.put(key_of(number + 10), block_of(number, rows=100_000))
    for number in range(3):
        assert_same(cache.get(key_of(number)), block_of(number, rows=100))
        assert cache.get(key_of(number + 10)) is None
    told.send((text.getvalue().splitlines(), sorted(path.name for path in folder.iterdir())))


def test_a_disk_without_space_is_told_once_and_leaves_nothing_half_written(folder: Path):
    heard, told = SPAWN.Pipe(duplex=False)
    process = SPAWN.Process(target=fill_a_disk_of_little_room, args=(folder, told))
    process.start()
    told.close()
    warnings, names = heard.recv()
    process.join()
    heard.close()
    assert process.exitcode == 0
    assert len(warnings) == 1
    assert "File too large" in warnings[0]
    assert names == sorted(["lock", *(entry(folder, key_of(n)).name for n in range(3))])


def test_a_lock_that_is_never_free_costs_the_entry_only(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    monkeypatch.setattr(cache_module, "_LOCK_TIMEOUT_SECONDS", 0.05)
    cache = open_cache(folder)
    cache.put(key_of(0), block_of(0))
    with cache_module._locked(folder / "lock", 0.0):
        open_cache(folder)  # a rank that starts meanwhile
        cache.put(key_of(1), block_of(1))
        cache.put(key_of(2), block_of(2))
        assert_same(cache.get(key_of(0)), block_of(0))
        assert cache._patience_seconds == 0  # it was waited for once
    assert len(caplog.records) == 1
    assert cache.get(key_of(1)) is None
    cache.put(key_of(1), block_of(1))
    assert_same(cache.get(key_of(1)), block_of(1))
    assert cache._patience_seconds > 0


# --- several at once ----------------------------------------------------------------------------

ROOM_FOR = 8
KEYS = 12


def write_and_read(folder: Path, max_bytes: int, rounds: int, told: Connection) -> None:
    """Writes and reads the same keys as all others; tells after each round what it found."""
    cache, order = open_cache(folder, max_bytes), random.Random(rounds)  # noqa: S311
    for _ in range(rounds):
        hits = 0
        for _ in range(20):
            number = order.randrange(KEYS)
            found = cache.get(key_of(number))
            if found is None:
                cache.put(key_of(number), block_of(number))
            else:
                assert_same(found, block_of(number))
                hits += 1
        # Only while nobody writes is a listing of the folder one moment of it.
        with cache_module._locked(folder / "lock", timeout_seconds=60):
            told.send((hits, cache.volume()))


def start_writer(folder: Path, max_bytes: int, rounds: int) -> tuple[Any, Connection]:
    heard, told = SPAWN.Pipe(duplex=False)
    process = SPAWN.Process(target=write_and_read, args=(folder, max_bytes, rounds, told))
    process.start()
    told.close()
    return process, heard


def test_two_processes_share_a_folder_and_outlive_a_third_that_is_killed(folder: Path):
    max_bytes = ROOM_FOR * size_of(key_of(0), block_of(0))
    killed, from_killed = start_writer(folder, max_bytes, 10**9)
    others = [start_writer(folder, max_bytes, rounds) for rounds in (30, 31)]
    from_killed.recv()
    told = [heard.recv() for _, heard in others]
    killed.kill()  # wherever it is by now, most likely in a put
    killed.join()
    from_killed.close()
    for (process, heard), rounds in zip(others, (30, 31), strict=True):
        told += [heard.recv() for _ in range(rounds - 1)]
        process.join()
        heard.close()
        assert process.exitcode == 0
    assert sum(hits for hits, _ in told) > 0
    assert max(volume for _, volume in told) <= max_bytes
    check_all(folder, max_bytes)


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def put_and_die(folder: Path, max_bytes: int, moment: str) -> None:
    """Is killed at one moment of a put."""
    cache = open_cache(folder, max_bytes)
    write_file, pwrite = cache_module._write_file, os.pwrite

    def write_and_die(path: Path, parts: Any) -> None:
        if moment != "evicted":
            write_file(path, parts[: len(parts) // 2] if moment == "half written" else parts)
        if moment != "renamed":
            die()

    def die_before_it_counts(lock: int, text: bytes, offset: int) -> int:
        if text != cache_module._UNKNOWN:
            die()
        return pwrite(lock, text, offset)

    cache_module._write_file = write_and_die
    os.pwrite = die_before_it_counts  # type: ignore[assignment]
    cache.put(key_of(KEYS), block_of(KEYS))


@pytest.mark.parametrize("moment", ["evicted", "half written", "written", "renamed"])
@pytest.mark.parametrize("filled", [ROOM_FOR, ROOM_FOR - 1], ids=["evicts", "has room"])
def test_a_writer_killed_at_any_moment_breaks_nothing(folder: Path, moment: str, filled: int):
    max_bytes = ROOM_FOR * size_of(key_of(0), block_of(0))
    cache = open_cache(folder, max_bytes)
    for number in range(filled):
        cache.put(key_of(number), block_of(number))
    process = SPAWN.Process(target=put_and_die, args=(folder, max_bytes, moment))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert (folder / "incoming").exists() == (moment in ("half written", "written"))
    assert entry(folder, key_of(KEYS)).exists() == (moment == "renamed")
    assert cache.volume() <= max_bytes
    check_all(folder, max_bytes)


def check_all(folder: Path, max_bytes: int) -> None:
    """Every entry is whole, the bound holds after a put, and the lock is free."""
    cache = open_cache(folder, max_bytes)
    for number in range(KEYS + 1):
        if entry(folder, key_of(number)).exists():
            assert_same(cache.get(key_of(number)), block_of(number))
    for number in range(KEYS):
        cache.put(key_of(number), block_of(number))
        assert_same(cache.get(key_of(number)), block_of(number))
        assert cache.volume() <= max_bytes
    assert not (folder / "incoming").exists()


def test_threads_share_a_cache_and_none_is_left(folder: Path):
    cache = open_cache(folder, ROOM_FOR * size_of(key_of(0), block_of(0)))
    faults: list[BaseException] = []

    def work() -> None:
        try:
            for step in range(60):
                number = step % 12
                found = cache.get(key_of(number))
                if found is None:
                    cache.put(key_of(number), block_of(number))
                else:
                    assert_same(found, block_of(number))
        except BaseException as fault:  # noqa: BLE001 - the test raises it
            faults.append(fault)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not faults


def test_nothing_stays_open_between_calls(folder: Path):
    before = len(list(Path("/proc/self/fd").iterdir()))
    cache = open_cache(folder)
    cache.put(key_of(0), block_of(0))
    cache.get(key_of(0))
    entry(folder, key_of(1)).mkdir()  # cannot be read nor dropped
    assert cache.get(key_of(1)) is None
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_a_block_is_read_from_any_aligned_buffer():
    parts = to_parts(key_of(0), block_of(0))
    assert_same(from_buffer(key_of(0), pa.py_buffer(b"".join(parts))), block_of(0))
