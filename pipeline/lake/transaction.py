"""The commit: files written elsewhere become part of a table, all of them or none.

Source: DESIGN decision 6. One handle per try: open, stop if the transaction is there, plan,
commit on that same handle without delta-rs's own retries. A handle that already holds the
transaction would accept it a second time in silence, and a retry inside delta-rs would commit a
plan made for an older version.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

from deltalake import CommitProperties, DeltaTable
from deltalake import Transaction as DeltaTransaction
from deltalake.exceptions import CommitFailedError
from deltalake.transaction import AddAction, RemoveAction

from pipeline.errors import CommitConflictError, CommitRefusedError
from pipeline.lake.attempt import Attempt
from pipeline.lake.files import DataFile
from pipeline.lake.snapshot import Snapshot
from pipeline.lake.table import Table

TRIES = 10

Partition: TypeAlias = tuple[str | None, ...]


@dataclass(frozen=True)
class Transaction:
    """An idempotent commit: `(app, number)` lands at most once, numbers only grow."""

    app: str
    number: int


@dataclass(frozen=True)
class Since:
    """What a commit builds upon: the number that `app` had when it was planned."""

    app: str
    number: int | None
    """None where the app had committed nothing."""


@dataclass(frozen=True)
class Committed:
    """What a commit did."""

    version: int
    """Version of the table now."""
    landed: bool
    """False where the transaction was there already and nothing was done."""


def commit(
    table: Table,
    files: Sequence[DataFile],
    *,
    attempt: Attempt | None = None,
    transaction: Transaction | None = None,
    since: Since | None = None,
    replace: Collection[Partition] | Literal["all"] | None = None,
    elsewhere: bool = False,
    notes: Mapping[str, str] | None = None,
) -> Committed:
    """Adds files to a table and, with `replace`, takes away what the partitions held before.

    Args:
        table: The table; it must exist.
        files: The files to add; each must exist with its size.
        attempt: What wrote the files. Its folder is removed unless the commit lands.
        transaction: Makes the commit idempotent.
        since: Refuses the commit if the app has committed since: the plan would be out of date.
        replace: Partitions, values in the order of the table's partition columns, whose present
            files are removed; or `"all"` for the whole table.
        elsewhere: Whether files may be added to partitions outside of `replace`, too.
        notes: Kept with the commit, readable by `Table.history`.

    Returns:
        The version, and whether this call made it.

    Raises:
        CommitRefusedError: A file is missing, has another size, or lies outside `replace`.
        CommitConflictError: Other writers were faster in every one of 10 tries, or did in part
            what this commit does.
    """
    _check(table, files, None if elsewhere else replace)
    for _ in range(TRIES):
        handle = table.open()
        if transaction is not None:
            last = handle.transaction_version(transaction.app)
            if last is not None and last >= transaction.number:
                if attempt is not None:
                    attempt.discard()
                return Committed(handle.version(), landed=False)
        if since is not None:
            _require_unmoved(handle, since, table.name)
        actions: list[AddAction | RemoveAction] = [
            *_added(files),
            *_removed(handle, replace),
        ]
        if attempt is not None:
            attempt.may_be_committed = True
        try:
            handle.create_write_transaction(
                actions,
                # Removals are spelled out file by file: exactly the touched partitions.
                mode="append",
                schema=handle.schema(),
                partition_by=handle.metadata().partition_columns,
                commit_properties=CommitProperties(
                    custom_metadata=dict(notes or {}),
                    max_commit_retries=0,
                    app_transactions=_delta_transactions(transaction),
                ),
            )
        except CommitFailedError:
            if attempt is not None:
                attempt.may_be_committed = False
            continue
        return Committed(table.open().version(), landed=True)
    raise CommitConflictError(
        f"table {table.name}",
        f"other writers committed first in each of {TRIES} tries",
        "Nothing was committed; run again when they are done.",
    )


def _require_unmoved(handle: DeltaTable, since: Since, table: str) -> None:
    last = handle.transaction_version(since.app)
    if last != since.number:
        raise CommitConflictError(
            f"table {table}",
            f"{since.app} was at {since.number} when the work began and is at {last} now: another "
            "run has done a part of it",
            "Nothing was committed; run the stage again: it does what is left.",
        )


def _check(
    table: Table, files: Sequence[DataFile], replace: Collection[Partition] | Literal["all"] | None
) -> None:
    """delta-rs commits whatever it is told; what must hold is checked here."""
    remedy = "Nothing was committed; run the stage again."
    paths = [file.path for file in files]
    if len(set(paths)) != len(paths):
        raise CommitRefusedError(f"table {table.name}", "a file is listed twice", remedy)
    for file in files:
        full = Path(table.root) / file.path
        size = full.stat().st_size if full.is_file() else None
        if size != file.bytes:
            problem = "is gone" if size is None else f"has {size} bytes, not {file.bytes}"
            raise CommitRefusedError(f"table {table.name}, file {file.path}", problem, remedy)
        if replace not in (None, "all") and tuple(file.partition.values()) not in replace:
            raise CommitRefusedError(
                f"table {table.name}, file {file.path}",
                "lies outside the partitions that are being replaced",
                remedy,
            )


def _added(files: Sequence[DataFile]) -> list[AddAction]:
    now = time.time_ns() // 1_000_000
    return [
        AddAction(
            path=file.path,
            size=file.bytes,
            partition_values=dict(file.partition),
            modification_time=now,
            data_change=True,
            stats=file.statistics,
        )
        for file in files
    ]


def _removed(
    handle: DeltaTable, replace: Collection[Partition] | Literal["all"] | None
) -> list[RemoveAction]:
    if not replace:
        return []
    present = Snapshot.of("", "", handle)
    now = time.time_ns() // 1_000_000
    return [
        RemoveAction(
            path=file.path,
            data_change=True,
            deletion_timestamp=now,
            size=file.bytes,
            partition_values=dict(file.partition),
        )
        for file in present.files
        if replace == "all" or tuple(file.partition.values()) in replace
    ]


def _delta_transactions(transaction: Transaction | None) -> list[DeltaTransaction] | None:
    if transaction is None:
        return None
    return [DeltaTransaction(transaction.app, transaction.number)]
