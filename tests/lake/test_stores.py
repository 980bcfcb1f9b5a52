"""Tables in an object store: what holds for a folder holds there, over a real S3 protocol."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow as pa
import pyarrow.fs as pafs
import pytest
from deltalake import CommitProperties
from deltalake.exceptions import CommitFailedError

from pipeline.config import Storage
from pipeline.errors import (
    CommitConflictError,
    CommitRefusedError,
    LakeError,
    LakeNotWritableError,
    TableNotFoundError,
)
from pipeline.lake import (
    DataFile,
    Lake,
    Since,
    Table,
    Transaction,
    changes,
    commit,
    compact,
    restore,
    sweep,
)
from pipeline.lake.transaction import add_action
from tests.s3_server import StoreProcess, give_credentials, new_bucket, running_store

STORED = pa.schema([("id", pa.int64()), ("name", pa.string())])
SCHEMA = pa.schema([*STORED, ("p", pa.string())])
SECRET = "wJalrXUtnFEMI-K7MDENG"  # noqa: S105 - nobody's


@pytest.fixture(scope="module", autouse=True)
def credentials() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        give_credentials(patch, SECRET)
        yield


@pytest.fixture(scope="module")
def shared_store() -> Iterator[StoreProcess]:
    with running_store() as process:
        yield process


@pytest.fixture
def store(shared_store: StoreProcess) -> StoreProcess:
    shared_store.reset()
    return shared_store


@pytest.fixture
def bucket(store: StoreProcess, request: pytest.FixtureRequest) -> pafs.FileSystem:
    return new_bucket(store.port, bucket_name(request))


def bucket_name(request: pytest.FixtureRequest) -> str:
    return "b" + str(abs(hash(request.node.name)))


def storage(port: int) -> Storage:
    return Storage(endpoint=f"http://127.0.0.1:{port}", region="us-east-1", work="unused")


@pytest.fixture
def lake(store: StoreProcess, bucket: pafs.FileSystem, request: pytest.FixtureRequest) -> Lake:
    del bucket
    return Lake(f"s3a://{bucket_name(request)}/some/lake", storage(store.port))


@pytest.fixture
def table(lake: Lake) -> Table:
    found = lake.table("deep/t")
    found.create(SCHEMA, ("p",))
    return found


def rows(ids: range) -> pa.Table:
    return pa.table({"id": list(ids), "name": [f"n{i}" for i in ids]}, STORED)


def add(table: Table, ids: range, partition: str | None = "a", **how: object) -> list[DataFile]:
    with table.attempt() as attempt:
        files = attempt.write_arrow(rows(ids), {"p": partition})
        commit(table, files, attempt=attempt, **how)  # type: ignore[arg-type]
    return files


def held(table: Table, version: int | None = None) -> Counter[tuple[int, str | None]]:
    snapshot = table.snapshot(version)
    return Counter(
        (number, file.partition["p"])
        for file in snapshot.files
        for number in snapshot.of_files([file]).arrow(["id"])["id"].to_pylist()
    )


def expected(**partitions: range) -> Counter[tuple[int, str | None]]:
    return Counter((number, name) for name, ids in partitions.items() for number in ids)


def test_what_was_committed_is_read_and_nothing_else_lies_there(
    lake: Lake, table: Table, bucket: pafs.FileSystem, request: pytest.FixtureRequest
) -> None:
    odd = "ö/ %=x"  # escaped in the path, and that once more in a URI
    add(table, range(5))
    files = add(table, range(5, 8), odd)
    assert held(table) == expected(a=range(5)) + Counter((i, odd) for i in range(5, 8))
    found = bucket.get_file_info(pafs.FileSelector(f"{bucket_name(request)}/some", recursive=True))
    data = {info.path for info in found if info.is_file and "_delta_log" not in info.path}
    assert len(data) == 2
    assert any(path.endswith(files[0].path) for path in data)
    assert [each.name for each in lake.tables()] == ["deep/t"]


def test_a_table_is_as_it_was_at_each_version_and_changes_tell_the_difference(table: Table) -> None:
    first = add(table, range(5))
    second = add(table, range(5, 9), replace=[("a",)])
    assert held(table, 1) == expected(a=range(5))
    assert held(table, 2) == expected(a=range(5, 9))
    found = changes(table, 1, 2)
    assert found is not None
    assert [each.path for each in found.added] == [second[0].path]
    assert [each.path for each in found.removed] == [first[0].path]


def test_a_transaction_lands_once(table: Table) -> None:
    add(table, range(5), transaction=Transaction("job", 1))
    add(table, range(5), transaction=Transaction("job", 1))
    assert held(table) == expected(a=range(5))
    assert len(table.folder.entries()) > 0
    with pytest.raises(CommitConflictError, match="job was at None"):
        add(table, range(9), since=Since("job", None))
    data = [entry for entry in table.folder.entries() if entry.path.endswith(".parquet")]
    assert len(data) == 1, "what did not land was removed"


def test_of_writers_at_the_same_time_each_lands_once(table: Table) -> None:
    """No lock but the store's: a file of the log is put only where there is none."""
    together = threading.Barrier(4)

    def write(writer: int) -> None:
        with table.attempt() as attempt:
            files = attempt.write_arrow(rows(range(writer * 10, writer * 10 + 10)), {"p": "a"})
            together.wait()
            commit(table, files, attempt=attempt, transaction=Transaction(f"w{writer}", 1))

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(write, range(4)))
    assert held(table) == expected(a=range(40))
    assert table.open().version() == 4


def test_the_store_refuses_the_second_commit_of_a_version(table: Table) -> None:
    with table.attempt() as attempt:
        [file] = attempt.write_arrow(rows(range(3)), {"p": "a"})
        handles = [table.open(), table.open()]

        def land(handle: object) -> None:
            handle.create_write_transaction(  # type: ignore[attr-defined]
                [add_action(file, 0)],
                mode="append",
                schema=handles[0].schema(),
                partition_by=["p"],
                commit_properties=CommitProperties(max_commit_retries=0),
            )

        land(handles[0])
        with pytest.raises(CommitFailedError):
            land(handles[1])


def test_a_file_that_is_gone_or_changed_is_not_committed(table: Table) -> None:
    with table.attempt() as attempt:
        [file] = attempt.write_arrow(rows(range(3)), {"p": "a"})
        table.folder.remove(file.path)
        with pytest.raises(CommitRefusedError, match="is gone"):
            commit(table, [file])
        table.folder.put(file.path, b"other")
        with pytest.raises(CommitRefusedError, match="has 5 bytes, not"):
            commit(table, [file])
    assert not held(table)


def test_an_attempt_that_fails_leaves_nothing(table: Table) -> None:
    def fail() -> None:
        with table.attempt() as attempt:
            attempt.write_arrow(rows(range(3)), {"p": "a"})
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert {entry.path.split("/")[0] for entry in table.folder.entries()} == {"_delta_log"}


def test_small_files_are_merged_and_old_ones_swept(table: Table) -> None:
    for first in range(0, 30, 10):
        add(table, range(first, first + 10))
    with table.attempt() as orphan:
        orphan.write_arrow(rows(range(3)), {"p": "a"})
    left_over = f"{'0' * 32}/_temporary/part-0.parquet"
    table.folder.put(left_over, b"unfinished")
    assert compact(table).merged == 3
    assert held(table) == expected(a=range(30))
    swept = sweep(table, 0)
    assert left_over in swept
    assert len(swept) == 5
    assert held(table) == expected(a=range(30))
    assert table.folder.sizes([left_over]) == [None]
    with pytest.raises(TableNotFoundError, match="were vacuumed"):
        restore(table, 2)


def test_a_table_is_taken_back(table: Table) -> None:
    add(table, range(5))
    add(table, range(5, 9), replace="all")
    assert restore(table, 1).landed
    assert held(table) == expected(a=range(5))


def test_a_snapshot_knows_whether_its_files_are_there(table: Table) -> None:
    [file] = add(table, range(5))
    snapshot = table.snapshot()
    assert snapshot.is_whole()
    assert snapshot.head(2)["id"].to_pylist() == [0, 1]
    table.folder.remove(file.path)
    assert not snapshot.is_whole()


def test_work_lies_on_a_disk_and_is_the_lakes_own(tmp_path: Path) -> None:
    given = Storage(work=str(tmp_path))
    places = {Lake(f"s3://bucket/{name}", given).work("runs") for name in ("a/b", "a-b", "a")}
    assert len(places) == 3
    assert all(tmp_path in place.parents for place in places)


def test_a_lake_that_cannot_be_written_is_told_in_one_error(
    store: StoreProcess, lake: Lake
) -> None:
    lake.require_writable()
    assert lake.folder.entries() == []
    with pytest.raises(LakeNotWritableError, match="there is no such bucket"):
        Lake("s3://nowhere/lake", storage(store.port)).require_writable()
    store.fail("AccessDenied", 99, "POST")
    store.fail("AccessDenied", 99, "PUT")
    with pytest.raises(LakeNotWritableError, match="does not let us in") as refused:
        Lake(lake.root, storage(store.proxy_port)).require_writable()
    assert "credentials in the environment" in refused.value.remedy
    assert SECRET not in str(refused.value)
    with pytest.raises(LakeNotWritableError, match="does not answer as it should"):
        Lake(lake.root, storage(1)).require_writable()


def test_a_store_that_fails_in_the_midst_is_one_error_without_a_secret(
    store: StoreProcess, lake: Lake, table: Table
) -> None:
    add(table, range(5))
    there = Lake(lake.root, storage(store.proxy_port)).table("deep/t")
    assert held(there) == expected(a=range(5))
    store.fail("AccessDenied", 10_000)
    with pytest.raises(LakeError, match="does not let us in") as refused:
        there.open()
    assert SECRET not in str(refused.value)


def test_a_commit_whose_answer_is_lost_is_known_as_ones_own(
    store: StoreProcess, lake: Lake, table: Table
) -> None:
    with table.attempt() as attempt:
        files = attempt.write_arrow(rows(range(5)), {"p": "a"})
        there = Lake(lake.root, storage(store.proxy_port)).table("deep/t")
        store.fail("lost", 1, "PUT")
        # Taken for another writer's, its files would be removed.
        done = commit(there, files, attempt=attempt, transaction=Transaction("job", 1))
        assert store.requests().count("PUT") == 2
    assert (done.landed, done.version) == (True, 1)
    assert held(table) == expected(a=range(5))


def test_what_fails_in_passing_is_tried_again(
    store: StoreProcess, lake: Lake, table: Table
) -> None:
    there = Lake(lake.root, storage(store.proxy_port)).table("deep/t")
    for method in ("PUT", "POST", "GET", "HEAD"):
        store.fail("SlowDown", 2, method)
    add(there, range(5))
    assert held(table) == expected(a=range(5))
