"""Replay: what is in quarantine is judged again, by today's contract and rules.

Rows that pass go to `clean`, rows that today's rules drop are gone, the others stay with their
reasons of today. No raw file is read. That each row is in exactly one place afterwards, however
often the process is killed, is what `pending.py` is for.

The counts of `clean` follow, so that raw = clean + quarantine + dropped still adds up; a full run
that finds the same raw files and settings therefore still says "unchanged". Which run wrote the
tables is noted by that run and stays as it is: where contract or rules have changed, it reads all
files anew, as it would without a replay.

`clean --incremental` goes on only under the settings that all rows in `clean` were judged by. After
a replay these are today's where that can be known: only `clean.rules` have changed, no row had been
dropped, all rows in quarantine could be judged again, and today's rules accept all rows of `clean`,
which are read for this. The tables are then what reading all raw files would give, so today's
settings are noted. Otherwise the former ones still are: under today's an increment is refused until
`--rebuild`, and under the former ones it goes on.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import pyarrow as pa
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from pipeline.clean.continuity import BUT_RULES, all_pass, settings_notes
from pipeline.clean.contract import REASONS, carried_contract, with_row_id
from pipeline.clean.frames import judged_by_rules
from pipeline.clean.inputs import right_sides, with_contract_of
from pipeline.clean.merge import Merged, merge
from pipeline.clean.partitions import partitions_by_size
from pipeline.clean.pending import Generation, commit_quarantine, pending_note, settle
from pipeline.clean.quality import Counts, counts_of, quality_rows
from pipeline.clean.raw_again import (
    BROKEN_LINE,
    HASHED,
    STAYS,
    WAS,
    raw_again,
    staying,
    typed_again,
)
from pipeline.clean.sensitive import Redaction
from pipeline.clean.stage import (
    count_notes,
    create_tables,
    hidden_columns,
    refuse_failed_rules,
    require_exact,
)
from pipeline.clean.table_judge import TableJudge
from pipeline.clean.verdict import DUPLICATE, QUARANTINE, VERDICT
from pipeline.config import Pipeline
from pipeline.errors import CommitConflictError, CommitRefusedError, LakeError
from pipeline.lake import (
    COUNTS,
    RUN,
    WITHOUT_BOUNDS,
    WRITER,
    DataFile,
    Lake,
    Since,
    Snapshot,
    Table,
    Transaction,
    alone,
    commit,
)
from pipeline.lake.schema import from_spark, require_same
from pipeline.outcome import Outcome

_AGAIN = "Run `lakestorm clean`, or `lakestorm clean --incremental --rebuild`: it reads all files."


def replay(spark: SparkSession, pipeline: Pipeline, lake: Lake) -> Outcome:
    """Judges the rows of `quarantine` again, and moves those that pass to `clean`.

    Args:
        spark: The session.
        pipeline: The description, as it is today.
        lake: Where the tables are.

    Returns:
        Rows in quarantine before, rows that passed, rows that stay, rows dropped; unchanged where
        all stay for the same reasons as before, and nothing was committed.

    Raises:
        LakestormError: Rules or joins are at fault, a table has other columns than the contract,
            or the tables are not of one run of `clean`; the tables are as before.
    """
    started = time.monotonic()
    lake.require_writable()
    tables = {name: lake.table(name) for name in ("quarantine", "clean", "quality")}
    other = CommitConflictError(
        "quarantine",
        "another run is cleaning or replaying at this moment; nothing was done here",
        "Run it again when the other one is done.",
    )
    # The lock of `clean --incremental`, which commits to the same tables.
    with alone(lake.work("ingest", pipeline.name) / "lock", other):
        base = _Base.of(tables)
        pipeline = with_contract_of(pipeline, base.clean.schema.names)
        stored = base.quarantine.bytes + base.clean.bytes
        with partitions_by_size(spark, stored):
            redaction = Redaction.of(pipeline, lake)
            done = _Replay(spark, pipeline, tables, base=base, redaction=redaction).run()
    return Outcome(
        stage="replay",
        table="clean",
        version=tables["clean"].snapshot().version,
        rows_in=base.quarantine.rows,
        rows_out=done.counts.clean,
        rows_quarantined=done.counts.quarantined + done.stayed.total(),
        rows_dropped=done.counts.dropped,
        seconds=time.monotonic() - started,
        unchanged=not (done.changed or done.settings),
        counts=done.named(),
        note=done.note(),
    )


@dataclass(frozen=True)
class _Base:
    """The two tables as the replay finds them."""

    generation: Generation
    quarantine: Snapshot
    clean: Snapshot
    since: Since
    """How far the writer is in `clean`."""
    counts: dict[str, int]
    """By `clean`'s newest note."""

    @classmethod
    def of(cls, tables: dict[str, Table]) -> _Base:
        """The tables, once an earlier replay is finished.

        Raises:
            TableNotFoundError: There is none.
            LakeError: They are not of one run of `clean`.
        """
        clean, quarantine = tables["clean"], tables["quarantine"]
        agree, generation = settle(tables), Generation.of(quarantine)
        same = [quarantine.last_note(key) == clean.last_note(key) for key in (WRITER, RUN)]
        reached = None if generation is None else clean.transaction_version(generation.writer)
        behind = generation is None or reached is None or reached < generation.number
        counts: dict[str, int] = json.loads(clean.last_note(COUNTS) or "{}")
        snapshot = quarantine.snapshot()
        counted = counts.get("quarantine") == snapshot.rows
        if generation is None or behind or not (agree and all(same) and counted):
            raise LakeError(
                "tables clean and quarantine",
                "are not of the same run: one was not finished, or a table was restored",
                _AGAIN,
            )
        since = Since(generation.writer, reached)
        return cls(generation, snapshot, clean.snapshot(), since, counts)

    def next(self, tables: dict[str, Table]) -> Transaction:
        """The transaction of the next replay."""
        last = tables["clean"].transaction_version(self.generation.app)
        return Transaction(self.generation.app, (last or 0) + 1)


@dataclass(frozen=True)
class _Done:
    """What became of the rows."""

    counts: Counts
    """Of the rows that were judged again."""
    stayed: Counter[str]
    """Why rows could not be judged again, to rows."""
    gone: int
    changed: bool
    settings: dict[str, str]
    """Notes of today's settings, where increments may go on under them and could not before."""

    def named(self) -> dict[str, int]:
        """Counts by name, for the outcome."""
        totals = ("raw", "clean", "quarantine", "dropped")
        named = {name: n for name, n in count_notes(self.counts).items() if name not in totals}
        return named | {f"stays {why}": n for why, n in sorted(self.stayed.items())}

    def note(self) -> str:
        """What the user should know beyond the counts."""
        told = []
        if self.gone:
            told.append(f"{self.gone:,} rows of clean gave way to newer ones, now in quarantine")
        if self.stayed[BROKEN_LINE]:
            told.append("malformed lines cannot be read again from here")
        if self.stayed[HASHED]:
            told.append("sensitive values are kept as hashes only: run `lakestorm clean` again")
        if self.settings:
            told.append("clean --incremental goes on under these rules")
        return "; ".join(told)


class _Replay:
    """One replay of all rows."""

    def __init__(
        self,
        spark: SparkSession,
        pipeline: Pipeline,
        tables: dict[str, Table],
        *,
        base: _Base,
        redaction: Redaction,
    ) -> None:
        self._spark, self._pipeline, self._tables, self._base = spark, pipeline, tables, base
        self._redaction, self._now = redaction, datetime.now(UTC)

    def run(self) -> _Done:
        """Judges and commits."""
        kept: list[DataFrame] = []
        try:
            return self._run(kept)
        finally:
            for frame in kept:
                frame.unpersist()

    def _run(self, kept: list[DataFrame]) -> _Done:
        contract = carried_contract(self._pipeline)
        raw = raw_again(self._base.quarantine.dataframe(self._spark), contract)
        typed = typed_again(raw, contract, self._pipeline.source.time_zone)
        if self._pipeline.clean.row_id == "content":
            typed = with_row_id(
                typed, self._pipeline, self._redaction.key
            )  # values may have become readable
        self._require_same_types(typed.select(*contract))
        # Reasons and their counts, no rows.
        stayed = Counter({row[0]: row[1] for row in raw.groupBy(STAYS).count().collect()})
        stayed.pop(None, 0)
        merged = merge(
            self._spark,
            self._pipeline,
            judged_by_rules(typed, self._pipeline),
            before=self._base.clean,
            rights=right_sides(self._spark, self._pipeline),
            redaction=self._redaction,
            kept=kept,
        )
        stays = (F.col(VERDICT) == QUARANTINE) & F.col(REASONS).eqNullSafe(F.col(WAS))
        changed = merged.rows.where(~stays).count() > 0
        counts = counts_of(merged.of_rows)
        refuse_failed_rules(self._pipeline, counts)
        settings = {} if stayed.keys() - {BROKEN_LINE} else self._new_settings()
        done = _Done(counts, stayed, merged.gone, changed, settings)
        if changed or settings:
            self._write(merged, staying(raw), done)
        return done

    def _new_settings(self) -> dict[str, str]:
        """Today's, where they are others than noted and would have made `clean` what it is."""
        today, clean = settings_notes(self._pipeline), self._tables["clean"]
        noted = {key: clean.last_note(key) for key in today}
        only_rules = noted[BUT_RULES] == today[BUT_RULES] and noted != today
        if not only_rules or self._base.counts["dropped"]:
            return {}
        return today if all_pass(self._base.clean.dataframe(self._spark), self._pipeline) else {}

    def _require_same_types(self, typed: DataFrame) -> None:
        """Beside rows of another type Spark would widen the column in silence."""
        schema = self._base.clean.schema
        there = [schema.field(name) for name in typed.columns if name in schema.names]
        require_same(from_spark(typed.schema), pa.schema(there), "table clean")

    def _write(self, merged: Merged, left: DataFrame, done: _Done) -> None:
        bad = merged.bad.unionByName(left) if done.stayed else merged.bad
        create_tables(self._pipeline, self._tables, clean=merged.good, quarantine=bad)
        hidden = hidden_columns(self._pipeline, merged.good)
        TableJudge.before_writing(
            merged.new, self._pipeline, self._tables, self._now, present=merged.staying
        ).of_keys()
        with (
            self._tables["quarantine"].attempt() as reject,
            self._tables["clean"].attempt(hidden) as accept,
        ):
            bad_files, good_files = reject.write(bad), accept.write(merged.good)
            self._require_exact(merged, done, good=good_files, bad=bad_files)
            transaction = self._base.next(self._tables)
            totals = json.dumps(self._totals(done, left))
            # The first commit notes these files: from here on no error may remove them.
            reject.may_be_committed = True
            replaced = {(period,) for period in merged.periods}
            try:
                commit(
                    self._tables["clean"],
                    good_files,
                    attempt=accept,
                    transaction=transaction,
                    since=self._base.since,
                    replace=replaced or None,
                    elsewhere=True,
                    notes={
                        COUNTS: totals,
                        WITHOUT_BOUNDS: json.dumps(hidden),
                        **done.settings,
                        **pending_note(transaction, bad_files),
                    },
                )
            except (CommitConflictError, CommitRefusedError):
                reject.may_be_committed = False  # it did not land
                raise
            commit_quarantine(
                self._tables["quarantine"], bad_files, transaction, self._base.generation, totals
            )
        self._measure(done, transaction)

    def _require_exact(
        self,
        merged: Merged,
        done: _Done,
        *,
        good: Sequence[DataFile],
        bad: Sequence[DataFile],
    ) -> None:
        """Every row is somewhere: in what was written, less what was there before."""
        period = self._pipeline.clean.period.column
        staying = self._base.clean.select(**{period: merged.periods}).rows - merged.gone
        stayed = done.stayed.total()
        written = {
            "clean": sum(file.rows for file in good) - staying,
            "quarantine": sum(file.rows for file in bad) - merged.gone - stayed,
        }
        by_log = self._base.quarantine.rows - stayed
        require_exact(done.counts, written, by_log, "replay of quarantine")

    def _totals(self, done: _Done, left: DataFrame) -> dict[str, int]:
        """The counts of all that was read from raw files, so that they stand for the tables."""
        now = count_notes(done.counts)
        before = self._base.counts
        totals = Counter({k: n for k, n in before.items() if not k.startswith("quarantine ")})
        totals.update({k: n for k, n in now.items() if k not in ("raw", "quarantine")})
        totals["quarantine"] = done.counts.quarantined + done.stayed.total() + done.gone
        totals["clean"] -= done.gone
        if done.stayed:
            reasons = left.select(F.explode("reasons").alias("reason")).groupBy("reason").count()
            # Reasons and their counts, no rows.
            totals.update({f"quarantine {row[0]}": row[1] for row in reasons.collect()})
        if done.gone:
            totals[f"quarantine {DUPLICATE}"] += done.gone
        return dict(totals)

    def _measure(self, done: _Done, transaction: Transaction) -> None:
        """Adds the counts to `quality`; a process killed just before leaves them out."""
        run = f"{transaction.app}/{transaction.number}"
        rows = quality_rows(done.counts, {}, run, self._now)
        with self._tables["quality"].attempt() as attempt:
            measured = attempt.write_arrow(rows)
            commit(self._tables["quality"], measured, attempt=attempt, transaction=transaction)
