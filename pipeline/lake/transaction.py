"""The commit: files written elsewhere become part of a table, all of them or none.

Source: DESIGN decision 6. One handle per try: open, stop if the transaction is there, plan,
commit on that same handle without delta-rs's own retries. A handle that already holds the
transaction would accept it a second time in silence, and a retry inside delta-rs would commit a
plan made for an older version.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from dataclasses import replace as replace_in
from typing import Literal, TypeAlias

from deltalake import CommitProperties, DeltaTable, PostCommitHookProperties
from deltalake import Transaction as DeltaTransaction
from deltalake.exceptions import CommitFailedError
from deltalake.transaction import AddAction, RemoveAction

from pipeline.errors import CommitConflictError, CommitRefusedError
from pipeline.lake.attempt import Attempt
from pipeline.lake.files import DataFile
from pipeline.lake.snapshot import Snapshot
from pipeline.lake.table import Table, number_of
from pipeline.stores.folder import plain

TRIES = 10
# Commits to an object store note a name of their own under this key.
_COMMIT = "lakestorm.commit"

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


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a commit is to do, made from the version that it is made on."""

    actions: Sequence[AddAction | RemoveAction]
    transactions: Sequence[Transaction] = ()
    notes: Mapping[str, str] = field(default_factory=dict)


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

    def plan(handle: DeltaTable) -> Plan | None:
        if transaction is not None:
            last = handle.transaction_version(transaction.app)
            if last is not None and last >= transaction.number:
                return None
        if since is not None:
            _require_unmoved(handle, since, table.name)
        # Removals are spelled out file by file: exactly the touched partitions.
        return Plan(
            actions=[*_added(files), *_removed(table, handle, replace)],
            transactions=[] if transaction is None else [transaction],
            notes=notes or {},
        )

    done = write(table, plan, attempt)
    if attempt is not None and not done.landed:
        attempt.discard()
    return done


def write(
    table: Table, plan: Callable[[DeltaTable], Plan | None], attempt: Attempt | None = None
) -> Committed:
    """The one way to commit: plans anew whenever another writer was faster.

    Args:
        table: The table; it must exist.
        plan: From a handle of the newest version to what is to be done; None for nothing.
        attempt: What wrote the files; told when they may be part of the table.

    Returns:
        The version, and whether this call made it.

    Raises:
        CommitConflictError: Other writers were faster in every one of 10 tries.
    """
    for _ in range(TRIES):
        handle = table.open()
        planned = plan(handle)
        if planned is None:
            return Committed(handle.version(), landed=False)
        if attempt is not None:
            attempt.may_be_committed = True
        try:
            landed = _lands(table, handle, planned)
        except OSError as error:
            raise table.folder.fault(error) from error
        if landed:
            return Committed(table.open().version(), landed=True)
        if attempt is not None:
            attempt.may_be_committed = False
    raise CommitConflictError(
        f"table {table.name}",
        f"other writers committed first in each of {TRIES} tries",
        "Nothing was committed; run again when they are done.",
    )


def _lands(table: Table, handle: DeltaTable, planned: Plan) -> bool:
    """Commits; False where another writer was faster.

    A store may do what it was asked and then fail to say so. Asked again, it finds the version
    taken: by this very commit. So there each commit has a name, and the log is looked at.

    Raises:
        OSError: The store failed, and whether the commit landed is not known.
    """
    if not table.folder.is_remote:
        try:
            _send(handle, planned)
        except CommitFailedError:
            return False
        return True
    name = uuid.uuid4().hex
    try:
        _send(handle, replace_in(planned, notes={**planned.notes, _COMMIT: name}))
    except (CommitFailedError, OSError) as error:
        try:
            with table.folder.open(f"_delta_log/{handle.version() + 1:020d}.json") as log:
                return name in log.read().decode()
        except FileNotFoundError:
            raise OSError(plain(error)) from error  # nobody was faster
    return True


def refuses_second_commit(table: Table) -> bool:
    """Whether a table's store lets one version be committed once only.

    Args:
        table: One to try it on, which holds nothing.
    """
    nothing = Plan(actions=[], notes={"lakestorm.tried": "twice"})
    handles = [table.open(), table.open()]
    _send(handles[0], nothing)
    try:
        _send(handles[1], nothing)
    except CommitFailedError:
        return True
    return False


def _send(handle: DeltaTable, planned: Plan) -> None:
    """Commits upon the version of a handle, or raises CommitFailedError."""
    handle.create_write_transaction(
        list(planned.actions),
        mode="append",
        schema=handle.schema(),
        partition_by=handle.metadata().partition_columns,
        commit_properties=CommitProperties(
            custom_metadata=dict(planned.notes),
            max_commit_retries=0,
            app_transactions=[
                DeltaTransaction(each.app, each.number) for each in planned.transactions
            ],
        ),
        # Old versions stay: delta-rs would clean their log away after 30 days.
        post_commithook_properties=PostCommitHookProperties(cleanup_expired_logs=False),
    )


def _require_unmoved(handle: DeltaTable, since: Since, table: str) -> None:
    last = number_of(handle, since.app)
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
    for file, size in zip(files, table.folder.sizes(paths), strict=True):
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
    now = _milliseconds_now()
    return [add_action(file, now) for file in files]


def _removed(
    table: Table, handle: DeltaTable, replace: Collection[Partition] | Literal["all"] | None
) -> list[RemoveAction]:
    if not replace:
        return []
    return [
        remove_action(file)
        for file in Snapshot.of(table.name, table.folder, handle).files
        if replace == "all" or tuple(file.partition.values()) in replace
    ]


def add_action(file: DataFile, milliseconds: int, *, data_change: bool = True) -> AddAction:
    """A file to be added.

    Args:
        file: With statistics of its own.
        milliseconds: Since 1970; the order of the table's files.
        data_change: False where its rows were in the table before.
    """
    return AddAction(
        path=file.path,
        size=file.bytes,
        partition_values=dict(file.partition),
        modification_time=milliseconds,
        data_change=data_change,
        stats=file.statistics,
    )


def remove_action(file: DataFile, *, data_change: bool = True) -> RemoveAction:
    """A file to be removed; `data_change` is False where its rows stay in the table."""
    return RemoveAction(
        path=file.path,
        data_change=data_change,
        deletion_timestamp=_milliseconds_now(),
        size=file.bytes,
        partition_values=dict(file.partition),
    )


def _milliseconds_now() -> int:
    return time.time_ns() // 1_000_000
