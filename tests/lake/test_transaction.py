from __future__ import annotations

import subprocess
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import CommitProperties, DeltaTable
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import (
    CommitConflictError,
    CommitRefusedError,
    LakeError,
    SchemaError,
    TableNotFoundError,
    UnsupportedTableError,
)
from pipeline.lake import Between, DataFile, Lake, Since, Table, Transaction, commit, data_file
from pipeline.lake.files import partition_folder

SCHEMA = pa.schema([("id", pa.int64()), ("p", pa.string())])


def new_table(root: Path, name: str = "t") -> Table:
    table = Lake(root).table(name)
    table.create(SCHEMA, ["p"])
    return table


def staged(table: Table, rows: dict[str | None, list[int]]) -> list[DataFile]:
    """Files of a new attempt, one a partition, not committed."""
    attempt = table.attempt()
    files = []
    for partition, ids in rows.items():
        folder = f"{attempt.folder}/{partition_folder({'p': partition})}"
        (Path(table.root) / folder).mkdir(parents=True)
        path = f"{folder}/part.parquet"
        pq.write_table(pa.table({"id": pa.array(ids, pa.int64())}), f"{table.root}/{path}")
        files.append(data_file(table.folder, path, SCHEMA, ("p",)))
    return files


def content(table: Table) -> Counter[tuple[int, str | None]]:
    """All rows, read by Polars."""
    return Counter(pl.read_delta(table.root).select("id", "p").iter_rows())


def test_a_second_engine_reads_what_was_committed(tmp_path: Path) -> None:
    table = new_table(tmp_path)
    commit(table, staged(table, {"a": [1, 2], "b/c:%+ é": [3], None: [4]}))
    assert content(table) == Counter([(1, "a"), (2, "a"), (3, "b/c:%+ é"), (4, None)])


def test_replace_takes_exactly_the_touched_partitions(tmp_path: Path) -> None:
    table = new_table(tmp_path)
    commit(table, staged(table, {"a": [1], "b": [2]}))
    before = {f.path for f in table.snapshot().select(p={"b"}).files}
    commit(table, staged(table, {"a": [5, 5]}), replace=[("a",)])
    assert content(table) == Counter({(5, "a"): 2, (2, "b"): 1})
    assert {f.path for f in table.snapshot().select(p={"b"}).files} == before


def test_a_commit_that_builds_upon_what_another_has_moved_is_refused(tmp_path: Path) -> None:
    table = new_table(tmp_path)
    commit(table, staged(table, {"a": [1]}), transaction=Transaction("job", 3))
    upon = Since("job", 3)
    files = staged(table, {"a": [2]})
    commit(table, files, transaction=Transaction("job", 5), since=upon)
    with pytest.raises(CommitConflictError, match=r"job was at 3 .* and is at 5 now"):
        commit(table, staged(table, {"a": [2, 3]}), transaction=Transaction("job", 6), since=upon)
    with pytest.raises(CommitConflictError, match="was at None"):
        commit(table, staged(table, {"a": [4]}), replace=[("a",)], since=Since("job", None))
    assert content(table) == Counter([(1, "a"), (2, "a")])


def test_an_error_removes_an_attempts_files_only_while_no_commit_may_have_them(
    tmp_path: Path,
) -> None:
    table, other = new_table(tmp_path / "one"), new_table(tmp_path / "two")
    attempts = [table.attempt(), other.attempt()]

    def work() -> None:
        with attempts[0] as first, attempts[1] as second:
            for attempt in (first, second):
                folder = Path(attempt.table.root, attempt.folder, "p=a")
                folder.mkdir(parents=True)
                pq.write_table(pa.table({"id": pa.array([1], pa.int64())}), folder / "x.parquet")
            commit(table, first.files(), attempt=first)
            commit(other, second.files(), attempt=second, since=Since("job", 1))

    with pytest.raises(CommitConflictError):
        work()
    assert content(table) == Counter([(1, "a")])
    assert not Path(other.root, attempts[1].folder).exists()


def test_a_pinned_version_stays(tmp_path: Path) -> None:
    table = new_table(tmp_path)
    first = commit(table, staged(table, {"a": [1]})).version
    commit(table, staged(table, {"a": [2]}), replace="all")
    assert table.snapshot(first).arrow(["id"])["id"].to_pylist() == [1]
    assert table.snapshot().arrow(["id"])["id"].to_pylist() == [2]
    with pytest.raises(TableNotFoundError, match="version 99"):
        table.snapshot(99)


def test_a_transaction_lands_once(tmp_path: Path) -> None:
    table = new_table(tmp_path)
    first = commit(table, staged(table, {"a": [1]}), transaction=Transaction("app", 7))
    again = commit(table, staged(table, {"a": [1]}), transaction=Transaction("app", 7))
    older = commit(table, staged(table, {"a": [1]}), transaction=Transaction("app", 6))
    other = commit(table, staged(table, {"a": [1]}), transaction=Transaction("other", 1))
    landed = [first.landed, again.landed, older.landed, other.landed]
    assert landed == [True, False, False, True]
    assert content(table) == Counter({(1, "a"): 2})


def test_of_writers_that_race_with_one_transaction_one_lands(tmp_path: Path) -> None:
    table = new_table(tmp_path)
    files = [staged(table, {"a": [n]}) for n in range(6)]
    with ThreadPoolExecutor(6) as threads:
        done = list(
            threads.map(lambda f: commit(table, f, transaction=Transaction("app", 1)), files)
        )
    assert sum(c.landed for c in done) == 1
    assert content(table).total() == 1


def test_writers_that_race_with_transactions_of_their_own_all_land(tmp_path: Path) -> None:
    table = new_table(tmp_path)
    files = [staged(table, {"a": [n]}) for n in range(4)]
    with ThreadPoolExecutor(4) as threads:
        done = list(threads.map(lambda f: commit(table, f), files))
    assert all(c.landed for c in done)
    assert content(table) == Counter((n, "a") for n in range(4))


def test_racing_replacements_leave_one_of_them(tmp_path: Path) -> None:
    table = new_table(tmp_path)
    commit(table, staged(table, {"a": [0]}))
    files = [staged(table, {"a": [n]}) for n in range(1, 5)]
    with ThreadPoolExecutor(4) as threads:
        list(threads.map(lambda f: commit(table, f, replace=[("a",)]), files))
    assert content(table).total() == 1


def test_a_writer_that_always_loses_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = new_table(tmp_path)
    files = staged(table, {"a": [1]})
    plan = Table.open

    def overtaken(self: Table, version: int | None = None) -> DeltaTable:
        handle = plan(self, version)
        rival = DeltaTable(self.root)
        rival.create_write_transaction(
            [], "append", rival.schema(), ["p"], commit_properties=CommitProperties()
        )
        return handle

    monkeypatch.setattr(Table, "open", overtaken)
    with pytest.raises(CommitConflictError, match="10 tries"):
        commit(table, files)
    monkeypatch.undo()
    assert content(table) == Counter()


@pytest.mark.parametrize("fault", ["gone", "size", "outside", "twice"])
def test_files_that_must_not_be_committed_are_refused(tmp_path: Path, fault: str) -> None:
    table = new_table(tmp_path)
    commit(table, staged(table, {"a": [1]}))
    files = staged(table, {"a": [2]})
    path = Path(table.root) / files[0].path
    if fault == "gone":
        path.unlink()
    elif fault == "size":
        path.write_bytes(path.read_bytes() + b"x")
    elif fault == "twice":
        files = files * 2
    replace = [("b",)] if fault == "outside" else None
    with pytest.raises(CommitRefusedError, match="Nothing was committed"):
        commit(table, files, replace=replace)
    assert content(table) == Counter([(1, "a")])


def test_a_file_of_another_schema_or_place_is_refused(tmp_path: Path) -> None:
    table = new_table(tmp_path)
    (Path(table.root) / "x" / "p=a").mkdir(parents=True)
    pq.write_table(pa.table({"id": ["text"]}), f"{table.root}/x/p=a/f.parquet")
    with pytest.raises(SchemaError, match="column id: has type string, not int64"):
        data_file(table.folder, "x/p=a/f.parquet", SCHEMA, ("p",))
    pq.write_table(pa.table({"id": [1]}), f"{table.root}/x/f.parquet")
    with pytest.raises(CommitRefusedError, match="partition columns"):
        data_file(table.folder, "x/f.parquet", SCHEMA, ("p",))
    (Path(table.root) / "x" / "p=a" / "broken.parquet").write_bytes(b"PAR1 no")
    with pytest.raises(CommitRefusedError, match="cannot be read back"):
        data_file(table.folder, "x/p=a/broken.parquet", SCHEMA, ("p",))


def test_create_is_repeatable_and_refuses_another_schema(tmp_path: Path) -> None:
    table = new_table(tmp_path)
    table.create(SCHEMA, ["p"])
    assert table.snapshot().version == 0
    with pytest.raises(SchemaError, match=r"column id: is not in the table|column n: is missing"):
        table.create(pa.schema([("n", pa.int64()), ("p", pa.string())]), ["p"])
    with pytest.raises(LakeError, match="is partitioned by"):
        table.create(SCHEMA, [])


def test_files_are_chosen_by_partition_only(tmp_path: Path) -> None:
    table = new_table(tmp_path)
    commit(table, staged(table, {"a": [1], "b": [2, 3], "c": [4]}))
    snapshot = table.snapshot()
    assert snapshot.partitions("p") == ["a", "b", "c"]
    assert snapshot.select(p="b").rows == 2
    assert snapshot.select(p={"b", "c"}).rows == 3
    assert snapshot.select(p=Between("a", "b")).rows == 3
    assert snapshot.select(p=Between("bb", "z")).rows == 1
    assert snapshot.select(p=set()).rows == 0
    for other in ("1", {"1"}, Between("1", "2")):
        with pytest.raises(LakeError, match=r"column id: is not a partition column.*Choose by p;"):
            snapshot.select(id=other)


def test_ranges_of_partitions_are_compared_in_the_columns_type(tmp_path: Path) -> None:
    schema = pa.schema([("id", pa.int64()), ("day", pa.date32()), ("n", pa.int32())])
    table = Lake(tmp_path).table("t")
    table.create(schema, ["day", "n"])
    rows = {"day": ["2013-01-09", "2013-01-10", "2013-02-01", None], "n": [9, 10, 100, 9]}
    files = []
    for row_id, (day, n) in enumerate(zip(*rows.values(), strict=True)):
        folder = partition_folder({"day": day, "n": str(n)})
        path = Path(table.root) / "x" / folder / "f.parquet"
        path.parent.mkdir(parents=True)
        pq.write_table(pa.table({"id": [row_id]}), path)
        files.append(data_file(table.folder, f"x/{folder}/f.parquet", schema, ("day", "n")))
    commit(table, files)
    snapshot = table.snapshot()
    assert snapshot.select(n=Between(9, 10)).rows == 3  # as texts, "9" comes after "10"
    assert snapshot.select(n="100").rows == 1
    assert snapshot.select(day=Between(date(2013, 1, 10), "2013-02-28")).rows == 2
    assert snapshot.select(day={None}, n="9").rows == 1
    with pytest.raises(LakeError, match="has the type int32, which 'ten' is not"):
        snapshot.select(n=Between("ten", "20"))


def test_tables_that_plain_parquet_misreads_are_refused(tmp_path: Path) -> None:
    root = str(tmp_path / "cm")
    DeltaTable.create(
        root,
        SCHEMA,
        configuration={"delta.enableDeletionVectors": "true"},
        raise_if_key_not_exists=False,
    )
    with pytest.raises(UnsupportedTableError, match="deletion vectors"):
        Lake(tmp_path).table("cm").snapshot()


def test_a_table_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(TableNotFoundError, match="table clean: is not in the lake"):
        Lake(tmp_path).table("clean").snapshot()


def test_vacuum_takes_orphans_and_leaves_the_table(tmp_path: Path) -> None:
    table = new_table(tmp_path)
    commit(table, staged(table, {"a": [1]}))
    orphans = {file.path for file in staged(table, {"a": [2], "b": [3]})}
    assert not orphans & set(table.vacuum(retention_hours=1))  # a running attempt is young
    assert orphans <= {path.replace("%20", " ") for path in table.vacuum(retention_hours=0)}
    assert content(table) == Counter([(1, "a")])
    assert not any((Path(table.root) / path).exists() for path in orphans)


def test_history_keeps_what_the_writer_noted(tmp_path: Path) -> None:
    table = new_table(tmp_path)
    commit(table, staged(table, {"a": [1]}), notes={"why": "first"})
    commit(table, staged(table, {"a": [1]}))
    assert table.last_note("why") == "first"
    assert table.last_note("never") is None
    assert [entry["version"] for entry in table.history()] == [2, 1, 0]


partitions = st.dictionaries(
    st.sampled_from(["a", "b", "c"]), st.lists(st.integers(0, 9), min_size=1, max_size=4)
)


@settings(max_examples=25, deadline=None)
@given(steps=st.lists(st.tuples(partitions, st.booleans(), st.integers(1, 4)), max_size=6))
def test_a_table_is_what_its_commits_say(
    tmp_path_factory: pytest.TempPathFactory,
    steps: list[tuple[dict[str | None, list[int]], bool, int]],
) -> None:
    table = new_table(tmp_path_factory.mktemp("lake"))
    expected: dict[str | None, list[int]] = {}
    last = 0
    for rows, replaces, number in steps:
        files = staged(table, rows)
        touched = [(p,) for p in rows]
        done = commit(
            table,
            files,
            transaction=Transaction("app", number),
            replace=touched if replaces else None,
        )
        assert done.landed == (number > last)
        if done.landed:
            last = number
            for p, ids in rows.items():
                expected[p] = ids if replaces else expected.get(p, []) + ids
    assert content(table) == Counter((i, p) for p, ids in expected.items() for i in ids)
    assert table.snapshot().rows == sum(map(len, expected.values()))


KILLED = """
import os, signal, sys
from pathlib import Path
from tests.lake.test_transaction import staged
from pipeline.lake import Lake, Transaction, commit
import pipeline.lake.transaction as module

table = Lake(sys.argv[1]).table("t")
files = staged(table, {"a": [2]})
if sys.argv[2] == "before":
    module._added = lambda _: os.kill(os.getpid(), signal.SIGKILL)
commit(table, files, transaction=Transaction("app", 2), replace=[("a",)])
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize(("moment", "after"), [("before", 1), ("after", 2)])
def test_a_killed_writer_leaves_the_old_or_the_new_table(
    tmp_path: Path, moment: str, after: int
) -> None:
    table = new_table(tmp_path)
    commit(table, staged(table, {"a": [1]}), transaction=Transaction("app", 1))
    killed = subprocess.run(
        [sys.executable, "-c", KILLED, str(tmp_path), moment],
        cwd=Path(__file__).parents[2],
        check=False,
    )
    assert killed.returncode == -9
    assert content(table) == Counter([(after, "a")])
    commit(table, staged(table, {"a": [2]}), transaction=Transaction("app", 2), replace=[("a",)])
    assert content(table) == Counter([(2, "a")])
