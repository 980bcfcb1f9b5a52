"""The stage `score`: what registered models have not scored yet, scored and committed.

Tasks read row groups, run the networks and write Parquet by themselves; Spark spreads and retries
them. The driver commits all files of a model at once, and how far a model is, is known by its
commits alone. What came by is compared with the model's training data, and recorded, before
anything is committed: see docs/drift.md.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import groupby

import pyarrow as pa
from py4j.protocol import Py4JJavaError
from pyspark.errors import PySparkException
from pyspark.sql import SparkSession

from pipeline.config import Pipeline
from pipeline.errors import CountError, ModelError, ScoringError
from pipeline.features.stage import SPEC_HASH, ensure_features
from pipeline.lake import Attempt, Backlog, DataFile, Lake, Snapshot, Table, backlog, commit
from pipeline.outcome import Outcome
from pipeline.scoring.drift import Measurement, measured, refuse
from pipeline.scoring.drift_table import NEW, Pass, record
from pipeline.scoring.models import Scorer, scorers
from pipeline.scoring.periods import Span, periods_of
from pipeline.scoring.plan import ScoreTask, plan_tasks
from pipeline.scoring.reached import PREDICTIONS, scoring_app
from pipeline.scoring.task import Job, Scored, Target, pack, prediction_columns, score_tasks
from pipeline.training.bundle import Bundle
from pipeline.training.histograms import total
from pipeline.training.job import custom_class
from pipeline.training.measure import missing_of

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Work:
    """What one model has to score."""

    scorer: Scorer
    todo: Backlog
    scope: str = NEW
    """Which rows these are, for the table `drift`."""


@dataclass(frozen=True)
class _Done:
    """What one pass did."""

    rows: int = 0
    """Predictions that landed."""
    drifted: tuple[str, ...] = ()
    """Models and features whose verdict is not good."""


def score(
    spark: SparkSession,
    pipeline: Pipeline,
    lake: Lake,
    *,
    models: Sequence[str] = (),
    span: Span | None = None,
) -> Outcome:
    """Scores the rows that came since a model scored last, or again those of some periods.

    Args:
        spark: The session whose executors do the work.
        pipeline: Names the model and its shadows.
        lake: Holds `clean`, the models' features and `predictions`.
        models: Others instead: `NAME@VERSION`, versions or aliases.
        span: Periods to score again, whatever there is, after all that is new; other partitions of
            `predictions` are left as they are.

    Returns:
        Rows of the features and of the models' predictions now; `counts` has the rows scored, and
        where there are any the features and scores that drifted.

    Raises:
        DriftError: The rows are so unlike those of a training that the thresholds forbid it.
        LakestormError: No such model, no such table, or rows that cannot be scored; of what
            failed nothing is committed then.
    """
    started = time.monotonic()
    lake.require_writable()
    chosen = scorers(lake, pipeline, models)
    clean = lake.table("clean").snapshot()
    table = lake.table(PREDICTIONS)
    rows_in = 0
    done: list[_Done] = []
    for _, same_spec in groupby(
        sorted(chosen, key=lambda one: one.bundle.spec.hash), key=lambda one: one.bundle.spec.hash
    ):
        group = list(same_spec)
        source, _ = ensure_features(spark, pipeline, lake, group[0].bundle.spec, clean)
        features = source.snapshot()
        rows_in += features.rows * len(group)
        done += _score_spec(spark, pipeline, group, source=source, features=features, lake=lake)
        if span is not None:
            done.append(_score_again(spark, pipeline, group, source=source, lake=lake, span=span))
    scored = sum(each.rows for each in done)
    drifted = [told for each in done for told in each.drifted]
    present = table.snapshot()
    return Outcome(
        stage="score",
        table=PREDICTIONS,
        version=present.version,
        rows_in=rows_in,
        rows_out=sum(present.select(**scorer.own).rows for scorer in chosen),
        seconds=time.monotonic() - started,
        unchanged=not scored,
        counts={"scored": scored, **({"drifted": len(drifted)} if drifted else {})},
        note=_note(chosen, drifted, scored),
    )


def predictions_schema(features: Snapshot, bundle: Bundle) -> pa.Schema:
    """Columns of `predictions`: keys, what the model says, provenance, partition columns."""
    spec = bundle.spec
    return pa.schema(
        [
            *(features.schema.field(key) for key in spec.keys),
            *prediction_columns(bundle.facts.task).items(),
            ("spec_hash", pa.string()),
            ("source_version", pa.int64()),
            ("scored_at", pa.timestamp("us", tz="UTC")),
            ("model_name", pa.string()),
            ("model_version", pa.int64()),
            (spec.period_column, pa.string()),
        ]
    )


def require_own_spec(table: Table, bundle: Bundle) -> None:
    """Refuses features of another spec than the model was trained with.

    Raises:
        ModelError: The table's commit notes another spec's hash.
    """
    noted = table.last_note(SPEC_HASH)
    if noted != bundle.facts.spec_hash:
        raise ModelError(
            f"table {table.name}",
            f"holds features of spec {noted}, the model was trained with {bundle.facts.spec_hash}",
            "Score features of the model's own spec, or train a model on this one.",
        )


def _note(chosen: Sequence[Scorer], drifted: Sequence[str], scored: int) -> str:
    """Which models, and what there is to know of them."""
    note = ", ".join(scorer.reference for scorer in chosen)
    if not scored:
        return f"{note}, scored before: nothing to commit"
    blind = [scorer.reference for scorer in chosen if scorer.bundle.reference is None]
    if blind:
        note += f"; no drift is measured for {', '.join(blind)}: trained before it was"
    return f"{note}; drift: {', '.join(drifted)}" if drifted else note


def _score_spec(
    spark: SparkSession,
    pipeline: Pipeline,
    group: Sequence[Scorer],
    *,
    source: Table,
    features: Snapshot,
    lake: Lake,
) -> list[_Done]:
    """Scores what models of one spec lack; those that lack the same in one pass over the data."""
    table = lake.table(PREDICTIONS)
    for scorer in group:
        require_own_spec(source, scorer.bundle)
        table.create(
            predictions_schema(features, scorer.bundle),
            ("model_name", "model_version", scorer.bundle.spec.period_column),
            "scores, one row a key and model version",
        )
    lacking = _lacking(group, source=source, features=features, table=table)
    return [_write(spark, pipeline, works, lake) for works in _passes(lacking)]


def _lacking(
    group: Sequence[Scorer], *, source: Table, features: Snapshot, table: Table
) -> list[_Work]:
    works = [
        _Work(
            scorer,
            backlog(
                scoring_app(scorer.name, scorer.version),
                table,
                source,
                features,
                scorer.bundle.spec.period_column,
            ),
        )
        for scorer in group
    ]
    return [work for work in works if not work.todo.done]


def _passes(works: Sequence[_Work]) -> Iterator[list[_Work]]:
    """The models in groups that read the same files."""

    def files(work: _Work) -> list[str]:
        return [file.path for file in work.todo.rows.files]

    for _, same in groupby(sorted(works, key=files), key=files):
        yield list(same)


def _score_again(
    spark: SparkSession,
    pipeline: Pipeline,
    group: Sequence[Scorer],
    *,
    source: Table,
    lake: Lake,
    span: Span,
) -> _Done:
    """Replaces the predictions of some periods, at the version that all others are of."""
    table = lake.table(PREDICTIONS)
    column = group[0].bundle.spec.period_column
    features = source.snapshot()
    periods = periods_of(span, features.partitions(column), f"table {source.name}")
    rows = features.select(**{column: periods})
    works = []
    for scorer in group:
        todo = backlog(scoring_app(scorer.name, scorer.version), table, source, features, column)
        works.append(_Work(scorer, todo.anew(rows, periods), _scope(periods)))
    return _write(spark, pipeline, works, lake)


def _scope(periods: set[str | None]) -> str:
    """Periods that follow each other, by the first and the last."""
    named = sorted(period for period in periods if period is not None)
    return f"{named[0]} to {named[-1]}"


def _write(spark: SparkSession, pipeline: Pipeline, works: Sequence[_Work], lake: Lake) -> _Done:
    """One pass over rows for models that lack the same, and a commit for each."""
    spec, rows = works[0].scorer.bundle.spec, works[0].todo.rows
    table, now = lake.table(PREDICTIONS), datetime.now(UTC)
    with ExitStack() as stack:
        attempts = [stack.enter_context(table.attempt()) for _ in works]
        job = Job(
            targets=tuple(
                Target(pack(work.scorer), attempt.folder)
                for work, attempt in zip(works, attempts, strict=True)
            ),
            source_version=rows.version,
            scored_at_us=int(now.timestamp() * 1_000_000),
            table=table.folder,
            schema=attempts[0].schema,
            partition_by=attempts[0].partition_by,
            period_column=spec.period_column,
            custom=custom_class(pipeline),
            kinds=pipeline.features.kinds,
            missing=missing_of(spec, rows),
        )
        scored = _run(spark, job, plan_tasks(rows, spec.period_column))
        drifted = _measure(pipeline, works, scored, lake, now)
        files = [file for each in scored for file in each.files]
        landed = sum(
            _commit(work, table, attempt, files)
            for work, attempt in zip(works, attempts, strict=True)
        )
        return _Done(landed, drifted)


def _measure(
    pipeline: Pipeline,
    works: Sequence[_Work],
    scored: Sequence[Scored],
    lake: Lake,
    now: datetime,
) -> tuple[str, ...]:
    """Records the drift of a pass, model by model; what drifted.

    Raises:
        DriftError: The thresholds forbid to publish; all is recorded before.
    """
    if not scored:
        return ()
    inputs = total([each.inputs for each in scored])
    found: dict[str, list[Measurement]] = {}
    for place, work in enumerate(works):
        scorer, bundle = work.scorer, work.scorer.bundle
        if bundle.reference is None:
            continue
        scores = total([each.scores[place] for each in scored])
        settings = pipeline.score.drift
        rows = measured(bundle.spec, bundle.reference, inputs, scores, settings)
        of = Pass(
            model_name=scorer.name,
            model_version=scorer.version,
            source_version=work.todo.rows.version,
            scope=work.scope,
        )
        record(lake, of, [row.facts() for row in rows], now)
        found[scorer.reference] = [row for row in rows if row.verdict in ("warn", "fail")]
        for row in found[scorer.reference]:
            log.warning("%s, %s %s: %s", scorer.reference, row.kind, row.feature, row.reason)
    for work in works:
        if not work.scorer.is_shadow:  # those decide nothing
            refuse(work.scorer.reference, found.get(work.scorer.reference, []))
    return tuple(
        f"{row.feature} of {reference}" for reference, rows in found.items() for row in rows
    )


def _commit(work: _Work, table: Table, attempt: Attempt, files: Sequence[DataFile]) -> int:
    """Commits the files of one model; the rows of it that landed."""
    scorer, todo = work.scorer, work.todo
    own = [file for file in files if file.path.startswith(f"{attempt.folder}/")]
    written = sum(file.rows for file in own)
    if written != todo.rows.rows:
        raise CountError(
            "stage score",
            f"{todo.rows.rows} rows for {scorer.reference} to score, {written} scored",
            "Nothing was committed; run again, and report it if it comes back.",
        )
    present = table.snapshot().select(**scorer.own)
    partitions = {tuple(file.partition.values()) for file in own}
    done = commit(
        table,
        own,
        attempt=attempt,
        transaction=todo.transaction,
        since=todo.since,
        replace=todo.partitions(present, partitions, scorer.bundle.spec.period_column),
    )
    return written if done.landed else 0


def _run(spark: SparkSession, job: Job, tasks: list[ScoreTask]) -> list[Scored]:
    """Runs the tasks on the executors; what comes back is a message a task, no rows."""
    if not tasks:
        return []
    context = spark.sparkContext
    shared = context.broadcast(job)
    try:
        paths = context.parallelize(tasks, len(tasks))
        return paths.mapPartitions(lambda some: score_tasks(shared.value, iter(some))).collect()
    except (Py4JJavaError, PySparkException) as error:
        raise _translated(error) from error
    finally:
        shared.destroy()


def _translated(error: Exception) -> ScoringError:
    """The task's own error out of Spark's report of it."""
    told = re.findall(r"pipeline\.errors\.\w+: (.+)", str(error))
    if told:
        where, _, problem = told[-1].partition(": ")
        return ScoringError(where, problem, "Nothing was committed.")
    return ScoringError(
        "Spark", str(error).strip().splitlines()[0], "See Spark's log; nothing was committed."
    )
