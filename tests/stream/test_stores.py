from __future__ import annotations

import io
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq
import pytest
from fsspec.registry import known_implementations

from pipeline.errors import StoreError, StreamError
from pipeline.stores import reading as stores
from pipeline.stores.reading import (
    identity_of,
    is_remote,
    list_parquet,
    open_file,
)
from pipeline.stream import read_ahead
from pipeline.stream.read_ahead import ReadAhead, ranges_of
from tests.s3_server import (
    FaultyProxy,
    give_credentials,
    new_bucket,
    running_moto,
    running_proxy,
)

SECRET = "wJalrXUtnFEMI-K7MDENG"  # noqa: S105 - nobody's
ROWS_PER_GROUP = 500
Put = Callable[[str, bytes], None]
COLUMNS = ["number", "text", "vector", "nested", "dotted.name"]


@pytest.fixture(scope="module", autouse=True)
def credentials() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        give_credentials(patch, SECRET)
        yield


@pytest.fixture(scope="module")
def moto() -> Iterator[int]:
    with running_moto() as port:
        new_bucket(port, "bucket")
        yield port


@pytest.fixture(scope="module")
def shared_proxy(moto: int) -> Iterator[FaultyProxy]:
    with running_proxy(moto) as proxy:
        yield proxy


@pytest.fixture
def proxy(shared_proxy: FaultyProxy) -> Iterator[FaultyProxy]:
    shared_proxy.reset()
    yield shared_proxy
    shared_proxy.release.set()


@pytest.fixture
def put(moto: int) -> Put:
    """Writes an object past the proxy."""
    bucket = pafs.S3FileSystem(endpoint_override=f"http://127.0.0.1:{moto}", region="us-east-1")

    def write(key: str, content: bytes) -> None:
        with bucket.open_output_stream(f"bucket/{key}") as out:
            out.write(content)

    return write


@pytest.fixture
def memory() -> Iterator[Any]:
    filesystem = fsspec.filesystem("memory")
    yield filesystem
    filesystem.store.clear()
    filesystem.pseudo_dirs[:] = [""]


def s3_uri(proxy: FaultyProxy, key: str) -> str:
    options = f"endpoint_override=127.0.0.1:{proxy.port}&scheme=http&region=us-east-1"
    return f"s3://bucket/{key}?{options}"


def example(row_groups: int = 4) -> tuple[pa.Table, bytes]:
    rows = row_groups * ROWS_PER_GROUP
    table = pa.table(
        {
            "number": pa.array(range(rows), pa.int64()),
            "unread": pa.array([f"padding {i}" for i in range(rows)]),
            "text": pa.array([None if i % 7 == 0 else f"row {i}" for i in range(rows)]),
            "vector": pa.array([[i, i + 0.5] for i in range(rows)], pa.list_(pa.float32())),
            "nested": pa.array([{"a": i, "b": [str(i)] * (i % 3)} for i in range(rows)]),
            "dotted.name": pa.array(range(rows), pa.int32()),
        }
    )
    buffer = io.BytesIO()
    pq.write_table(table, buffer, row_group_size=ROWS_PER_GROUP)
    return table, buffer.getvalue()


def metadata_of(content: bytes) -> pq.FileMetaData:
    return pq.read_metadata(io.BytesIO(content))


def read_group(
    source: pa.NativeFile, metadata: pq.FileMetaData, group: int, columns: Sequence[str]
) -> pa.Table:
    parquet = pq.ParquetFile(source, metadata=metadata)
    try:
        return parquet.read_row_group(group, columns=list(columns), use_threads=False)
    finally:
        parquet.close(force=True)


def rows_of(table: pa.Table, group: int, columns: Sequence[str]) -> pa.Table:
    return table.select(list(columns)).slice(group * ROWS_PER_GROUP, ROWS_PER_GROUP)


@pytest.fixture(params=["path", "file", "memory", "s3"])
def stored(
    request: pytest.FixtureRequest, tmp_path: Path, memory: Any, put: Put, proxy: FaultyProxy
) -> str:
    """One and the same example, in each store; a name with a space and a percent sign."""
    _, content = example()
    local = tmp_path / "a b" / "day=1%3A2.parquet"
    local.parent.mkdir()
    local.write_bytes(content)
    memory.pipe("/lake/a b/day=1%3A2.parquet", content)
    put("a b/day=1%3A2.parquet", content)
    return {
        "path": str(local),
        "file": local.as_uri(),
        "memory": "memory://lake/a b/day=1%3A2.parquet",
        "s3": s3_uri(proxy, "a%20b/day=1%253A2.parquet"),
    }[request.param]


def test_every_store_gives_the_row_groups_that_were_written(stored: str):
    table, _ = example()
    with pq.ParquetFile(open_file(stored)) as parquet:
        for group in range(4):
            assert parquet.read_row_group(group).equals(rows_of(table, group, table.column_names))


def test_every_store_gives_the_bytes_at_any_place(stored: str):
    _, content = example()
    with open_file(stored) as source:
        assert source.size() == len(content)
        assert source.read() == content
        assert source.read(10) == b""
        source.seek(5)
        assert source.read(7) == content[5:12]
        assert source.tell() == 12
        source.seek(-4, 2)
        assert source.read(100) == b"PAR1"


def test_one_open_file_serves_several_threads(stored: str):
    _, content = example()
    source = open_file(stored)
    wrong: list[int] = []

    def read(start: int) -> None:
        if source.read_at(100, start) != content[start : start + 100]:
            wrong.append(start)

    threads = [threading.Thread(target=read, args=(start,)) for start in range(0, 2000, 100)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_only_what_is_not_on_a_local_disk_is_remote():
    assert is_remote("s3://bucket/a.parquet")
    assert is_remote("memory://a.parquet")
    assert not is_remote("/data/a.parquet")
    assert not is_remote("file:///data/a.parquet")
    assert not is_remote("file:/data/a.parquet")


def test_the_endpoint_may_come_from_the_environment(
    proxy: FaultyProxy, put: Put, monkeypatch: pytest.MonkeyPatch
):
    _, content = example()
    put("environment.parquet", content)
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{proxy.port}/")
    with open_file("s3a://bucket/environment.parquet") as source:
        assert source.read() == content
    assert proxy.requests[0] == "HEAD"


def test_a_bucket_without_an_endpoint_is_asked_for_its_region(monkeypatch: pytest.MonkeyPatch):
    regions = {"some-far-bucket": "eu-x-1"}
    monkeypatch.setattr(pafs, "resolve_s3_region", regions.get)
    filesystem, path = stores._resolve("s3://some-far-bucket/a%20b")
    assert (filesystem.region, path) == ("eu-x-1", "some-far-bucket/a b")


@pytest.mark.parametrize("store", ["memory", "s3"])
def test_read_ahead_gives_the_same_tables(store: str, memory: Any, put: Put, proxy: FaultyProxy):
    table, content = example()
    memory.pipe("/ahead.parquet", content)
    put("ahead.parquet", content)
    file = "memory://ahead.parquet" if store == "memory" else s3_uri(proxy, "ahead.parquet")
    metadata = metadata_of(content)
    choices = [[column] for column in COLUMNS] + [COLUMNS, []]
    ahead = ReadAhead(3)
    try:
        for number, columns in enumerate(choices):
            for group in range(4):
                ahead.schedule((number, group), file, metadata, group, columns)
        for number, columns in enumerate(choices):
            for group in (2, 0, 3, 1):
                found = read_group(ahead.take((number, group)), metadata, group, columns)
                assert found.equals(rows_of(table, group, columns))
    finally:
        ahead.close()


def test_read_ahead_reads_ranges_that_are_cut_into_parts(
    memory: Any, monkeypatch: pytest.MonkeyPatch
):
    table, content = example()
    memory.pipe("/parts.parquet", content)
    monkeypatch.setattr(read_ahead, "_RANGE_BYTES", 1000)
    monkeypatch.setattr(read_ahead, "_HOLE_BYTES", 0)
    ranges = ranges_of(metadata_of(content), 1, COLUMNS)
    assert max(stop - start for start, stop in ranges) == 1000
    ahead = ReadAhead(2)
    try:
        ahead.schedule(0, "memory://parts.parquet", metadata_of(content), 1, COLUMNS)
        found = read_group(ahead.take(0), metadata_of(content), 1, COLUMNS)
    finally:
        ahead.close()
    assert found.equals(rows_of(table, 1, COLUMNS))


def test_what_was_taken_gives_the_bytes_at_any_place(memory: Any, monkeypatch: pytest.MonkeyPatch):
    _, content = example()
    memory.pipe("/places.parquet", content)
    monkeypatch.setattr(read_ahead, "_RANGE_BYTES", 1000)
    monkeypatch.setattr(read_ahead, "_HOLE_BYTES", 0)
    ahead = ReadAhead(2)
    try:
        ahead.schedule(0, "memory://places.parquet", metadata_of(content), 1, ["number", "vector"])
        source = ahead.take(0)
        # Within a part, over several, and over parts and what was not fetched.
        for length in (7, 777, 7777):
            for start in range(0, len(content), 333):
                assert source.read_at(length, start) == content[start : start + length]
    finally:
        ahead.close()


@pytest.mark.parametrize("columns", [COLUMNS, ["vector"], ["nested"], ["dotted.name"]])
def test_read_ahead_asks_once_for_a_file_and_once_for_neighbours(
    columns: list[str], proxy: FaultyProxy, put: Put
):
    _, content = example()
    put("few.parquet", content)
    metadata, file = metadata_of(content), s3_uri(proxy, "few.parquet")
    ahead = ReadAhead(4)
    try:
        for group in range(4):
            ahead.schedule(group, file, metadata, group, columns)
        sources = [ahead.take(group) for group in range(4)]
        assert sorted(proxy.requests) == ["GET"] * 4 + ["HEAD"]
        for group, source in enumerate(sources):
            read_group(source, metadata, group, columns)
    finally:
        ahead.close()
    assert len(proxy.requests) == 5


def test_what_was_not_scheduled_can_be_read_too(proxy: FaultyProxy, put: Put):
    table, content = example()
    put("more.parquet", content)
    metadata = metadata_of(content)
    ahead = ReadAhead(1)
    try:
        ahead.schedule(0, s3_uri(proxy, "more.parquet"), metadata, 1, ["text"])
        source = ahead.take(0)
        assert read_group(source, metadata, 3, COLUMNS).equals(rows_of(table, 3, COLUMNS))
    finally:
        ahead.close()


def test_ranges_hold_the_chunks_and_leave_out_large_holes(monkeypatch: pytest.MonkeyPatch):
    _, content = example()
    metadata = metadata_of(content)
    assert len(ranges_of(metadata, 0, ["number", "text"])) == 1
    monkeypatch.setattr(read_ahead, "_HOLE_BYTES", 100)
    (first, after_first), (second, after_second) = ranges_of(metadata, 0, ["text", "number"])
    group = metadata.row_group(0)
    assert after_first - first == group.column(0).total_compressed_size
    assert after_second - second == group.column(2).total_compressed_size
    assert after_first < second
    assert ranges_of(metadata, 0, ["absent"]) == []


@pytest.mark.parametrize("fault", ["SlowDown", "TooManyRequests", "drop", "cut"])
def test_what_fails_in_passing_is_tried_again(
    fault: str, proxy: FaultyProxy, put: Put, caplog: pytest.LogCaptureFixture
):
    table, content = example()
    put("passing.parquet", content)
    metadata = metadata_of(content)
    if fault != "cut":
        proxy.fail(fault, 2, "HEAD")
    proxy.fail(fault, 3, "GET")
    ahead = ReadAhead(1)
    try:
        ahead.schedule(0, s3_uri(proxy, "passing.parquet"), metadata, 2, COLUMNS)
        found = read_group(ahead.take(0), metadata, 2, COLUMNS)
    finally:
        ahead.close()
    assert found.equals(rows_of(table, 2, COLUMNS))
    assert proxy.requests == ["HEAD"] * (1 if fault == "cut" else 3) + ["GET"] * 4
    warnings = [record for record in caplog.records if record.name == stores.__name__]
    assert len(warnings) == len(proxy.requests) - 2
    assert "passing.parquet" in caplog.text
    assert SECRET not in caplog.text
    assert "AKIANOBODY" not in caplog.text


@pytest.mark.parametrize("fault", ["SlowDown", "drop", "cut"])
def test_an_open_file_tries_again_too(fault: str, proxy: FaultyProxy, put: Put):
    table, content = example()
    put("open.parquet", content)
    proxy.fail(fault, 4, "GET")
    with pq.ParquetFile(open_file(s3_uri(proxy, "open.parquet"))) as parquet:
        assert parquet.read().equals(table)


@pytest.mark.parametrize("fault", ["SlowDown", "TooManyRequests", "drop", "cut"])
def test_the_last_failure_comes_out(fault: str, proxy: FaultyProxy, put: Put):
    _, content = example()
    put("last.parquet", content)
    proxy.fail(fault, 100, "GET")
    ahead = ReadAhead(1)
    try:
        ahead.schedule(0, s3_uri(proxy, "last.parquet"), metadata_of(content), 2, COLUMNS)
        with pytest.raises(OSError, match="AWS Error") as caught:
            ahead.take(0)
    finally:
        ahead.close()
    assert proxy.requests == ["HEAD"] + ["GET"] * 5
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize("method", ["HEAD", "GET"])
def test_what_is_forbidden_is_not_tried_again(method: str, proxy: FaultyProxy, put: Put):
    put("forbidden", b"0" * 1000)
    proxy.fail("AccessDenied", 1, method)
    with pytest.raises(OSError, match="ACCESS_DENIED") as caught:
        open_file(s3_uri(proxy, "forbidden")).read()
    assert proxy.requests.count(method) == 1
    assert SECRET not in str(caught.value)


def test_what_is_not_there_is_not_asked_for_again(proxy: FaultyProxy, tmp_path: Path):
    with pytest.raises(FileNotFoundError):
        open_file(s3_uri(proxy, "absent"))
    with pytest.raises(FileNotFoundError):
        identity_of(s3_uri(proxy, "absent"))
    assert proxy.requests == ["HEAD", "HEAD"]
    for file in ("memory://absent", str(tmp_path / "absent")):
        with pytest.raises(FileNotFoundError):
            open_file(file)
        with pytest.raises(FileNotFoundError):
            identity_of(file)


def test_an_object_that_got_shorter_is_an_error_at_once(proxy: FaultyProxy, put: Put, memory: Any):
    put("shorter", b"0" * 10_000)
    memory.pipe("/shorter", b"0" * 1000)
    remote, local = open_file(s3_uri(proxy, "shorter")), open_file("memory://shorter")
    put("shorter", b"0" * 400)
    memory.pipe("/shorter", b"0" * 400)
    with pytest.raises(OSError, match="HTTP status 416"):
        remote.read_at(5000, 5000)
    assert proxy.requests == ["HEAD", "GET"]
    with pytest.raises(OSError, match="ends at byte 400, expected 600"):
        local.read_at(600, 0)


def test_read_ahead_opens_a_file_again_that_could_not_be_opened(proxy: FaultyProxy, put: Put):
    table, content = example()
    file, metadata = s3_uri(proxy, "late.parquet"), metadata_of(content)
    ahead = ReadAhead(1)
    try:
        ahead.schedule(0, file, metadata, 0, COLUMNS)
        with pytest.raises(FileNotFoundError):
            ahead.take(0)
        put("late.parquet", content)
        ahead.schedule(0, file, metadata, 0, COLUMNS)
        assert read_group(ahead.take(0), metadata, 0, COLUMNS).equals(rows_of(table, 0, COLUMNS))
    finally:
        ahead.close()


def test_a_key_is_scheduled_once_and_taken_once(memory: Any):
    _, content = example()
    memory.pipe("/keys.parquet", content)
    metadata = metadata_of(content)
    ahead = ReadAhead(1)
    try:
        ahead.schedule("key", "memory://keys.parquet", metadata, 0, ["text"])
        with pytest.raises(StreamError, match="scheduled already"):
            ahead.schedule("key", "memory://keys.parquet", metadata, 0, ["text"])
        ahead.take("key")
        with pytest.raises(StreamError, match="not scheduled"):
            ahead.take("key")
        ahead.schedule("key", "memory://keys.parquet", metadata, 0, ["text"])
        ahead.discard("key")
        ahead.discard("key")
        with pytest.raises(StreamError, match="not scheduled"):
            ahead.take("key")
    finally:
        ahead.close()


def test_closing_cancels_what_was_not_begun_and_waits_for_the_rest(proxy: FaultyProxy, put: Put):
    _, content = example()
    put("held.parquet", content)
    metadata, file = metadata_of(content), s3_uri(proxy, "held.parquet")
    proxy.fail("hold", 100, "GET")
    ahead = ReadAhead(2)
    for group in range(4):
        ahead.schedule(group, file, metadata, group, COLUMNS)
    proxy.held.acquire()
    proxy.held.acquire()
    failures: list[BaseException] = []

    def take() -> None:
        try:
            ahead.take(3)
        except StreamError as error:
            failures.append(error)

    taker = threading.Thread(target=take)
    taker.start()
    closer = threading.Thread(target=ahead.close)
    closer.start()
    # Group 3 was never begun: who waits for it hears of the close while the others still hang.
    taker.join()
    assert "closed" in str(failures[0])
    assert closer.is_alive()
    proxy.release.set()
    closer.join()
    assert proxy.requests.count("GET") == 2
    with pytest.raises(StreamError, match="closed"):
        ahead.take(0)
    with pytest.raises(StreamError, match="closed"):
        ahead.schedule(9, file, metadata, 0, COLUMNS)
    ahead.close()


def test_closing_ends_the_wait_before_the_next_attempt(
    proxy: FaultyProxy, put: Put, monkeypatch: pytest.MonkeyPatch
):
    _, content = example()
    put("wait.parquet", content)
    proxy.fail("SlowDown", 100, "GET")
    waits = threading.Event()
    monkeypatch.setattr(stores, "wait_random_exponential", lambda **_: lambda _state: 1e6)
    monkeypatch.setattr(stores._log, "warning", lambda *_: waits.set())
    ahead = ReadAhead(1)
    ahead.schedule(0, s3_uri(proxy, "wait.parquet"), metadata_of(content), 0, COLUMNS)
    waits.wait()
    ahead.close()
    assert proxy.requests.count("GET") <= 2


@pytest.mark.parametrize(
    "uri",
    [
        f"s3://AKIANOBODY:{SECRET}@bucket/a.parquet",
        f"s3://AKIANOBODY:{SECRET[:5]}/{SECRET[5:]}@bucket/a.parquet",
        f"s3://{SECRET}@bucket/a.parquet",
        f"s3://bucket/a.parquet?secret_key={SECRET}",
        f"s3://bucket/a.parquet?other={SECRET}",
        f"s3://bucket/a.parquet?endpoint_override=user:{SECRET}@host",
        f"ftp://user:{SECRET}@host/a.parquet",
        f"ftp://user:{SECRET[:5]}?{SECRET[5:]}@host/a.parquet",
        f"https://host/a.parquet?v=1&X-Amz-Signature={SECRET}",
        f"unknown://user:{SECRET}@host/a.parquet",
    ],
)
@pytest.mark.parametrize("call", [open_file, identity_of, list_parquet])
def test_a_secret_in_a_uri_is_refused_and_not_repeated(
    uri: str, call: Callable[[str], object], caplog: pytest.LogCaptureFixture
):
    with pytest.raises(StoreError) as caught:
        call(uri)
    said = f"{caught.value}{caught.value.args}{caught.value.__context__}{caplog.text}"
    assert SECRET not in said
    assert SECRET[5:] not in said
    assert SECRET[:5] not in said


def test_a_chain_of_file_systems_is_refused():
    with pytest.raises(StoreError, match="Name the store itself"):
        open_file("simplecache::memory://a.parquet")


def test_a_port_or_a_container_is_no_secret():
    stores._refuse_secrets("https", "host:8080", "host:8080/a")
    stores._refuse_secrets("https", "[::1]:8080", "[::1]:8080/a")
    stores._refuse_secrets("abfs", "container@account", "container@account/a?version=1")


def test_an_unknown_or_uninstalled_protocol_says_what_to_do(monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(StoreError, match=r"nope://bucket: Protocol not known.*Take a path"):
        open_file("nope://bucket/a.parquet")
    monkeypatch.setitem(
        known_implementations, "nowhere", {"class": "absent.Store", "err": "Please install absent"}
    )
    with pytest.raises(StoreError, match=r"Please install absent\. Install what fsspec needs"):
        open_file("nowhere://bucket/a.parquet")


def test_a_file_uri_with_a_host_is_refused():
    for uri in ("file://data/a.parquet", "file:a.parquet"):
        with pytest.raises(StoreError, match="file:///absolute/path"):
            open_file(uri)


def test_the_identity_changes_with_the_content(
    tmp_path: Path, memory: Any, put: Put, proxy: FaultyProxy
):
    local = tmp_path / "a"

    def write_local(content: bytes) -> None:
        before = local.stat().st_mtime_ns if local.exists() else 0
        local.write_bytes(content)
        # Disks may keep the time in steps longer than this test.
        os.utime(local, ns=(before + 1, before + 1))

    writers = {
        str(local): write_local,
        "memory://a": lambda content: memory.pipe("/a", content),
        s3_uri(proxy, "identity"): lambda content: put("identity", content),
    }
    for file, write in writers.items():
        found = []
        for content in (b"one", b"two", b"longer"):
            write(content)
            found.append(identity_of(file))
            assert identity_of(file) == found[-1]
        assert len(set(found)) == 3


def test_a_store_that_tells_no_change_has_no_identity(memory: Any, monkeypatch: pytest.MonkeyPatch):
    memory.pipe("/a", b"one")

    def modified(*_: Any) -> None:
        raise NotImplementedError

    monkeypatch.setattr(type(memory), "modified", modified)
    with pytest.raises(StoreError, match="without a cache"):
        identity_of("memory://a")


@pytest.mark.parametrize("store", ["path", "file", "memory", "s3"])
def test_listing_gives_the_data_files_in_order(
    store: str, tmp_path: Path, memory: Any, put: Put, proxy: FaultyProxy
):
    data = ["day=1%3A2/b.parquet", "a b.parquet", "_day=1/c.parquet", "B"]
    for name in [*data, "_SUCCESS", ".a.crc", "_log/0.parquet", ".x/day=1/a", "d_$folder$"]:
        local = tmp_path / "set" / name
        local.parent.mkdir(parents=True, exist_ok=True)
        local.write_bytes(name.encode())
        memory.pipe(f"/set/{name}", name.encode())
        put(f"listing {store}/{name}", name.encode())
    folder = {
        "path": str(tmp_path / "set"),
        "file": f"{(tmp_path / 'set').as_uri()}/",
        "memory": "memory://set",
        "s3": s3_uri(proxy, f"listing%20{store}/"),
    }[store]
    found = list_parquet(folder)
    assert [open_file(file).read().decode() for file in found] == sorted(data)


def test_listing_a_folder_that_is_not_there_fails(tmp_path: Path, proxy: FaultyProxy):
    for folder in (str(tmp_path / "absent"), "memory://absent", s3_uri(proxy, "absent-folder")):
        with pytest.raises(FileNotFoundError):
            list_parquet(folder)
