"""The stage `clean`: one pass over the raw files, three tables, every row accounted for."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

from pyspark import StorageLevel
from pyspark.sql import DataFrame, Observation, SparkSession

from pipeline.clean.contract import carried
from pipeline.clean.frames import accepted, arranged, judged, rejected
from pipeline.clean.hints import hints
from pipeline.clean.inputs import Inputs, laid_out
from pipeline.clean.partitions import partitions_by_size, whole_files
from pipeline.clean.pending import settle
from pipeline.clean.profile import observed_columns
from pipeline.clean.quality import (
    QUALITY_SCHEMA,
    Counts,
    counts_of,
    observed_verdicts,
    quality_rows,
)
from pipeline.clean.sensitive import Redaction
from pipeline.clean.table_judge import WARNINGS, TableJudge, stale_rules, warnings_of
from pipeline.clean.table_rules import (
    Finding,
    Rights,
    refuse_rows,
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
    WRITER,
    Lake,
    Table,
    Transaction,
    commit,
)
from pipeline.lake.schema import from_spark
from pipeline.outcome import Outcome

REMARKS = "lakestorm.remarks"
"""Commits of `clean` note under this key what the policies for columns did."""


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
    inputs = Inputs.of(spark, pipeline)
    run = inputs.fingerprint(pipeline)
    app = f"clean/{pipeline.name}"
    tables = {name: lake.table(name) for name in ("quarantine", "clean", "quality")}
    agree = settle(tables)
    numbers = {name: table.transaction_version(app) or 0 for name, table in tables.items()}
    newest = max(numbers.values())
    done = agree and newest and set(numbers.values()) == {newest}
    if done and tables["clean"].last_note(RUN) == run:
        stale = stale_rules(pipeline, tables, now)
        seconds = time.monotonic() - started
        return outcome_of(tables["clean"], seconds, unchanged=True, stale=stale)
    # A run that stopped between its commits is finished under its own number.
    begun = numbers["quarantine"] == newest > 0 and tables["quarantine"].last_note(RUN) == run
    transaction = Transaction(app, newest if begun and agree else newest + 1)
    with partitions_by_size(spark, inputs.subject.found.bytes), whole_files(spark, pipeline):
        _write(
            spark,
            inputs,
            tables=tables,
            run=run,
            transaction=transaction,
            redaction=Redaction.of(inputs.pipeline, lake),
            now=now,
        )
    return outcome_of(tables["clean"], time.monotonic() - started, unchanged=False)


def _write(
    spark: SparkSession,
    inputs: Inputs,
    *,
    tables: dict[str, Table],
    run: str,
    transaction: Transaction,
    redaction: Redaction,
    now: datetime,
) -> None:
    pipeline = inputs.pipeline
    settings = pipeline.clean
    rows = judged(spark, pipeline, inputs.subject, redaction.key)
    rows = with_table_rules(rows, Rights(spark, pipeline, inputs.rights))
    of_rows, of_columns = Observation(), Observation()
    counted = observed_verdicts(
        rows, pipeline.source.columns, settings.rules, of_rows, settings.table_rules
    )
    # Two tables come from one pass: kept on local disk between the two writes, whatever the memory.
    kept = once_counted(counted).persist(StorageLevel.DISK_ONLY)
    try:
        bad = rejected(kept, carried(pipeline), redaction)
        plain = accepted(spark, pipeline, kept, inputs.rights)
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
            require_exact(counts, written, inputs.subject.rows())
            # Without any row, none may have passed by the observer.
            seen = of_columns.get if counts.clean else {}
            findings = judge.findings(seen)
            notes = {
                RUN: run,
                WRITER: transaction.app,
                COUNTS: json.dumps(count_notes(counts, findings)),
                REMARKS: json.dumps([*inputs.notes, *hints(counts, pipeline.source.columns)]),
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
        measures = quality_rows(counts, seen, run, now, findings)
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
    """Raises RuleError where more rows fail a rule than its action lets pass."""
    for name, rows in counts.failed.items():
        of_table = name.removeprefix(table_reason(""))
        if of_table != name:
            refuse_rows(of_table, pipeline.clean.table_rules[of_table], rows, counts.raw)
            continue
        rule = pipeline.clean.rules[name]
        if rule.consequence.ends_run(rows, counts.raw):
            raise RuleError(
                f"clean.rules.{name}",
                f"{rows} of {counts.raw} rows fail {rule.check!r}, "
                f"and its action is {rule.consequence.told}",
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
    remarks: list[str] = json.loads(table.last_note(REMARKS) or "[]")
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
        note="\n    ".join([*([note] if note else []), *told, *remarks]),
    )
