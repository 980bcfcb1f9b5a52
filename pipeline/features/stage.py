"""The stage `featurize`: fits the spec on the train split, applies it to every row of `clean`."""

from __future__ import annotations

import json
import time

from pyspark.sql import Column, DataFrame, Observation, SparkSession
from pyspark.sql import functions as F

from pipeline.config import Pipeline
from pipeline.errors import CountError, SpecError
from pipeline.features.catalogue import fitted_spec, record
from pipeline.features.derive import require_no_leakage_in_clean
from pipeline.features.fit import fit
from pipeline.features.label import bad_labels, is_bad_label
from pipeline.features.layout import writer_options
from pipeline.features.spec import FeatureSpec, Picture
from pipeline.features.transform import (
    ABSENT,
    REST,
    SPLIT,
    TEST,
    TRAIN,
    UNLABELLED,
    VALIDATION,
    features,
    prepared,
)
from pipeline.lake import (
    COUNTS,
    ROWS_PER_ROW_GROUP,
    RUN,
    DataFile,
    Lake,
    Snapshot,
    Table,
    Transaction,
    commit,
    fingerprint,
)
from pipeline.lake.schema import from_spark
from pipeline.outcome import Outcome

SPEC_HASH = "lakestorm.spec_hash"
CLEAN_VERSION = "lakestorm.clean_version"


def featurize(spark: SparkSession, pipeline: Pipeline, lake: Lake) -> tuple[Outcome, FeatureSpec]:
    """Fits the spec, unless this version of `clean` has one, and writes its table.

    Returns:
        What was done, and the spec.

    Raises:
        LakestormError: `clean` is not there, or the description does not fit it.
    """
    started = time.monotonic()
    lake.require_writable()
    clean = lake.table("clean").snapshot()
    require_no_leakage_in_clean(spark, pipeline, clean)
    settings = pipeline.features.model_dump(mode="json", exclude={"rows_per_row_group"})
    run = fingerprint(clean_version=clean.version, clean=clean.root, settings=settings)
    spec = fitted_spec(lake, pipeline.name, run)
    if spec is None:
        rows = prepared(clean.dataframe(spark), pipeline.features)
        train = rows.where(F.col(SPLIT) == TRAIN)
        fitted = fit(train, pipeline.features, pipeline.name, pipeline.clean.period.column)
        spec = record(lake, fitted, run, clean.version)
    table, unchanged = ensure_features(spark, pipeline, lake, spec, clean)
    return _outcome(table, clean, time.monotonic() - started, unchanged=unchanged), spec


def ensure_features(
    spark: SparkSession, pipeline: Pipeline, lake: Lake, spec: FeatureSpec, clean: Snapshot
) -> tuple[Table, bool]:
    """Brings the table of a spec, the newest or a champion's, to a version of `clean`.

    Returns:
        The table, and whether it was there already.
    """
    table = lake.table(spec.table)
    run = fingerprint(
        spec=spec.hash,
        clean_version=clean.version,
        rows_per_row_group=pipeline.features.rows_per_row_group,
    )
    if table.exists and table.last_note(RUN) == run:
        return table, True
    _require_columns(clean, spec)
    observation = Observation()
    rows = _observed(prepared(clean.dataframe(spark), spec), spec, observation)
    # Sorted: Spark wants it by partition anyway, and equal rows then give equal files.
    frame = features(rows, spec).sortWithinPartitions(SPLIT, spec.period_column, *spec.keys)
    table.create(from_spark(frame.schema), (SPLIT, spec.period_column), f"features {spec.hash}")
    app = f"featurize/{spec.hash}"
    transaction = Transaction(app, (table.transaction_version(app) or 0) + 1)
    with table.attempt() as attempt:
        options = writer_options(spec, pipeline.features.rows_per_row_group)
        files = attempt.write(frame, options)
        # Without any row, nothing may have passed by the observer.
        counts = {name: n for name, n in observation.get.items() if n} if clean.rows else {}
        _require_sound(counts, files, clean, spec)
        notes = {
            RUN: run,
            SPEC_HASH: spec.hash,
            CLEAN_VERSION: str(clean.version),
            ROWS_PER_ROW_GROUP: str(pipeline.features.rows_per_row_group),
            COUNTS: json.dumps({n: c for n, c in counts.items() if n != "rows"}),
        }
        if not commit(table, files, transaction=transaction, replace="all", notes=notes).landed:
            attempt.discard()
    return table, False


def _observed(rows: DataFrame, spec: FeatureSpec, observation: Observation) -> DataFrame:
    measures = [
        F.count(F.lit(1)).alias("rows"),
        F.count_if(is_bad_label(spec.label)).alias("bad labels"),
        *(F.count_if(_is_bad_image(p)).alias(f"bad images {p.column}") for p in spec.images),
    ]
    splits = (TRAIN, VALIDATION, TEST, UNLABELLED, REST)
    reasons = (*spec.label.absent, "unknown")
    return rows.observe(
        observation,
        *measures,
        *(F.count_if(F.col(SPLIT) == split).alias(split) for split in splits),
        *(F.count_if(F.col(ABSENT) == why).alias(f"unlabelled {why}") for why in reasons),
    )


def _is_bad_image(picture: Picture) -> Column:
    """Whether it is null, or of another length than a batch of images needs."""
    image = F.col(picture.column)
    missing = image.isNull()
    return missing if picture.bytes is None else missing | (F.length(image) != picture.bytes)


def _require_columns(clean: Snapshot, spec: FeatureSpec) -> None:
    needed = (*spec.keys, spec.period_column, *spec.leakage)
    missing = [name for name in needed if name not in clean.schema.names]
    if missing:
        raise SpecError(
            f"table clean, column {missing[0]}",
            f"is missing, and feature spec {spec.hash} needs it",
            "Run clean with the description that this spec was fitted under, or fit a new one.",
        )


def _require_sound(
    counts: dict[str, int], files: list[DataFile], clean: Snapshot, spec: FeatureSpec
) -> None:
    written = sum(file.rows for file in files)
    if not written == counts.get("rows", 0) == clean.rows:
        raise CountError(
            "stage featurize",
            f"clean has {clean.rows} rows, read {counts.get('rows', 0)}, written {written}",
            "Nothing was committed; run again, and report it if it comes back.",
        )
    if counts.get("bad labels"):
        raise bad_labels(spec.label, counts["bad labels"])
    for picture in spec.images:
        if bad := counts.get(f"bad images {picture.column}"):
            raise _bad_images(picture, bad, written)


def _bad_images(picture: Picture, bad: int, rows: int) -> SpecError:
    column, shape = picture.column, " x ".join(str(side) for side in picture.shape)
    rule, problem = f"{column} IS NOT NULL", "null"
    if picture.bytes is not None:
        rule, problem = (
            f"length({column}) = {picture.bytes}",
            f"not {picture.bytes} bytes ({shape})",
        )
    return SpecError(
        f"features.images.{column}",
        f"is {problem} in {bad} of {rows} rows",
        f"Nothing was committed; correct the shape, or write a rule under clean.rules: {rule}.",
    )


def _outcome(table: Table, clean: Snapshot, seconds: float, *, unchanged: bool) -> Outcome:
    snapshot = table.snapshot()
    return Outcome(
        stage="featurize",
        table=table.name,
        version=snapshot.version,
        rows_in=clean.rows,
        rows_out=snapshot.rows,
        seconds=seconds,
        unchanged=unchanged,
        counts=json.loads(table.last_note(COUNTS) or "{}"),
    )
