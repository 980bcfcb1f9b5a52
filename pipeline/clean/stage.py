"""The stage `clean`: one pass over the raw files, three tables, every row accounted for."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from pyspark import StorageLevel
from pyspark.sql import DataFrame, Observation, SparkSession

from pipeline.clean.frames import accepted, arranged, judged, rejected
from pipeline.clean.partitions import partitions_by_size
from pipeline.clean.profile import observed_columns
from pipeline.clean.quality import (
    QUALITY_SCHEMA,
    Counts,
    counts_of,
    observed_verdicts,
    quality_rows,
)
from pipeline.clean.raw import RawFile, find_files, rows_by_footers
from pipeline.clean.sensitive import Redaction
from pipeline.clean.table_judge import WARNINGS, TableJudge, stale_rules, warnings_of
from pipeline.clean.table_rules import (
    Finding,
    Rights,
    own_files,
    refuse,
    table_measures,
    with_table_rules,
)
from pipeline.clean.verdict import once_counted, table_reason
from pipeline.config import Pipeline
from pipeline.errors import CommitConflictError, CountError, RuleError
from pipeline.lake import (
    COUNTS,
    RUN,
    WITHOUT_BOUNDS,
    Lake,
    Table,
    Transaction,
    commit,
    fingerprint,
)
from pipeline.lake.schema import from_spark
from pipeline.outcome import Outcome
from pipeline.sources import idx, nycflights13

WRITER = "lakestorm.writer"
"""Commits of `clean` note under this key which app they are of: see `increment.py`."""


@dataclass(frozen=True)
class Found:
    """Raw files of the subject and of each right side, as found."""

    subject: list[RawFile]
    rights: dict[str, list[RawFile]]
    """By the join's name, or for rules about the table by `own_files`."""

    @classmethod
    def of(cls, pipeline: Pipeline) -> Found:
        """What there is; raises as `find_files` does."""
        rights = {
            name: find_files(join, f"clean.joins.{name}")
            for name, join in pipeline.clean.joins.items()
        }
        for name, rule in pipeline.clean.table_rules.items():
            if rule.reference is not None and rule.reference.join is None:
                place = f"clean.table_rules.{name}.reference"
                rights[own_files(name)] = find_files(rule.reference, place)
        return cls(find_files(pipeline.source, "source"), rights)

    def fingerprint(self, pipeline: Pipeline) -> str:
        """What the three tables depend on."""

        def identity(found: list[RawFile]) -> list[list[str | int]]:
            return [[file.name, file.bytes, file.modified_ns] for file in found]

        return fingerprint(
            subject=identity(self.subject),
            rights={name: identity(found) for name, found in self.rights.items()},
            contract=pipeline.source.model_dump(mode="json", exclude={"path"}),
            settings=pipeline.clean.model_dump(mode="json"),
        )


def clean(
    spark: SparkSession, pipeline: Pipeline, lake: Lake, *, now: datetime | None = None
) -> Outcome:
    """Writes `clean`, `quarantine` and `quality` from all raw files.

    Args:
        spark: The session.
        pipeline: The description.
        lake: Where the tables are.
        now: Time of the run, in UTC, which `freshness` is measured from and `quality` notes.

    Returns:
        raw rows in, clean rows out, quarantined and dropped; unchanged where the tables already
        hold these files under these settings.

    Raises:
        LakestormError: Raw files, contract, rules or joins are at fault; the tables are as before.
    """
    started, now = time.monotonic(), now or datetime.now(UTC)
    lake.require_writable()
    pipeline = laid_out(pipeline, lake)
    found = Found.of(pipeline)
    run = found.fingerprint(pipeline)
    app = f"clean/{pipeline.name}"
    tables = {name: lake.table(name) for name in ("quarantine", "clean", "quality")}
    numbers = {name: table.transaction_version(app) or 0 for name, table in tables.items()}
    newest = max(numbers.values())
    if newest and set(numbers.values()) == {newest} and tables["clean"].last_note(RUN) == run:
        stale = stale_rules(pipeline, tables, now)
        seconds = time.monotonic() - started
        return outcome_of(tables["clean"], seconds, unchanged=True, stale=stale)
    # A run that stopped between its commits is finished under its own number.
    unfinished = numbers["quarantine"] == newest > 0 and tables["quarantine"].last_note(RUN) == run
    transaction = Transaction(app, newest if unfinished else newest + 1)
    with partitions_by_size(spark, sum(file.bytes for file in found.subject)):
        _write(
            spark,
            pipeline,
            tables=tables,
            found=found,
            run=run,
            transaction=transaction,
            redaction=Redaction.of(pipeline, lake),
            now=now,
        )
    return outcome_of(tables["clean"], time.monotonic() - started, unchanged=False)


def laid_out(pipeline: Pipeline, lake: Lake) -> Pipeline:
    """The pipeline with a source that Spark can read, which may have to be written first."""
    source = pipeline.source
    if source.sample == "nycflights13":
        nycflights13.lay_out(Path(source.path[0]))
    if source.format != "idx":
        return pipeline
    folder = idx.lay_out(Path(source.path[0]), lake.work("raw", pipeline.name))
    parquet = source.model_copy(update={"path": (str(folder),), "format": "parquet"})
    return pipeline.model_copy(update={"source": parquet})


def _write(
    spark: SparkSession,
    pipeline: Pipeline,
    *,
    tables: dict[str, Table],
    found: Found,
    run: str,
    transaction: Transaction,
    redaction: Redaction,
    now: datetime,
) -> None:
    settings = pipeline.clean
    rows = judged(spark, pipeline, found.subject)
    rows = with_table_rules(rows, Rights(spark, pipeline, found.rights))
    of_rows, of_columns = Observation(), Observation()
    counted = observed_verdicts(
        rows, pipeline.source.columns, settings.rules, of_rows, settings.table_rules
    )
    # Two tables come from one pass: kept on local disk between the two writes, whatever the memory.
    kept = once_counted(counted).persist(StorageLevel.DISK_ONLY)
    try:
        bad = rejected(kept, list(pipeline.source.columns), redaction)
        plain = accepted(spark, pipeline, kept, found.rights)
        # Measured before they are arranged: by as many tasks as there are, however few files.
        good = arranged(profiled(plain, pipeline, of_columns), pipeline)
        create_tables(pipeline, tables, clean=good, quarantine=bad)
        hidden = hidden_columns(pipeline, plain)
        with tables["quarantine"].attempt() as reject, tables["clean"].attempt(hidden) as accept:
            files = {"quarantine": reject.write(bad)}
            counts = counts_of(of_rows)
            refuse_failed_rules(pipeline, counts)
            judge = TableJudge.before_writing(plain, pipeline, tables, now)
            files["clean"] = accept.write(good)
            written = {name: sum(file.rows for file in listed) for name, listed in files.items()}
            require_exact(counts, written, rows_by_footers(pipeline.source, found.subject))
            findings = judge.findings(of_columns.get)
            notes = {
                RUN: run,
                WRITER: transaction.app,
                COUNTS: json.dumps(count_notes(counts, findings)),
                WARNINGS: json.dumps(warnings_of(findings)),
                WITHOUT_BOUNDS: json.dumps(hidden),
            }
            for name, attempt in (("quarantine", reject), ("clean", accept)):
                done = commit(
                    tables[name],
                    files[name],
                    attempt=attempt,
                    transaction=transaction,
                    replace="all",
                    notes=notes,
                )
                if not done.landed:
                    _require_own(tables[name], run)
        measures = quality_rows(counts, of_columns.get, run, now, findings)
        with tables["quality"].attempt() as attempt:
            measured = attempt.write_arrow(measures)
            commit(tables["quality"], measured, attempt=attempt, transaction=transaction)
    finally:
        kept.unpersist()


def profiled(good: DataFrame, pipeline: Pipeline, observation: Observation) -> DataFrame:
    """The same rows, measured by column and for the rules about the table."""
    return observed_columns(
        good,
        observation,
        is_sensitive=pipeline.is_sensitive,
        also=table_measures(pipeline, good.schema),
    )


def hidden_columns(pipeline: Pipeline, good: DataFrame) -> list[str]:
    """Columns of `clean` whose values must not be in its log."""
    return [name for name in good.columns if pipeline.is_sensitive(name)]


def create_tables(
    pipeline: Pipeline, tables: dict[str, Table], *, clean: DataFrame, quarantine: DataFrame
) -> None:
    """Creates the three tables where they are not there."""
    tables["quarantine"].create(from_spark(quarantine.schema), (), "rows rejected, with reasons")
    tables["clean"].create(
        from_spark(clean.schema), (pipeline.clean.period.column,), "rows accepted"
    )
    tables["quality"].create(QUALITY_SCHEMA, (), "measures of each run of clean")


def refuse_failed_rules(pipeline: Pipeline, counts: Counts) -> None:
    """Raises RuleError where rows fail a rule whose action is `fail`."""
    for name, rows in counts.failed.items():
        of_table = name.removeprefix(table_reason(""))
        if of_table != name:
            what = f"{rows:,} of {counts.raw:,} rows have values that the right side lacks"
            refuse(of_table, what)
        raise RuleError(
            f"clean.rules.{name}",
            f"{rows} of {counts.raw} rows fail {pipeline.clean.rules[name].check!r}, "
            "and its action is fail",
            "Nothing was committed; correct the raw files, or choose another action.",
        )


def require_exact(
    counts: Counts,
    written: Mapping[str, int],
    rows_in_footers: int | None,
    where: str = "stage clean",
) -> None:
    """Raw = clean + quarantine + dropped, by three counts that share no code.

    Args:
        counts: What passed by the observers.
        written: Rows in the files of `clean` and of `quarantine`.
        rows_in_footers: Raw rows by the files' footers; None where they have none.
        where: For the error.

    Raises:
        CountError: They do not agree.
    """
    expected = {"clean": counts.clean, "quarantine": counts.quarantined}
    accounted = counts.clean + counts.quarantined + counts.dropped
    raw_agrees = rows_in_footers is None or rows_in_footers == counts.raw
    if written != expected or accounted != counts.raw or not raw_agrees:
        raise CountError(
            where,
            f"raw {counts.raw} (by footers {rows_in_footers}), clean {counts.clean}, quarantine "
            f"{counts.quarantined}, dropped {counts.dropped}, but written {written}",
            "Nothing was committed; run again, and report it if it comes back.",
        )


def _require_own(table: Table, run: str) -> None:
    if table.last_note(RUN) != run:
        raise CommitConflictError(
            f"table {table.name}",
            "another run of clean with other input committed at the same time",
            "Run the stage again when the other one is done.",
        )


def count_notes(counts: Counts, findings: Sequence[Finding] = ()) -> dict[str, int]:
    """All counts by name, as the commits note them."""
    return {
        "raw": counts.raw,
        "clean": counts.clean,
        "quarantine": counts.quarantined,
        "dropped": counts.dropped,
        **{f"quarantine {reason}": n for reason, n in counts.by_reason.items()},
        **{f"dropped {reason}": n for reason, n in counts.by_drop.items()},
        **{f"warned {name}": n for name, n in counts.warned.items()},
        **{
            f"warned {table_reason(finding.name)}": finding.judgement.rows or 1
            for finding in findings
            if finding.is_warning
        },
    }


def outcome_of(
    table: Table,
    seconds: float,
    *,
    unchanged: bool,
    note: str = "",
    stale: Mapping[str, str] | None = None,
) -> Outcome:
    """What the newest commit noted, so that an unchanged run reports the same counts.

    Args:
        table: The table `clean`.
        seconds: That the stage took.
        unchanged: Whether it found its work done.
        note: For the reader.
        stale: Rules that the unchanged table breaks by now, and how.
    """
    counts: dict[str, int] = json.loads(table.last_note(COUNTS) or "{}")
    totals = {name: counts.pop(name) for name in ("raw", "clean", "quarantine", "dropped")}
    warnings: dict[str, str] = json.loads(table.last_note(WARNINGS) or "{}")
    warnings |= stale or {}
    counts |= {f"warned {table_reason(name)}": 1 for name in stale or ()}
    told = [f"{table_reason(name)}: {problem}" for name, problem in warnings.items()]
    return Outcome(
        stage="clean",
        table=table.name,
        version=table.snapshot().version,
        rows_in=totals["raw"],
        rows_out=totals["clean"],
        rows_quarantined=totals["quarantine"],
        rows_dropped=totals["dropped"],
        seconds=seconds,
        unchanged=unchanged,
        counts=counts,
        note="; ".join([note, *told] if note else told),
    )
