"""The stage `score`: the model's own features of the present `clean` rows, scored and committed.

Tasks read row groups, run the network and write Parquet by themselves; Spark spreads and retries
them. The driver commits all their files at once.
"""

from __future__ import annotations

import re
import time
from datetime import UTC, datetime

import pyarrow as pa
from py4j.protocol import Py4JJavaError
from pyspark.errors import PySparkException
from pyspark.sql import SparkSession

from pipeline.config import Pipeline
from pipeline.errors import CountError, ModelError, ScoringError
from pipeline.features.stage import SPEC_HASH, ensure_features
from pipeline.lake import DataFile, Lake, Snapshot, Table, Transaction, commit
from pipeline.outcome import Outcome
from pipeline.scoring.plan import ScoreTask, plan_tasks
from pipeline.scoring.task import Job, pack, prediction_columns, score_tasks
from pipeline.training.bundle import Bundle
from pipeline.training.job import custom_class
from pipeline.training.registry import load_registered

PREDICTIONS = "predictions"


def score(spark: SparkSession, pipeline: Pipeline, lake: Lake) -> Outcome:
    """Scores all rows of `clean` with a registered model, unless that was done before.

    Args:
        spark: The session whose executors do the work.
        pipeline: Names the model, by alias or version.
        lake: Holds `clean`, the model's features and `predictions`.

    Returns:
        Rows scored; unchanged where these rows have this model's predictions already.

    Raises:
        LakestormError: No such model, no such table, or rows that cannot be scored; nothing is
            committed then.
    """
    started = time.monotonic()
    lake.require_writable()
    bundle, version = load_registered(
        lake, pipeline.name, pipeline.score.model, custom_class(pipeline)
    )
    clean = lake.table("clean").snapshot()
    source, _ = ensure_features(spark, pipeline, lake, bundle.spec, clean)
    features = source.snapshot()
    require_own_spec(source, bundle)
    table = lake.table(PREDICTIONS)
    table.create(
        predictions_schema(features, bundle),
        ("model_name", "model_version", bundle.spec.period_column),
        "scores, one row a key and model version",
    )
    # The features' version is the transaction's number: what is scored is never scored again.
    app = f"score/{pipeline.name}@{version}/{bundle.spec.hash}"
    transaction = Transaction(app, features.version)
    done = (table.transaction_version(app) or -1) >= features.version
    if not done:
        _write(
            spark,
            pipeline,
            bundle=bundle,
            version=version,
            features=features,
            table=table,
            transaction=transaction,
        )
    scored = table.snapshot()
    own = scored.select(model_name={pipeline.name}, model_version={str(version)})
    return Outcome(
        stage="score",
        table=PREDICTIONS,
        version=scored.version,
        rows_in=features.rows,
        rows_out=own.rows,
        seconds=time.monotonic() - started,
        unchanged=done,
        note=f"{pipeline.name}@{version}" + (", scored before: nothing to commit" if done else ""),
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


def _write(
    spark: SparkSession,
    pipeline: Pipeline,
    *,
    bundle: Bundle,
    version: int,
    features: Snapshot,
    table: Table,
    transaction: Transaction,
) -> None:
    with table.attempt() as attempt:
        job = Job(
            model=pack(bundle),
            model_name=pipeline.name,
            model_version=version,
            source_version=features.version,
            scored_at_us=int(datetime.now(UTC).timestamp() * 1_000_000),
            table_root=table.root,
            attempt=attempt.folder,
            schema=attempt.schema,
            partition_by=attempt.partition_by,
            period_column=bundle.spec.period_column,
            custom=custom_class(pipeline),
        )
        files = _run(spark, job, plan_tasks(features, bundle.spec.period_column))
        written = sum(file.rows for file in files)
        if written != features.rows:
            raise CountError(
                "stage score",
                f"{features.rows} rows to score, {written} scored",
                "Nothing was committed; run again, and report it if it comes back.",
            )
        present = table.snapshot().select(model_name={pipeline.name}, model_version={str(version)})
        replaced = {tuple(file.partition.values()) for file in (*present.files, *files)}
        if not commit(table, files, transaction=transaction, replace=replaced).landed:
            attempt.discard()


def _run(spark: SparkSession, job: Job, tasks: list[ScoreTask]) -> list[DataFile]:
    """Runs the tasks on the executors; what comes back is a message a file, no rows."""
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
