from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import polars as pl
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable, Field
from deltalake.schema import PrimitiveType
from deltalake.transaction import AddAction, RemoveAction
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import TableNotFoundError
from pipeline.lake import Changes, DataFile, Table, changes, commit
from tests.lake.test_transaction import new_table, staged

Row = tuple[int, str | None]


def rows_at(table: Table, version: int) -> Counter[Row]:
    """All rows of a version, read by Polars."""
    return Counter(pl.read_delta(table.root, version=version).select("id", "p").iter_rows())


def rows_of(table: Table, files: Iterable[DataFile]) -> Counter[Row]:
    """The rows of files, each read at its own path."""
    found: Counter[Row] = Counter()
    for file in files:
        ids = pq.ParquetFile(f"{table.root}/{file.path}").read()["id"].to_pylist()
        assert len(ids) == file.rows
        found.update((i, file.partition["p"]) for i in ids)
    return found


def merge(table: Table, partition: str, outputs: int = 1) -> None:
    """A compaction as any engine may write one, into one file or several."""
    handle = table.open()
    old = table.snapshot().select(p={partition}).files
    ids = [i for i, _ in rows_of(table, old).elements()]
    if not ids:
        return
    parts = [ids[start::outputs] for start in range(min(outputs, len(ids)))]
    new = [file for part in parts for file in staged(table, {partition: part})]
    handle.create_write_transaction(
        [
            *(AddAction(f.path, f.bytes, dict(f.partition), 1, False, f.statistics) for f in new),
            *(RemoveAction(f.path, False, deletion_timestamp=1, size=f.bytes) for f in old),
        ],
        "append",
        handle.schema(),
        ["p"],
    )


def found(table: Table, since: int, until: int | None = None) -> Changes:
    told = changes(table, since, table.open().version() if until is None else until)
    assert told is not None
    return told


def test_an_append_is_its_files(tmp_path: Path) -> None:
    table = new_table(tmp_path)
    commit(table, staged(table, {"a": [1]}))
    files = staged(table, {"b/c:%+ é": [2], None: [3]})
    commit(table, files)
    told = found(table, 1)
    assert told.removed == ()
    assert {f.path for f in told.added} == {f.path for f in files}
    assert rows_of(table, told.added) == Counter([(2, "b/c:%+ é"), (3, None)])
    assert found(table, 2) == Changes((), ())


def test_what_came_and_went_is_neither(tmp_path: Path) -> None:
    table = new_table(tmp_path)
    commit(table, staged(table, {"a": [1], "b": [5]}))
    commit(table, staged(table, {"a": [2]}), replace=[("a",)])
    commit(table, staged(table, {"a": [3]}), replace=[("a",)])
    told = found(table, 1)
    assert (rows_of(table, told.removed), rows_of(table, told.added)) == (
        Counter([(1, "a")]),
        Counter([(3, "a")]),
    )


def test_a_compaction_is_no_change(tmp_path: Path) -> None:
    table = new_table(tmp_path)
    commit(table, staged(table, {"a": [1]}))
    commit(table, staged(table, {"a": [2]}))
    merge(table, "a")
    assert found(table, 2) == Changes((), ())


def test_an_append_stays_one_when_its_file_is_merged_with_older_ones(tmp_path: Path) -> None:
    table = new_table(tmp_path)
    commit(table, staged(table, {"a": [1]}))
    files = [*staged(table, {"a": [2]}), *staged(table, {"a": [3]})]
    commit(table, files)
    merge(table, "a")
    told = found(table, 1)
    assert told.removed == ()
    assert {f.path for f in told.added} == {f.path for f in files}


def test_a_merged_file_that_was_vacuumed_is_told_by_the_one_it_was_merged_into(
    tmp_path: Path,
) -> None:
    table = new_table(tmp_path)
    commit(table, staged(table, {"a": [1]}))
    commit(table, staged(table, {"a": [2], "b": [4]}))
    old = table.snapshot(1).files
    merge(table, "a")
    table.vacuum(retention_hours=0)
    told = found(table, 1)
    assert [f.path for f in told.removed] == [f.path for f in old]
    assert rows_of(table, told.added) == Counter([(1, "a"), (2, "a"), (4, "b")])


def test_what_was_merged_and_restored_is_no_change(tmp_path: Path) -> None:
    table = new_table(tmp_path)
    commit(table, staged(table, {"a": [1]}))
    for new in (2, 3):
        commit(table, staged(table, {"a": [new]}))
        merge(table, "a")
    DeltaTable(table.root).restore(1)  # delta-rs's own, which repeats schema and protocol
    assert found(table, 1) == Changes((), ())
    commit(table, staged(table, {"a": [9]}))
    merge(table, "a")
    told = found(table, 1)
    assert told.removed == ()
    assert rows_of(table, told.added) == Counter([(9, "a")])


def test_a_history_that_does_not_tell_is_none(tmp_path: Path) -> None:
    table = new_table(tmp_path)
    for i in range(3):
        commit(table, staged(table, {"a": [i]}))
    log = Path(table.root) / "_delta_log"
    assert changes(table, 2, 1) is None
    assert changes(table, -1, 3) is None
    table.open().create_checkpoint()
    kept = (log / f"{2:020d}.json").read_text()
    (log / f"{2:020d}.json").unlink()
    assert changes(table, 1, 3) is None
    assert found(table, 3) == Changes((), ())
    (log / f"{2:020d}.json").write_text(kept)
    (log / f"{0:020d}.json").unlink()  # version 1 can no longer be opened
    assert changes(table, 1, 3) is None
    with pytest.raises(TableNotFoundError, match="version 9"):
        changes(table, 3, 9)


def test_a_changed_schema_is_none(tmp_path: Path) -> None:
    table = new_table(tmp_path)
    commit(table, staged(table, {"a": [1]}))
    table.open().alter.add_columns([Field("new", PrimitiveType("long"))])
    assert changes(table, 1, 2) is None


def test_a_compaction_that_changes_rows_is_none(tmp_path: Path) -> None:
    table = new_table(tmp_path)
    commit(table, staged(table, {"a": [1]}))
    (file,) = staged(table, {"a": [2]})
    handle = table.open()
    action = AddAction(file.path, file.bytes, dict(file.partition), 1, False, file.statistics)
    handle.create_write_transaction([action], "append", handle.schema(), ["p"])
    assert changes(table, 1, 2) is None


@dataclass
class Step:
    kind: str
    partitions: list[str] = field(default_factory=list)
    version: int = 0


steps = st.one_of(
    st.builds(
        Step,
        st.sampled_from(["append", "append", "replace", "compact"]),
        st.lists(st.sampled_from(["a", "b"]), min_size=1, max_size=2, unique=True),
        st.integers(0, 1),
    ),
    st.builds(Step, st.just("restore"), version=st.integers(0, 99)),
)


def walk(table: Table, history: list[Step]) -> None:
    """Each row written has a number of its own, so that a doubled or lost one shows."""
    number = 0
    for step in history:
        if step.kind == "restore":
            newest = table.open().version()
            if newest:
                DeltaTable(table.root).restore(step.version % newest)
        elif step.kind == "compact":
            for partition in step.partitions:
                merge(table, partition, outputs=1 + step.version % 2)
        else:
            rows: dict[str | None, list[int]] = {}
            for partition in step.partitions:
                rows[partition] = [number, number + 1]
                number += 2
            touched = [(p,) for p in step.partitions] if step.kind == "replace" else None
            commit(table, staged(table, rows), replace=touched)


@settings(max_examples=40, deadline=None)
@given(history=st.lists(steps, min_size=1, max_size=8), data=st.data())
def test_rows_then_and_changes_are_rows_now(
    tmp_path_factory: pytest.TempPathFactory, history: list[Step], data: st.DataObject
) -> None:
    table = new_table(tmp_path_factory.mktemp("lake"))
    walk(table, history)
    newest = table.open().version()
    since = data.draw(st.integers(0, newest))
    until = data.draw(st.integers(since, newest))
    then, now = rows_at(table, since), rows_at(table, until)
    told = found(table, since, until)
    assert after(then, rows_of(table, told.removed), rows_of(table, told.added)) == now
    if now == then and not any(step.kind == "compact" for step in history):
        assert told == Changes((), ())
    # Files removed may be gone after a vacuum, those added never.
    told = found(table, since, newest)
    old = (*table.snapshot(since).files, *told.removed)
    content = {file.path: rows_of(table, [file]) for file in old}
    newest_rows = rows_at(table, newest)
    table.vacuum(retention_hours=0)
    told = found(table, since, newest)
    removed = sum((content[file.path] for file in told.removed), Counter())
    assert after(then, removed, rows_of(table, told.added)) == newest_rows


def after(then: Counter[Row], removed: Counter[Row], added: Counter[Row]) -> Counter[Row]:
    """Rows then, less those removed, plus those added; none can be taken that is not there."""
    now = Counter(then)
    now.update(added)
    now.subtract(removed)
    assert min(now.values(), default=0) >= 0
    return +now
