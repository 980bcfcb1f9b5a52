"""One batch of new rows: judged beside what is there, written, and committed to the three tables.

The tables are committed one after the other, `clean` last: only then the batch is done.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from pyspark.sql import DataFrame, SparkSession

from pipeline.clean.frames import judged
from pipeline.clean.hints import hints
from pipeline.clean.inputs import Inputs
from pipeline.clean.merge import Merged, merge
from pipeline.clean.quality import Counts, counts_of, quality_rows
from pipeline.clean.sensitive import Redaction
from pipeline.clean.stage import (
    REMARKS,
    count_notes,
    create_tables,
    hidden_columns,
    refuse_failed_rules,
    require_exact,
)
from pipeline.clean.table_judge import WARNINGS, TableJudge, warnings_of
from pipeline.errors import CommitConflictError, LakeError
from pipeline.lake import (
    COUNTS,
    RUN,
    WITHOUT_BOUNDS,
    DataFile,
    Snapshot,
    Table,
    Transaction,
    commit,
    fingerprint,
)

BATCH = "lakestorm.batch"
"""Commits of `quarantine` note under this key the batch's fingerprint."""


@dataclass(frozen=True)
class Batch:
    """Rows of new files, and the state of `clean` that they come to."""

    number: int
    inputs: Inputs
    before: Snapshot | None
    """`clean` as it is; None where nothing of it stays."""
    redaction: Redaction
    now: datetime
    """Time of the run, in UTC."""

    @property
    def fingerprint(self) -> str:
        """All that the batch's rows and their verdicts follow from."""
        version = None if self.before is None else self.before.version
        made_of = self.inputs.fingerprint(self.inputs.pipeline)
        return fingerprint(made_of=made_of, before=version)


class BatchCommit:
    """What one batch makes of the three tables."""

    def __init__(self, spark: SparkSession, tables: dict[str, Table], batch: Batch) -> None:
        self._spark, self._tables, self._batch = spark, tables, batch
        self._pipeline = batch.inputs.pipeline
        self._period = self._pipeline.clean.period.column

    def commit(self, app: str, notes: Mapping[str, str]) -> int:
        """Writes the batch and commits it with these notes.

        Returns:
            Its raw rows.
        """
        kept: list[DataFrame] = []
        try:
            return self._commit(app, notes, kept)
        finally:
            for frame in kept:
                frame.unpersist()

    def _commit(self, app: str, notes: Mapping[str, str], kept: list[DataFrame]) -> int:
        pipeline, batch, tables = self._pipeline, self._batch, self._tables
        merged = merge(
            self._spark,
            pipeline,
            judged(self._spark, pipeline, batch.inputs.subject, batch.redaction.key),
            before=batch.before,
            rights=batch.inputs.rights,
            redaction=batch.redaction,
            kept=kept,
        )
        create_tables(pipeline, tables, clean=merged.good, quarantine=merged.bad)
        hidden = hidden_columns(pipeline, merged.good)
        with (
            tables["quarantine"].attempt() as reject,
            tables["quality"].attempt() as measure,
            tables["clean"].attempt(hidden) as accept,
        ):
            bad_files = reject.write(merged.bad)
            counts = counts_of(merged.of_rows)
            refuse_failed_rules(pipeline, counts)
            judge = TableJudge.before_writing(
                merged.new, pipeline, tables, batch.now, present=merged.staying, of_app=app
            )
            good_files = accept.write(merged.good)
            self._require_exact(counts, merged, good=good_files, bad=bad_files)
            run = f"{app}/{batch.number}"
            transaction = Transaction(app, batch.number)
            # Without any row, none may have passed by the observer.
            of_clean = merged.of_columns.get if counts.clean else {}
            findings = judge.findings(of_clean)
            totals = self._totals(count_notes(counts, findings), merged.gone)
            remarks = [*batch.inputs.notes, *hints(counts, pipeline.source.columns)]
            notes = {
                **notes,
                REMARKS: json.dumps(remarks),
                RUN: run,
                COUNTS: json.dumps(totals),
                WARNINGS: json.dumps(warnings_of(findings)),
                WITHOUT_BOUNDS: json.dumps(hidden),
            }
            done = commit(
                tables["quarantine"],
                bad_files,
                attempt=reject,
                transaction=transaction,
                replace="all" if batch.before is None else None,
                notes={**notes, BATCH: batch.fingerprint},
            )
            if not done.landed:
                self._require_same_batch()
            measures = quality_rows(counts, of_clean, run, batch.now, findings)
            commit(
                tables["quality"],
                measure.write_arrow(measures),
                attempt=measure,
                transaction=transaction,
            )
            again = {(period,) for period in merged.periods}
            done = commit(
                tables["clean"],
                good_files,
                attempt=accept,
                transaction=transaction,
                replace="all" if batch.before is None else again or None,
                elsewhere=True,
                notes=notes,
            )
            if not done.landed:
                raise CommitConflictError(
                    "table clean",
                    f"has batch {batch.number} already: another run committed it",
                    "Run the stage again.",
                )
        return counts.raw

    def _require_same_batch(self) -> None:
        """Refuses to complete a batch of which `quarantine` has what other input made of it."""
        if self._tables["quarantine"].last_note(BATCH) != self._batch.fingerprint:
            raise LakeError(
                "table quarantine",
                f"has batch {self._batch.number} as other settings, files or right sides made it, "
                "by a run that stopped before its end",
                "Run `lakestorm clean --incremental --rebuild`: it reads all files once more.",
            )

    def _totals(self, counts: Mapping[str, int], gone: int) -> dict[str, int]:
        """Counts of all batches so far, so that they stand for the tables as they will be."""
        before: dict[str, int] = {}
        if self._batch.before is not None:
            before = json.loads(self._tables["clean"].last_note(COUNTS) or "{}")
        names = dict.fromkeys((*before, *counts))
        totals = {name: before.get(name, 0) + counts.get(name, 0) for name in names}
        if gone:
            duplicates = "quarantine duplicate"
            totals["clean"] -= gone
            totals["quarantine"] += gone
            totals[duplicates] = totals.get(duplicates, 0) + gone
        return totals

    def _require_exact(
        self,
        counts: Counts,
        merged: Merged,
        *,
        good: Sequence[DataFile],
        bad: Sequence[DataFile],
    ) -> None:
        """Every row of the batch is somewhere: in what was written, less what was there before."""
        before, again = self._batch.before, {self._period: merged.periods}
        staying = 0 if before is None else before.select(**again).rows - merged.gone
        written = {
            "clean": sum(file.rows for file in good) - staying,
            "quarantine": sum(file.rows for file in bad) - merged.gone,
        }
        by_footers = self._batch.inputs.subject.rows()
        require_exact(counts, written, by_footers, f"stage clean, batch {self._batch.number}")
