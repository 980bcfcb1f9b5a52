from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

import pytest
from deltalake import Field
from deltalake.schema import PrimitiveType
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import LakeError, TableNotFoundError
from pipeline.lake import Changes, Table, Transaction, changes, commit, compact, restore
from tests.lake.test_changes import after, found, rows_of
from tests.lake.test_transaction import content, new_table, staged


def test_a_restored_table_is_as_it_was_and_the_work_can_be_done_again(tmp_path: Path) -> None:
    table = new_table(tmp_path)
    first = commit(
        table, staged(table, {"a": [1]}), transaction=Transaction("app", 4), notes={"k": "one"}
    ).version
    for number, key in ((5, "two"), (6, "three")):
        commit(
            table,
            staged(table, {"a": [number]}),
            transaction=Transaction("app", number),
            replace="all",
            notes={"k": key, "later": key},
        )
    commit(table, [], transaction=Transaction("new", 0))
    compact(table)
    done = restore(table, first)
    assert (done.version, done.landed) == (first + 4, True)
    assert content(table) == Counter([(1, "a")])
    assert table.snapshot().files == table.snapshot(first).files
    assert (table.transaction_version("app"), table.transaction_version("new")) == (4, None)
    assert (table.last_note("k"), table.last_note("later")) == ("one", None)
    assert changes(table, first, done.version) == Changes((), ())
    assert not restore(table, done.version).landed
    for app, number in (("app", 5), ("new", 0)):
        again = commit(table, staged(table, {"a": [7]}), transaction=Transaction(app, number))
        assert again.landed
        assert table.transaction_version(app) == number
    assert content(table) == Counter({(1, "a"): 1, (7, "a"): 2})
    commit(table, [], notes={"k": "four"})
    assert table.last_note("k") == "four"
    restore(table, first + 2)  # back to what the first restore undid
    assert content(table) == Counter([(6, "a")])
    assert (table.last_note("k"), table.last_note("later")) == ("three", "three")
    assert table.transaction_version("app") == 6
    restore(table, done.version)  # a version that is itself a restored one
    assert (table.last_note("k"), table.last_note("later")) == ("one", None)
    assert (table.transaction_version("app"), table.transaction_version("new")) == (4, None)


def test_what_cannot_be_restored_is_refused_and_nothing_changes(tmp_path: Path) -> None:
    table = new_table(tmp_path)
    commit(table, staged(table, {"a": [1], "b": [2]}))
    commit(table, staged(table, {"a": [3]}), replace=[("a",)])
    with pytest.raises(TableNotFoundError, match=r"table t, version 9: .*newest version is 2"):
        restore(table, 9)
    table.vacuum(retention_hours=0)
    version = table.open().version()
    with pytest.raises(TableNotFoundError, match=r"version 1: .* 1 of its 2 files were vacuumed"):
        restore(table, 1)
    log = Path(table.root) / "_delta_log"
    table.open().create_checkpoint()
    (log / f"{1:020d}.json").rename(log / "kept")
    with pytest.raises(LakeError, match="version 0"):
        restore(table, 0)
    (log / "kept").rename(log / f"{1:020d}.json")
    table.open().alter.add_columns([Field("new", PrimitiveType("long"))])
    with pytest.raises(LakeError, match="has other columns than the table has now"):
        restore(table, version)
    assert table.open().version() == version + 1


def test_a_commit_that_lands_before_a_restore_is_taken_back_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = new_table(tmp_path)
    commit(table, staged(table, {"a": [1]}))
    commit(table, staged(table, {"a": [2]}))
    late = staged(table, {"a": [3]})
    open_at = Table.open
    rivals = [lambda: commit(table, late, transaction=Transaction("late", 1))]

    def overtaken(self: Table, version: int | None = None):
        handle = open_at(self, version)
        if version is None and rivals:
            rivals.pop()()
        return handle

    monkeypatch.setattr(Table, "open", overtaken)
    restore(table, 1)
    monkeypatch.undo()
    assert content(table) == Counter([(1, "a")])
    assert table.transaction_version("late") is None


def test_the_log_is_never_cleaned_by_a_commit(tmp_path: Path) -> None:
    table = new_table(tmp_path)
    for i in range(3):
        commit(table, staged(table, {"a": [i]}))
    table.open().create_checkpoint()
    for path in (Path(table.root) / "_delta_log").iterdir():
        os.utime(path, (0, 0))  # older than any retention of logs
    for _ in range(100):  # delta-rs makes a checkpoint, and cleans up, each 100 versions
        commit(table, [])
    assert table.open(99).version() == 99
    assert table.snapshot(1).arrow(["id"])["id"].to_pylist() == [0]
    assert len(table.history()) == 104


steps = st.lists(
    st.tuples(
        st.sampled_from(["append", "replace", "compact", "restore"]),
        st.lists(st.sampled_from(["a", "b"]), min_size=1, max_size=2, unique=True),
        st.integers(0, 99),
    ),
    min_size=1,
    max_size=9,
)


@settings(max_examples=25, deadline=None)
@given(history=steps, data=st.data())
def test_each_version_is_what_its_history_says(
    tmp_path_factory: pytest.TempPathFactory,
    history: list[tuple[str, list[str], int]],
    data: st.DataObject,
) -> None:
    table = new_table(tmp_path_factory.mktemp("lake"))
    # For each version its rows, the number of an app, and what was noted last.
    model: list[tuple[Counter[tuple[int, str | None]], int | None, str | None]]
    model = [(Counter(), None, None)]
    for number, (kind, places, pick) in enumerate(history):
        rows, last, _ = model[-1]
        if kind == "restore":
            if restore(table, pick % len(model)).landed:
                model.append(model[pick % len(model)])
        elif kind == "compact":
            model.extend([model[-1]] * (compact(table).into > 0))
        else:
            files = staged(table, {place: [number] for place in places})
            kept = Counter({row: n for row, n in rows.items() if row[1] not in places})
            rows = (kept if kind == "replace" else rows) + Counter((number, p) for p in places)
            transaction = Transaction("app", (last or 0) + 1)
            commit(
                table,
                files,
                transaction=transaction,
                replace=[(place,) for place in places] if kind == "replace" else None,
                notes={"k": str(number)},
            )
            model.append((rows, transaction.number, str(number)))
        rows, last, note = model[-1]
        assert table.open().version() == len(model) - 1
        assert (content(table), table.transaction_version("app")) == (rows, last)
        assert table.last_note("k") == note
    since = data.draw(st.integers(0, len(model) - 1))
    told = found(table, since)
    assert after(model[since][0], rows_of(table, told.removed), rows_of(table, told.added)) == rows


def test_files_keep_their_place_in_the_order(tmp_path: Path) -> None:
    table = new_table(tmp_path)
    for i in range(5):
        commit(table, staged(table, {"a": [i]}))
    commit(table, [], replace="all")
    restore(table, 5)
    compact(table)
    assert table.snapshot().arrow(["id"])["id"].to_pylist() == [0, 1, 2, 3, 4]
