"""The stage `clean` on what came since: new raw files only, each once.

Spark's Structured Streaming finds the files, and its checkpoint remembers them. A batch's number is
its transaction's number in Delta (DESIGN, decision 7): a run that was killed between the commit and
the checkpoint gets the same files under the same number again, and the table says that it has them.
The three tables are committed one after the other, `clean` last: only then the batch is done.
"""

from __future__ import annotations

import json
import logging
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from py4j.protocol import Py4JJavaError
from pyspark import StorageLevel
from pyspark.errors import PySparkException
from pyspark.sql import DataFrame, Observation, SparkSession

from pipeline.clean.checkpoint import changed_ms, files_found, last_batch, local_path, query_id
from pipeline.clean.frames import accepted, arranged, judged, rejected
from pipeline.clean.partitions import partitions_by_size
from pipeline.clean.quality import (
    Counts,
    counts_of,
    observed_verdicts,
    quality_rows,
)
from pipeline.clean.raw import ENDINGS, RawFile, rows_by_footers
from pipeline.clean.sensitive import Redaction
from pipeline.clean.stage import (
    WRITER,
    Found,
    count_notes,
    create_tables,
    hidden_columns,
    laid_out,
    outcome_of,
    profiled,
    refuse_failed_rules,
    require_exact,
)
from pipeline.clean.supersede import against, corrected, corrections, quarantined, remaining
from pipeline.clean.table_judge import WARNINGS, TableJudge, stale_rules, warnings_of
from pipeline.clean.table_rules import Rights, with_table_rules
from pipeline.clean.verdict import once_counted
from pipeline.config import Dedupe, Pipeline
from pipeline.errors import CommitConflictError, LakeError, LakestormError, SourceError
from pipeline.lake import (
    COUNTS,
    RUN,
    WITHOUT_BOUNDS,
    DataFile,
    Lake,
    Snapshot,
    Table,
    Transaction,
    alone,
    commit,
    fingerprint,
)
from pipeline.outcome import Outcome

log = logging.getLogger(__name__)

SETTINGS = "lakestorm.clean_settings"
MENDED = "lakestorm.mended_files"
"""Commits note under this key files that were written again after Spark found them, and before any
row of them was committed: path to time of change in ms."""
_FILES_SCHEMA = "path STRING, modificationTime TIMESTAMP, length BIGINT, content BINARY"
# Spark would leave out, without a word, what is a week older than the newest file it has seen.
_ANY_AGE = "36500d"


def clean_increment(
    spark: SparkSession,
    pipeline: Pipeline,
    lake: Lake,
    *,
    rebuild: bool = False,
    now: datetime | None = None,
) -> Outcome:
    """Cleans the raw files that came since the last time, and adds them to the three tables.

    Rows of any period are added to it, however late. A row that is there already is a duplicate;
    one with a later `clean.dedupe.latest_by` takes the place of the one that is there.

    Args:
        spark: The session.
        pipeline: The description.
        lake: Where the tables are.
        rebuild: Begins anew: all files are read, and the tables replaced.
        now: Time of the run, in UTC, as for `clean`.

    Returns:
        Rows of all batches so far; unchanged where no file came.

    Raises:
        LakestormError: As `clean`; and where the tables were written by anything else, or under
            other settings, or a file was changed after it was read.
    """
    started, now = time.monotonic(), now or datetime.now(UTC)
    lake.require_writable()
    pipeline = laid_out(pipeline, lake)
    folder = lake.work("ingest", pipeline.name)
    other = CommitConflictError(
        "stage clean",
        "another run is cleaning the new files at this moment; nothing was done here",
        "Run it again when the other one is done.",
    )
    with alone(folder / "lock", other):
        checkpoint = folder / "checkpoint"
        if rebuild:
            shutil.rmtree(checkpoint, ignore_errors=True)
        increment = _Increment(spark, pipeline, lake, checkpoint, rebuild=rebuild, now=now)
        increment.require_continuable()
        increment.run()
    stale = {} if increment.files else increment.stale()
    new = f"{increment.files} new files, {increment.rows:,} rows"
    return outcome_of(
        lake.table("clean"),
        time.monotonic() - started,
        unchanged=not increment.files,
        note=new if increment.files else "no new file",
        stale=stale,
    )


@dataclass(frozen=True)
class _Batch:
    """One batch of new files, and the state of `clean` that it comes to."""

    number: int
    found: Found
    before: Snapshot | None
    """`clean` as it is; None where nothing of it stays."""


@dataclass
class _Merged:
    """What a batch makes of what is there."""

    new: DataFrame
    """Accepted rows of the batch."""
    staying: DataFrame | None
    """Rows of `clean` that it does not correct; None where there are none."""
    good: DataFrame
    bad: DataFrame
    of_rows: Observation
    of_columns: Observation
    periods: set[str | None] = field(default_factory=set)
    """Of `clean`, that are written again."""
    gone: int = 0
    """Rows of `clean` that the batch corrects."""


class _Increment:
    """One run of the query over all files that are new."""

    def __init__(
        self,
        spark: SparkSession,
        pipeline: Pipeline,
        lake: Lake,
        checkpoint: Path,
        *,
        rebuild: bool,
        now: datetime,
    ) -> None:
        self._spark, self._pipeline, self._now = spark, pipeline, now
        self._redaction = Redaction.of(pipeline, lake)
        self._tables = {name: lake.table(name) for name in ("quarantine", "clean", "quality")}
        self._checkpoint = checkpoint
        self._rebuild = rebuild
        self._fault: BaseException | None = None
        self._settings = fingerprint(
            contract=pipeline.source.model_dump(mode="json", exclude={"path"}),
            # Not where the files lie: a lake may be moved.
            settings=pipeline.clean.model_dump(
                mode="json",
                exclude={
                    "joins": {name: {"path"} for name in pipeline.clean.joins},
                    "table_rules": {
                        name: {"reference": {"path"}} for name in pipeline.clean.table_rules
                    },
                },
            ),
        )
        self.files = 0
        self.rows = 0

    def require_continuable(self) -> None:
        """Refuses tables that this query did not write, or files that are not what they were.

        Raises:
            LakeError: They are of a full run, of another checkpoint or of other settings.
            SourceError: A file was changed after it was read.
        """
        clean = self._tables["clean"]
        writer = clean.last_note(WRITER)
        if self._rebuild:
            return
        remedy = "Run `lakestorm clean --incremental --rebuild`: it reads all files once more."
        if writer is None:
            if last_batch(self._checkpoint) >= 0:
                raise LakeError("table clean", "is not there, but files were read for it", remedy)
            return
        if not self._checkpoint.exists() or writer != self._app:
            raise LakeError(
                "table clean",
                f"was written by {writer}, so which raw files it holds is not known here",
                remedy,
            )
        reached = clean.transaction_version(self._app)
        if last_batch(self._checkpoint) > (-1 if reached is None else reached):
            raise LakeError(
                "table clean", "was taken back to an earlier version: it lacks files read", remedy
            )
        if clean.last_note(SETTINGS) != self._settings:
            raise LakeError(
                "table clean", "was written under another contract or other rules", remedy
            )
        self._refuse_changed_files()

    def stale(self) -> dict[str, str]:
        """Rules that the table breaks by now though no file came, and how."""
        if not self._tables["clean"].exists:
            return {}
        return stale_rules(self._pipeline, self._tables, self._now, self._app)

    def run(self) -> None:
        """Takes all new files, batch by batch.

        Raises:
            LakestormError: What a batch met; it is not committed, and comes again.
        """
        source = self._pipeline.source
        files = (
            self._spark.readStream.format("binaryFile")
            .schema(_FILES_SCHEMA)
            .option("pathGlobFilter", f"{{{','.join(ENDINGS[source.format])}}}")
            .option("recursiveFileLookup", "true")
            .option("maxFileAge", _ANY_AGE)
            .load(str(Path(source.path[0]).absolute()))
            .select("path")
        )
        writer = (
            files.writeStream.foreachBatch(self._on_batch)
            .option("checkpointLocation", str(self._checkpoint))
            .trigger(availableNow=True)
        )
        try:
            query = writer.start()
            query.awaitTermination()
        except (PySparkException, Py4JJavaError) as error:
            if isinstance(self._fault, LakestormError):
                raise self._fault from None
            raise SourceError(
                "source.path",
                f"new files could not be read: {str(error).strip().splitlines()[0]}",
                "Mend the cause and run the stage again; nothing was committed.",
            ) from (self._fault or error)

    @property
    def _app(self) -> str:
        """Named after the query, whose id lasts as long as its checkpoint."""
        return f"clean/{query_id(self._checkpoint)}"

    def _on_batch(self, files: DataFrame, number: int) -> None:
        try:
            last = self._tables["clean"].transaction_version(self._app)
            if last is not None and last >= number:
                return  # committed, and killed before the checkpoint knew
            # The names of files, no rows.
            paths = {local_path(row["path"]) for row in files.collect()}
            if paths:
                self._take(paths, number)
        except BaseException as error:
            self._fault = error  # Spark keeps only its text
            raise

    def _take(self, paths: set[str], number: int) -> None:
        found = Found.of(self._pipeline)
        new = [file for file in found.subject if file.path in paths]
        for gone in sorted(paths - {file.path for file in new}):
            log.warning("%s is gone before any row of it was read", gone)
        if not new:
            # All the same it was a batch: the table's number keeps up with the checkpoint's.
            nothing = Transaction(self._app, number)
            if self._tables["clean"].exists:
                commit(self._tables["clean"], [], transaction=nothing)
            return
        own = self._tables["clean"].last_note(WRITER) == self._app
        before = self._tables["clean"].snapshot() if own else None
        batch = _Batch(number, Found(new, found.rights), before)
        notes = {WRITER: self._app, SETTINGS: self._settings, **self._mended(new)}
        stored_bytes = sum(file.bytes for file in new)
        if before is not None:
            stored_bytes += before.bytes
        with partitions_by_size(self._spark, stored_bytes):
            merge = _Merge(
                self._spark,
                self._pipeline,
                self._tables,
                batch=batch,
                redaction=self._redaction,
                now=self._now,
            )
            self.rows += merge.commit(self._app, notes)
        self.files += len(new)

    def _mended(self, files: Sequence[RawFile]) -> dict[str, str]:
        found = {path: time for path, time, _ in files_found(self._checkpoint)}
        mended = {
            file.path: changed_ms(file)
            for file in files
            if found.get(file.path, changed_ms(file)) != changed_ms(file)
        }
        return {MENDED: json.dumps(mended)} if mended else {}

    def _refuse_changed_files(self) -> None:
        """A file is read once; what is written into it afterwards would never be seen."""
        present = {file.path: file for file in Found.of(self._pipeline).subject}
        mended: dict[str, int] = {}
        for entry in reversed(self._tables["clean"].history()):
            mended |= json.loads(entry.get(MENDED, "{}"))
        done = self._tables["clean"].transaction_version(self._app)
        for path, milliseconds, batch in files_found(self._checkpoint):
            file = present.get(path) if done is not None and batch <= done else None
            if file is not None and changed_ms(file) != mended.get(path, milliseconds):
                raise SourceError(
                    f"file {path}",
                    "was changed after it was read",
                    "Deliver corrections as a new file, or read all files once more: "
                    "lakestorm clean --incremental --rebuild.",
                )


class _Merge:
    """What one batch makes of the three tables."""

    def __init__(
        self,
        spark: SparkSession,
        pipeline: Pipeline,
        tables: dict[str, Table],
        *,
        batch: _Batch,
        redaction: Redaction,
        now: datetime,
    ) -> None:
        self._spark, self._pipeline, self._tables, self._batch = spark, pipeline, tables, batch
        self._redaction, self._now = redaction, now
        self._contract = list(pipeline.source.columns)
        self._period = pipeline.clean.period.column

    def commit(self, app: str, notes: Mapping[str, str]) -> int:
        """Writes and commits the batch with these notes; its raw rows."""
        kept: list[DataFrame] = []
        try:
            return self._commit(app, notes, kept)
        finally:
            for frame in kept:
                frame.unpersist()

    def _commit(self, app: str, notes: Mapping[str, str], kept: list[DataFrame]) -> int:
        pipeline, batch, tables = self._pipeline, self._batch, self._tables
        merged = self._merged(kept)
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
                merged.new, pipeline, tables, self._now, present=merged.staying, of_app=app
            )
            good_files = accept.write(merged.good)
            self._require_exact(counts, merged, good=good_files, bad=bad_files)
            run = f"{app}/{batch.number}"
            transaction = Transaction(app, batch.number)
            # Without any row, none may have passed by the observer.
            of_clean = merged.of_columns.get if counts.clean else {}
            findings = judge.findings(of_clean)
            totals = self._totals(count_notes(counts, findings), merged.gone)
            notes = {
                **notes,
                RUN: run,
                COUNTS: json.dumps(totals),
                WARNINGS: json.dumps(warnings_of(findings)),
                WITHOUT_BOUNDS: json.dumps(hidden),
            }
            commit(
                tables["quarantine"],
                bad_files,
                attempt=reject,
                transaction=transaction,
                replace="all" if batch.before is None else None,
                notes=notes,
            )
            measures = quality_rows(counts, of_clean, run, self._now, findings)
            commit(
                tables["quality"],
                measure.write_arrow(measures),
                attempt=measure,
                transaction=transaction,
            )
            again = {(period,) for period in merged.periods}
            commit(
                tables["clean"],
                good_files,
                attempt=accept,
                transaction=transaction,
                replace="all" if batch.before is None else again or None,
                elsewhere=True,
                notes=notes,
            )
        return counts.raw

    def _merged(self, kept: list[DataFrame]) -> _Merged:
        """The batch beside what is there: what is accepted, what rejected, what written again."""
        pipeline, found, before = self._pipeline, self._batch.found, self._batch.before
        of_rows, of_columns = Observation(), Observation()
        rows = judged(self._spark, pipeline, found.subject)
        present = before.dataframe(self._spark) if before is not None and before.files else None
        dedupe = pipeline.clean.dedupe if present is not None else None
        staying = present
        if present is not None and dedupe is not None:
            rows = against(rows, present, dedupe)
            staying = remaining(rows, present, dedupe)
        rows = with_table_rules(rows, Rights(self._spark, pipeline, found.rights), staying)
        rules, table_rules = pipeline.clean.rules, pipeline.clean.table_rules
        rows = observed_verdicts(rows, pipeline.source.columns, rules, of_rows, table_rules)
        rows = self._keep(once_counted(rows), kept)
        new = accepted(self._spark, pipeline, rows, found.rights)
        merged = _Merged(
            new=new,
            staying=present,
            good=profiled(new, pipeline, of_columns),
            bad=rejected(rows, self._contract, self._redaction),
            of_rows=of_rows,
            of_columns=of_columns,
        )
        if before is not None and dedupe is not None:
            merged.gone = corrections(rows).count()
            if merged.gone and present is not None:
                merged.staying = remaining(rows, present, dedupe)
                self._correct(merged, rows, before, dedupe, kept)
        merged.good = arranged(merged.good, pipeline)
        return merged

    def _correct(
        self,
        merged: _Merged,
        rows: DataFrame,
        before: Snapshot,
        dedupe: Dedupe,
        kept: list[DataFrame],
    ) -> None:
        """Takes rows that the batch corrects out of `clean`: their periods are written again."""
        present = before.dataframe(self._spark)
        gone = self._keep(corrected(rows, present, dedupe), kept)
        # The names of periods, no rows.
        merged.periods = {row[0] for row in gone.select(self._period).distinct().collect()}
        origin = f"clean@{before.version}"
        rejects = quarantined(gone, self._contract, origin, self._redaction)
        merged.bad = merged.bad.unionByName(rejects)
        touched = before.select(**{self._period: merged.periods}).dataframe(self._spark)
        merged.good = merged.good.unionByName(remaining(rows, touched, dedupe))

    def _keep(self, frame: DataFrame, kept: list[DataFrame]) -> DataFrame:
        """On local disk, whatever the memory: several tables come from one pass."""
        kept.append(frame.persist(StorageLevel.DISK_ONLY))
        return kept[-1]

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
        merged: _Merged,
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
        by_footers = rows_by_footers(self._pipeline.source, self._batch.found.subject)
        require_exact(counts, written, by_footers, f"stage clean, batch {self._batch.number}")
