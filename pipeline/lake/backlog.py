"""What a table that is made of another one still lacks.

The derived table's own commits say how far it is: the source's version is the transaction's number
(DESIGN, decision 7). Nothing else is kept, so nothing can be lost or disagree.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Literal

from pipeline.lake.changes import Changes, changes
from pipeline.lake.snapshot import Snapshot
from pipeline.lake.table import Table
from pipeline.lake.transaction import Partition, Since, Transaction


@dataclass(frozen=True, kw_only=True)
class Backlog:
    """Files of the source that are still to be worked on, and what their results take away."""

    rows: Snapshot
    """The source with only the files to read."""
    replaces: Collection[str | None] | Literal["all", "nothing"]
    """Periods whose rows, or all rows, give way; `nothing` where rows only came."""
    transaction: Transaction | None
    """What the commit that ends the backlog is known by; None to do again what has been done."""
    since: Since
    """What the backlog was worked out upon."""
    changes: Changes | None = None
    """Files of the source that came and went; None where the log does not tell, or none did."""

    @property
    def done(self) -> bool:
        """Whether there is nothing to do."""
        return not self.rows.files and self.replaces == "nothing"

    def anew(self, rows: Snapshot, periods: Collection[str | None] | Literal["all"]) -> Backlog:
        """The same source's version, of which these rows are done again, whatever there is."""
        reached = self.since.number is not None and self.since.number >= rows.version
        transaction = None if reached else self.transaction
        return replace(self, rows=rows, replaces=periods, transaction=transaction)

    def partitions(
        self, present: Snapshot, written: Collection[Partition], period_column: str
    ) -> set[Partition] | None:
        """The partitions of the derived table that its commit replaces; None to add to them.

        Args:
            present: The derived table, or what of it may give way.
            written: Partitions of the files that are to be committed.
            period_column: The derived table's partition column that tells the period.
        """
        if self.replaces == "nothing":
            return None
        gone = {
            tuple(file.partition.values())
            for file in present.files
            if self.replaces == "all" or file.partition[period_column] in self.replaces
        }
        return gone | set(written)


def backlog(
    app: str, derived: Table, source: Table, snapshot: Snapshot, period_column: str
) -> Backlog:
    """Compares how far a derived table is with a version of its source.

    Rows that only came are to be added; a period of which a file was taken away is made anew, with
    all others that changed. Where the source's history does not tell, everything is.

    Args:
        app: Who makes the one out of the other; the number it last committed is the source's
            version. A source that was removed and made again counts as another one.
        derived: The table that is made; it must exist.
        source: The table it is made of.
        snapshot: The source's version to come to.
        period_column: The source's partition column that tells the period.
    """
    transaction = Transaction(f"{app}/{snapshot.table_id}", snapshot.version)
    since = Since(transaction.app, derived.transaction_version(transaction.app))
    known = since.number is not None and since.number < snapshot.version
    found = changes(source, since.number or 0, snapshot.version) if known else None
    rows, replaces = _lacking(since.number, found, snapshot, period_column)
    return Backlog(
        rows=rows, replaces=replaces, transaction=transaction, since=since, changes=found
    )


def _lacking(
    number: int | None, found: Changes | None, snapshot: Snapshot, period_column: str
) -> tuple[Snapshot, set[str | None] | Literal["all", "nothing"]]:
    if number is not None and number >= snapshot.version:
        return snapshot.of_files(()), "nothing"
    if found is None:
        return snapshot, "all"
    if not found.removed:
        return snapshot.of_files(found.added), "nothing"
    periods = {file.partition[period_column] for file in (*found.added, *found.removed)}
    return snapshot.select(**{period_column: periods}), periods
