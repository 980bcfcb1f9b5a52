"""Taking a table back to one of its versions, so that later runs are not fooled.

delta-rs's own `restore` takes back the files alone. What stages ask to know whether their work is
done would still be the later answer: the number of an app's last transaction, and what the newest
commit noted. So a restore is a commit of ours: it writes each app's number as it was at that
version, lower than the last (a Delta log may: the newest `txn` of an app is the one that holds),
and notes the version, from which `Table.last_note` goes on reading.
"""

from __future__ import annotations

from deltalake import DeltaTable
from deltalake.transaction import AddAction, RemoveAction

from pipeline.errors import LakeError, TableNotFoundError
from pipeline.lake.changes import transactions_since
from pipeline.lake.compaction import commit_times
from pipeline.lake.files import DataFile, data_file
from pipeline.lake.snapshot import Snapshot
from pipeline.lake.table import NO_TRANSACTION, RESTORED, Table
from pipeline.lake.transaction import (
    Committed,
    Plan,
    Transaction,
    add_action,
    remove_action,
    write,
)


def restore(table: Table, version: int) -> Committed:
    """Makes a table hold again what it held at a version, as a new version.

    Args:
        table: The table; it must exist.
        version: The version wanted back. Versions after it stay in the history.

    Returns:
        The version now; `landed` is False where the table held just that already.

    Raises:
        TableNotFoundError: There is no such version, or vacuum took files of it.
        LakeError: The schema was another one, or the log between was cleaned away.
        CommitConflictError: Other writers were faster again and again.
    """
    then = table.open(version)
    wanted = Snapshot.of(table.name, table.folder, then)
    times = commit_times(then)

    def plan(handle: DeltaTable) -> Plan | None:
        present = Snapshot.of(table.name, table.folder, handle)
        _require_same_layout(wanted, present)
        live = {file.path for file in present.files}
        kept = {file.path for file in wanted.files}
        back = _described(wanted, [file for file in wanted.files if file.path not in live])
        actions: list[AddAction | RemoveAction] = [
            *(add_action(file, times[file.path]) for file in back),
            *(remove_action(file) for file in present.files if file.path not in kept),
        ]
        apps = transactions_since(table, version, handle.version())
        if apps is None:
            raise LakeError(
                f"table {table.name}, version {version}",
                "cannot be restored: the log since then was cleaned away",
                "Restore a later version, or run the stage that writes the table again.",
            )
        if not actions and not apps:
            return None
        return Plan(
            actions=actions,
            transactions=[Transaction(app, _number(then, app)) for app in sorted(apps)],
            notes={RESTORED: str(version)},
        )

    return write(table, plan)


def _number(then: DeltaTable, app: str) -> int:
    number = then.transaction_version(app)
    return NO_TRANSACTION if number is None else number


def _require_same_layout(wanted: Snapshot, present: Snapshot) -> None:
    if (wanted.schema, wanted.partition_by) != (present.schema, present.partition_by):
        raise LakeError(
            f"table {wanted.name}, version {wanted.version}",
            "has other columns than the table has now",
            "Restore a version with the present columns.",
        )


def _described(wanted: Snapshot, files: list[DataFile]) -> list[DataFile]:
    """The files with their statistics; each must still be there."""
    sizes = wanted.folder.sizes([file.path for file in files])
    gone = [file for file, size in zip(files, sizes, strict=True) if size is None]
    if gone:
        raise TableNotFoundError(
            f"table {wanted.name}, version {wanted.version}",
            f"cannot be restored: {len(gone)} of its {len(wanted.files)} files were vacuumed",
            "Restore a later version, or run the stage that writes the table again.",
        )
    return [data_file(wanted.folder, f.path, wanted.schema, wanted.partition_by) for f in files]
