"""The stream over stores: the same batches as over local files, whatever the network does."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fsspec
import pyarrow.fs as pafs
import pytest

from pipeline.errors import RowGroupError, StreamError
from pipeline.stream import Batch, Stream
from pipeline.stream.fetch import Ahead
from tests.s3_server import (
    FaultyProxy,
    give_credentials,
    new_bucket,
    running_moto,
    running_proxy,
)
from tests.stream.conftest import stream_threads
from tests.stream.every_kind import EVERY_KIND, assert_same_batches, batches_of, write_parts
from tests.stream.examples import IDS, ids_of

ROWS = 300
ROWS_PER_GROUP = 20
ROW_GROUPS = ROWS // ROWS_PER_GROUP
PATIENCE_SECONDS = 60
NARROW: dict[str, Any] = {"rows_per_batch": 20, "shuffle_window_rows": 20, "workers_count": 2}
"""Settings under which little is in flight."""


@pytest.fixture(scope="module", autouse=True)
def credentials() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        give_credentials(patch, "nobodys")
        yield


@pytest.fixture(scope="module")
def moto() -> Iterator[int]:
    with running_moto() as port:
        yield port


@pytest.fixture(scope="module")
def bucket(moto: int) -> pafs.FileSystem:
    """The store itself, past the proxy."""
    return new_bucket(moto, "lake")


@pytest.fixture(scope="module", autouse=True)  # before any test counts its threads
def shared_proxy(moto: int) -> Iterator[FaultyProxy]:
    with running_proxy(moto) as proxy:
        yield proxy


@pytest.fixture
def proxy(shared_proxy: FaultyProxy, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultyProxy]:
    """In front of the store, where the environment says the store is."""
    shared_proxy.reset()
    while shared_proxy.held.acquire(blocking=False):
        pass
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{shared_proxy.port}")
    yield shared_proxy
    shared_proxy.release.set()


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Three local files of five row groups of twenty rows."""
    return write_parts(tmp_path_factory.mktemp("local"), ROWS, ROWS_PER_GROUP)


@pytest.fixture
def s3_files(files: list[str], bucket: pafs.FileSystem, proxy: FaultyProxy) -> list[str]:
    assert proxy.requests == []
    for file in files:
        with bucket.open_output_stream(f"lake/{Path(file).name}") as out:
            out.write(Path(file).read_bytes())
    return [f"s3://lake/{Path(file).name}" for file in files]


@pytest.fixture
def memory_files(files: list[str]) -> Iterator[list[str]]:
    filesystem = fsspec.filesystem("memory")
    for file in files:
        filesystem.pipe(f"/lake/{Path(file).name}", Path(file).read_bytes())
    yield [f"memory://lake/{Path(file).name}" for file in files]
    filesystem.store.clear()
    filesystem.pseudo_dirs[:] = [""]


@pytest.fixture(params=["memory", "s3"])
def remote(request: pytest.FixtureRequest) -> list[str]:
    uris: list[str] = request.getfixturevalue(f"{request.param}_files")
    return uris


@pytest.fixture
def remove(bucket: pafs.FileSystem) -> Callable[[str], None]:
    def remove_file(uri: str) -> None:
        if uri.startswith("s3:"):
            bucket.delete_file(uri.removeprefix("s3://"))
        else:
            fsspec.filesystem("memory").rm(uri.removeprefix("memory:/"))

    return remove_file


@pytest.mark.parametrize(
    "chosen",
    [
        {},
        NARROW,
        {"rank": 1, "world_size": 4},
        {"shuffle": False},
        {"drop_last": True, "rows_per_batch": 64, "shuffle_window_rows": 128},
    ],
    ids=str,
)
def test_a_store_gives_the_same_batches_as_local_files(
    files: list[str], remote: list[str], chosen: dict[str, Any]
) -> None:
    assert_same_batches(batches_of(remote, 2, **chosen), batches_of(files, 2, **chosen))


def test_a_state_taken_over_local_files_goes_on_over_a_store(
    files: list[str], remote: list[str]
) -> None:
    expected = batches_of(files)
    with Stream(files, EVERY_KIND, rows_per_batch=40) as local:
        batches = local.epoch(0)
        next(batches)
        next(batches)
        state = local.state_dict()
    with Stream(remote, EVERY_KIND, rows_per_batch=40) as stream:
        stream.load_state_dict(state)
        assert_same_batches(list(stream), expected[2:])


@pytest.mark.parametrize("faults", [["SlowDown"] * 2, ["drop"] * 2, ["cut", "SlowDown"]])
def test_failing_requests_in_the_middle_of_an_epoch_change_nothing(
    files: list[str],
    s3_files: list[str],
    proxy: FaultyProxy,
    caplog: pytest.LogCaptureFixture,
    faults: list[str],
) -> None:
    delivered, injected = [], 0
    with Stream(s3_files, EVERY_KIND, **NARROW) as stream:
        for batch in stream.epoch(0):
            delivered.append(batch)
            # Twice two: they may all hit one request, which is tried five times.
            if injected < 2 * len(faults) and not proxy.faults.get("GET"):
                injected += len(faults)
                for fault in faults:
                    proxy.fail(fault, 1)
    assert not proxy.faults["GET"]
    assert injected == 2 * len(faults)
    assert caplog.text.count("trying again") >= injected
    assert_same_batches(delivered, batches_of(files, **NARROW))


def test_a_store_that_keeps_failing_is_an_error_naming_file_and_row_group(
    s3_files: list[str], proxy: FaultyProxy
) -> None:
    before = stream_threads()
    with Stream(s3_files, EVERY_KIND, **NARROW, shuffle=False) as stream:
        batches = stream.epoch(0)
        next(batches)
        proxy.fail("SlowDown", 10_000)
        where = r"s3://lake/part-00\d.parquet, row group \d+: OSError"
        with pytest.raises(RowGroupError, match=where):
            list(batches)
        proxy.reset()
    assert not [t for t in stream_threads() - before if t.name.startswith(("stream", "read"))]


def test_a_file_that_vanishes_in_the_middle_of_an_epoch_is_named(
    remote: list[str], remove: Callable[[str], None]
) -> None:
    with Stream(remote, IDS, **NARROW, shuffle=False) as stream:
        batches = stream.epoch(0)
        delivered = ids_of(next(batches))
        remove(remote[2])
        # The first row group that is gone is the one that is named.
        with pytest.raises(RowGroupError, match=r"part-002.parquet, row group 0:"):
            delivered.extend(row_id for batch in batches for row_id in ids_of(batch))
        assert delivered == list(range(200))
        assert not stream_names()


def stream_names() -> set[str]:
    """Threads of the stream itself, beside those of the servers here."""
    names = ("stream-", "read-ahead", "footers")
    return {thread.name for thread in stream_threads() if thread.name.startswith(names)}


def test_closing_in_the_middle_of_an_epoch_leaves_no_thread(remote: list[str]) -> None:
    stream = Stream(remote, IDS, **NARROW)
    batches = stream.epoch(0)
    next(batches)
    assert any(name.startswith("read-ahead") for name in stream_names())
    stream.close()
    assert not stream_names()


@pytest.mark.parametrize("kind", [ValueError, KeyboardInterrupt, GeneratorExit])
def test_an_exception_in_the_body_of_the_loop_leaves_no_thread(
    remote: list[str], kind: type[BaseException]
) -> None:
    def consume() -> None:
        for batch in Stream(remote, IDS, **NARROW):
            raise kind(batch.step)

    with pytest.raises(kind):
        consume()
    # The loop alone held the iterator: no `with`, no `close`.
    assert not stream_names()


def test_closing_from_elsewhere_ends_a_consumer_that_waits_for_the_store(
    s3_files: list[str], proxy: FaultyProxy
) -> None:
    stream = Stream(s3_files, IDS, **NARROW)
    proxy.fail("hold", 10_000)
    outcome: list[BaseException] = []

    def consume() -> None:
        try:
            list(stream.epoch(0))
        except StreamError as error:
            outcome.append(error)

    consumer = threading.Thread(target=consume, name="consumer")
    consumer.start()
    assert proxy.held.acquire(timeout=PATIENCE_SECONDS)
    closer = threading.Thread(target=stream.close, name="closer")
    closer.start()
    # The consumer is told at once, while the request is still under way.
    consumer.join(PATIENCE_SECONDS)
    assert not consumer.is_alive()
    proxy.release.set()
    closer.join(PATIENCE_SECONDS)
    assert not closer.is_alive()
    assert "stopped" in str(outcome[0])
    assert not stream_names()


# --- read-ahead -----------------------------------------------------------------------------------


def test_several_row_groups_are_under_way_before_the_first_one_came(
    s3_files: list[str], files: list[str], proxy: FaultyProxy
) -> None:
    delivered: list[Batch] = []
    with Stream(s3_files, EVERY_KIND, rows_per_batch=40, workers_count=1) as stream:
        proxy.fail("hold", 10_000)
        consumer = threading.Thread(target=lambda: delivered.extend(stream.epoch(0)))
        consumer.start()
        # One worker, which would wait for one request at a time.
        under_way = [proxy.held.acquire(timeout=PATIENCE_SECONDS) for _ in range(6)]
        assert all(under_way)
        assert not delivered
        proxy.release.set()
        consumer.join()
    assert_same_batches(delivered, batches_of(files))


def test_read_ahead_goes_on_while_the_consumer_is_busy_and_not_over_the_whole_epoch(
    s3_files: list[str], proxy: FaultyProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = []
    begin = Ahead.begin

    def counted(ahead: Ahead, item: Any) -> None:
        begun.append(item)
        begin(ahead, item)

    monkeypatch.setattr(Ahead, "begin", counted)
    chosen: dict[str, Any] = {"rows_per_batch": ROWS_PER_GROUP, "canonical_shards": 1}
    with Stream(s3_files, IDS, shuffle=False, workers_count=1, **chosen) as stream:
        proxy.requests.clear()
        batches = stream.epoch(0)
        next(batches)
        assert len(begun) <= 1 + 4
        # The second row group comes while nobody asks for it.
        while proxy.requests.count("GET") < 2:
            threading.Event().wait(0.001)
        for step, _ in enumerate(batches, start=1):
            # A window is a row group here. Delivered: step + 1; further: what may be in flight.
            assert len(begun) <= step + 1 + 4
        assert stream.row_groups == ROW_GROUPS
        assert proxy.requests.count("GET") == ROW_GROUPS


def test_a_columns_bytes_are_asked_for_once(s3_files: list[str], proxy: FaultyProxy) -> None:
    with Stream(s3_files, IDS, rows_per_batch=40, canonical_shards=1) as stream:
        proxy.requests.clear()
        list(stream.epoch(0))
    assert proxy.requests.count("GET") == ROW_GROUPS
    assert proxy.requests.count("HEAD") == 3


# --- Ctrl-C ---------------------------------------------------------------------------------------

CONSUMER = """
import signal, sys
from pipeline.stores import reading as stores
from pipeline.stream import BatchLayout, Stream

stores._SILENCE_TIMEOUT_SECONDS = 1.0  # how long a request may hang before it fails
stream = Stream(
    sys.argv[2:], BatchLayout(scalars={"id": "id"}),
    rows_per_batch=20, canonical_shards=1, shuffle=False, workers_count=2,
)
print("opened", flush=True)
sys.stdin.readline()
batches = stream.epoch(0)
for batch in batches:
    print(batch.step, flush=True)
    if sys.argv[1] == "busy":
        while True:
            signal.pause()
"""


@pytest.mark.parametrize("consumer", ["waiting", "busy"])
def test_ctrl_c_ends_a_process_that_reads_a_store_which_does_not_answer(
    s3_files: list[str], proxy: FaultyProxy, consumer: str
) -> None:
    process = subprocess.Popen(
        [sys.executable, "-W", "error", "-c", CONSUMER, consumer, *s3_files],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    try:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == "opened\n"
        if consumer == "busy":
            # As many row groups come as may be in flight before the first is delivered, then none.
            proxy.fail("none", 4)
        proxy.fail("hold", 10_000)
        process.stdin.write("\n")
        process.stdin.flush()
        if consumer == "busy":
            assert process.stdout.readline() == "0\n"
        assert proxy.held.acquire(timeout=PATIENCE_SECONDS)
        asked = len(proxy.requests)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=PATIENCE_SECONDS)
    finally:
        process.kill()
        process.wait()
        proxy.release.set()
    assert process.returncode == -signal.SIGINT
    # Arrow's S3 waits at exit for the requests under way, which time out; their warning may follow.
    assert "KeyboardInterrupt" in errors
    # What was under way was given up, not tried again and again: at most what was being sent.
    assert len(proxy.requests) - asked <= 4
