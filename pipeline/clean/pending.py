"""The two commits of a replay: the first decides, and notes what the second one is.

`clean` is committed first. Its commit carries the rows that passed, and notes which files, written
already, `quarantine` holds from then on. A process killed before that commit changed nothing; one
killed after it leaves the rows that passed in both tables, in neither case a row in none. `settle`
then makes the second commit by that note: no row is judged again, so that a contract changed in
between makes no difference. `clean`, `clean --incremental` and a replay begin with it.

Readers between the two commits see each row of `clean` once, and rows in `quarantine` that have
just left it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

from pipeline.errors import CommitRefusedError
from pipeline.lake import (
    COUNTS,
    WRITER,
    DataFile,
    Since,
    Table,
    Transaction,
    commit,
    data_file,
)

PENDING = "lakestorm.replay"
"""Commits of `clean` note under this key what a replay's second commit is, as JSON."""


@dataclass(frozen=True)
class Generation:
    """The run, or increment, of `clean` that wrote what replays then move.

    Replays of each generation are numbered from 1 by an app of their own, so that tables which a
    later run replaced agree again, whatever one of them was restored to before.
    """

    writer: str
    """The app of the run of `clean`."""
    number: int
    """Its transaction's number in `quarantine`."""

    @classmethod
    def of(cls, quarantine: Table) -> Self | None:
        """The present one; None before the first run of `clean`."""
        writer = quarantine.last_note(WRITER)
        number = None if writer is None else quarantine.transaction_version(writer)
        return None if writer is None or number is None else cls(writer, number)

    @property
    def app(self) -> str:
        """The app of its replays."""
        return f"replay/{self.writer}/{self.number}"


def pending_note(transaction: Transaction, files: Sequence[DataFile]) -> dict[str, str]:
    """What `clean` notes, so that `settle` can finish the replay.

    Args:
        transaction: The one of both commits.
        files: All files that `quarantine` is to hold.
    """
    paths = [file.path for file in files]
    pending = {"app": transaction.app, "number": transaction.number, "files": paths}
    return {PENDING: json.dumps(pending)}


def settle(tables: Mapping[str, Table]) -> bool:
    """Makes the second commit of a replay that ended after its first.

    Args:
        tables: `clean` and `quarantine`; they need not exist.

    Returns:
        Whether the two tables are of the same replay now. They are not where one of them was
        restored, or where vacuum took the files that were to be committed: then only reading the
        raw files again helps.

    Raises:
        CommitConflictError: Another run commits at this moment.
    """
    clean, quarantine = tables["clean"], tables["quarantine"]
    generation = Generation.of(quarantine)
    if generation is None:
        return True
    decided, done = (
        table.transaction_version(generation.app) or 0 for table in (clean, quarantine)
    )
    if decided == done:
        return True
    pending: dict[str, Any] = json.loads(clean.last_note(PENDING) or "{}")
    transaction = Transaction(generation.app, decided)
    known = (pending.get("app"), pending.get("number")) == (transaction.app, transaction.number)
    if not known or done != decided - 1:
        return False
    schema = quarantine.snapshot().schema
    try:
        files = [data_file(quarantine.folder, path, schema, ()) for path in pending["files"]]
    except CommitRefusedError:
        return False
    commit_quarantine(quarantine, files, transaction, generation, clean.last_note(COUNTS) or "{}")
    return True


def commit_quarantine(
    quarantine: Table,
    files: Sequence[DataFile],
    transaction: Transaction,
    generation: Generation,
    counts: str,
) -> None:
    """The second commit; does nothing where it was made already.

    Args:
        quarantine: The table.
        files: All that it is to hold.
        transaction: The one of the first commit.
        generation: What the replay moved rows of.
        counts: The row counts that the first commit noted.

    Raises:
        CommitConflictError: A run of `clean` has replaced the table since.
    """
    # Given no attempt: whoever finds the commit made must not remove the files that it made.
    commit(
        quarantine,
        files,
        transaction=transaction,
        since=Since(generation.writer, generation.number),
        replace="all",
        notes={COUNTS: counts},
    )
