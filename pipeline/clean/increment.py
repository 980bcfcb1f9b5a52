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
import uuid
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import cached_property, reduce
from pathlib import Path

from py4j.protocol import Py4JJavaError
from pyspark.errors import PySparkException
from pyspark.sql import DataFrame, SparkSession

from pipeline.clean.batch import Batch, BatchCommit
from pipeline.clean.checkpoint import changed_ms, files_found, last_batch, query_id, spark_path
from pipeline.clean.continuity import SETTINGS, settings_notes
from pipeline.clean.followed import SourceTable
from pipeline.clean.inputs import Inputs, laid_out, with_contract_of
from pipeline.clean.partitions import partitions_by_size, whole_files
from pipeline.clean.pending import settle
from pipeline.clean.sensitive import Redaction
from pipeline.clean.stage import outcome_of
from pipeline.clean.table_judge import stale_rules
from pipeline.config import Pipeline
from pipeline.errors import (
    CommitConflictError,
    ConfigError,
    LakeError,
    LakestormError,
    SourceError,
    one_line,
)
from pipeline.lake import (
    WRITER,
    Lake,
    Transaction,
    alone,
    commit,
)
from pipeline.outcome import Outcome
from pipeline.sources.formats import format_named, format_of, open_rows
from pipeline.sources.places import split_pattern
from pipeline.sources.raw import Found, RawFile, shortened
from pipeline.stores.folder import folder_of

log = logging.getLogger(__name__)

MENDED = "lakestorm.mended_files"
"""Commits note under this key files that were written again after Spark found them, and before any
row of them was committed: path to time of change in ms."""
PLACES = "lakestorm.places"
"""And under this one the paths of the source."""
_FILES_SCHEMA = "path STRING, modificationTime TIMESTAMP, length BIGINT, content BINARY"
# Spark would leave out, without a word, what is a week older than the newest file it has seen.
_ANY_AGE = "36500d"
_OF_SPARK = (PySparkException, Py4JJavaError)


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
    _refuse_unfollowable(pipeline)
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
    new = increment.note or f"{increment.files} new files, {increment.rows:,} rows"
    return outcome_of(
        lake.table("clean"),
        time.monotonic() - started,
        unchanged=not increment.files,
        note=new if increment.files else "no new file",
        stale=stale,
    )


def _refuse_unfollowable(pipeline: Pipeline) -> None:
    source = pipeline.source
    pinned = source.version is not None or source.as_of is not None
    if source.table is not None or pinned:
        raise ConfigError(
            "source.table" if source.table else "source.version",
            "cannot be followed by --incremental: "
            + (
                "a catalogue tells no new files"
                if source.table
                else "a pinned version never changes"
            ),
            "Run clean without --incremental, or name the folder of the newest version.",
        )


def _any_case(ending: str) -> str:
    """An ending of names as a glob for all its cases."""
    return "".join(f"[{c.lower()}{c.upper()}]" if c.isalpha() else c for c in ending)


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
        self._settings = settings_notes(pipeline)
        self.files = 0
        self.rows = 0
        self.note = ""

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
        self._require_own_tables(writer, remedy)
        if not settle(self._tables):
            raise LakeError(
                "tables clean and quarantine",
                "are not of the same replay: one of them was taken back to an earlier version",
                remedy,
            )
        if clean.last_note(SETTINGS) != self._settings[SETTINGS]:
            raise LakeError(
                "table clean", "was written under another contract or other rules", remedy
            )
        self._require_same_places(remedy)
        if not self._follows_table:
            self._refuse_changed_files()

    def _require_own_tables(self, writer: str, remedy: str) -> None:
        clean, quarantine = self._tables["clean"], self._tables["quarantine"]
        known = self._follows_table or self._checkpoint.exists()
        if not known or writer != self._app:
            what = "versions of the source" if self._follows_table else "raw files"
            raise LakeError(
                "table clean",
                f"was written by {writer}, so which {what} it holds is not known here",
                remedy,
            )
        if quarantine.last_note(WRITER) != writer:
            raise LakeError(
                "table quarantine", "was written by another run than clean, which stopped", remedy
            )
        reached = clean.transaction_version(self._app)
        last = -1 if self._follows_table else last_batch(self._checkpoint)
        if last > (-1 if reached is None else reached):
            raise LakeError(
                "table clean", "was taken back to an earlier version: it lacks files read", remedy
            )

    def _require_same_places(self, remedy: str) -> None:
        """Spark remembers files by the place of their folder in the list of folders."""
        before: list[str] = json.loads(self._tables["clean"].last_note(PLACES) or "[]")
        now = list(self._pipeline.source.path)
        # One folder may be moved.
        if before and before != now and max(len(before), len(now)) > 1:
            raise LakeError(
                "source.path",
                f"names other places, or in another order, than were read: {', '.join(before)}",
                f"Put it back as it was. {remedy}",
            )

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
        if self._follows_table:
            self._run_on_table()
            return
        folders = [self._stream(path) for path in self._pipeline.source.path]
        files = reduce(DataFrame.union, folders)
        writer = (
            files.writeStream.foreachBatch(self._on_batch)
            .option("checkpointLocation", str(self._checkpoint))
            .trigger(availableNow=True)
        )
        try:
            query = writer.start()
            query.awaitTermination()
        except _OF_SPARK as error:
            if isinstance(self._fault, LakestormError):
                raise self._fault from None
            told = shortened(one_line(self._fault or str(error).strip().splitlines()[0]))
            raise SourceError(
                "source.path",
                f"new files could not be taken: {told}",
                "Mend the cause and run the stage again: the batch is not done, and comes again.",
            ) from (self._fault or error)

    def _stream(self, path: str) -> DataFrame:
        """The names of files below a path, as they come."""
        storage = self._pipeline.source.storage or self._pipeline.storage
        # What a pattern names is taken whatever it ends with.
        wild = split_pattern(path)[1] is not None
        endings = map(_any_case, format_named(self._pipeline.source.format).endings)
        return (
            self._spark.readStream.format("binaryFile")
            .schema(_FILES_SCHEMA)
            .option("pathGlobFilter", "*" if wild else f"*{{{','.join(endings)}}}")
            .option("recursiveFileLookup", "true")
            .option("maxFileAge", _ANY_AGE)
            .load(folder_of(path, storage).spark_path("").rstrip("/"))
            .select("path")
        )

    @property
    def _app(self) -> str:
        """Named after the query, whose id lasts as long as its checkpoint."""
        if self._follows_table:
            return self._app_of_table
        return f"clean/{query_id(self._checkpoint)}"

    @cached_property
    def _app_of_table(self) -> str:
        """Named after the table; another one for each rebuild, as its number is the version."""
        base = f"clean/{self._pipeline.name}/{self._source_table.table_id}"
        if self._rebuild:
            return f"{base}/{uuid.uuid4().hex[:12]}"
        writer = self._tables["clean"].last_note(WRITER) or ""
        return writer if writer.startswith(f"{base}/") else base

    @cached_property
    def _source_table(self) -> SourceTable:
        return SourceTable.of(self._pipeline)

    @cached_property
    def _follows_table(self) -> bool:
        return format_of(self._pipeline.source, self._pipeline.storage).by_log

    def _run_on_table(self) -> None:
        """Takes what the commits since the last run added to the Delta table that is the source."""
        newest = self._source_table
        last = None if self._rebuild else self._tables["clean"].transaction_version(self._app)
        # A run that stopped between its commits is finished under its own number first.
        begun = self._tables["quarantine"].transaction_version(self._app)
        if begun is not None and last is not None and last < begun < newest.version:
            self._take_version(SourceTable.of(self._pipeline, begun), last)
            last = begun
        if last is None or last < newest.version:
            self._take_version(newest, last)

    def _take_version(self, table: SourceTable, last: int | None) -> None:
        inputs = self._inputs(table.version)
        now = inputs.subject.found
        added = None if last is None else table.added_since(last, now)
        if last is not None and added is None:
            self.note = "rows of the source were changed or removed: all were read again"
        self._take(inputs, now if added is None else added, table.version, anew=added is None)

    def _inputs(self, version: int | None = None) -> Inputs:
        """All that is there, under the contract that `clean` has.

        Args:
            version: Of the Delta table that is the source.
        """
        clean = self._tables["clean"]
        pipeline = self._pipeline
        if version is not None:
            source = pipeline.source.model_copy(update={"version": version})
            pipeline = pipeline.model_copy(update={"source": source})
        if clean.exists and not self._rebuild:
            pipeline = with_contract_of(pipeline, clean.snapshot().schema.names)
        return Inputs.of(self._spark, pipeline)

    def _on_batch(self, files: DataFrame, number: int) -> None:
        try:
            last = self._tables["clean"].transaction_version(self._app)
            if last is not None and last >= number:
                return  # committed, and killed before the checkpoint knew
            # The names of files, no rows.
            paths = {spark_path(row["path"]) for row in files.collect()}
            if paths:
                inputs = self._inputs()
                found = inputs.subject.found.only(paths)
                for gone in sorted(paths - {file.spark_path for file in found.files}):
                    log.warning("%s is gone before any row of it was read", gone)
                self._take(inputs, found, number)
        except BaseException as error:
            self._fault = error  # Spark keeps only its text
            raise

    def _take(self, inputs: Inputs, new: Found, number: int, *, anew: bool = False) -> None:
        """Commits one batch.

        Args:
            inputs: All that is there.
            new: The files of the batch.
            number: Of the batch.
            anew: Whether nothing of `clean` stays.
        """
        own = self._tables["clean"].last_note(WRITER) == self._app
        if not new.files and not anew:
            # All the same it was a batch: the table's number keeps up with the checkpoint's.
            nothing = Transaction(self._app, number)
            if self._tables["clean"].exists:
                commit(self._tables["clean"], [], transaction=nothing)
            return
        before = self._tables["clean"].snapshot() if own and not anew else None
        batch = Batch(number, inputs.only(new), before, self._redaction, self._now)
        notes = {WRITER: self._app, **self._settings, **self._mended(new.files)}
        notes[PLACES] = json.dumps(list(self._pipeline.source.path))
        stored_bytes = new.bytes
        if before is not None:
            stored_bytes += before.bytes
        with (
            partitions_by_size(self._spark, stored_bytes),
            whole_files(self._spark, self._pipeline),
        ):
            written = BatchCommit(self._spark, self._tables, batch)
            self.rows += written.commit(self._app, notes)
        self.files += len(new.files)

    def _mended(self, files: Sequence[RawFile]) -> dict[str, str]:
        found = {path: time for path, time, _ in files_found(self._checkpoint)}
        mended = {
            file.spark_path: changed_ms(file)
            for file in files
            if found.get(file.spark_path, changed_ms(file)) != changed_ms(file)
        }
        return {MENDED: json.dumps(mended)} if mended else {}

    def _refuse_changed_files(self) -> None:
        """A file is read once; what is written into it afterwards would never be seen."""
        source, storage = self._pipeline.source, self._pipeline.storage
        rows = open_rows(self._spark, source, "source", storage)
        present = {file.spark_path: file for file in rows.found.files}
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
