"""The stage `featurize`: fits the spec on the train split, applies it to every row of `clean`."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from functools import partial
from typing import Any

from pyspark.sql import Column, DataFrame, Observation, SparkSession
from pyspark.sql import functions as F

from pipeline.config import Pipeline
from pipeline.errors import CountError, SpecError
from pipeline.features.affected import with_later_rows
from pipeline.features.catalogue import fitted_spec, local_of, record, record_local
from pipeline.features.derive import require_no_leakage_in_clean
from pipeline.features.fit import fit
from pipeline.features.kinds import Fitted
from pipeline.features.kinds.kind import with_example
from pipeline.features.label import bad_labels, is_bad_label
from pipeline.features.layout import LAYOUT_SETTINGS, writer_options
from pipeline.features.overlap import (
    OVERLAPS,
    Overlap,
    from_note,
    overlaps,
    require_none,
    to_note,
    watched_columns,
)
from pipeline.features.prepared import (
    ABSENT,
    REST,
    SPLIT,
    TEST,
    TRAIN,
    UNLABELLED,
    VALIDATION,
    prepared,
)
from pipeline.features.proof import proven
from pipeline.features.spec import FeatureSpec
from pipeline.features.strata import with_fitted_strata
from pipeline.features.transform import WordsOf, features
from pipeline.features.vocabularies import Vocabularies, words_of
from pipeline.features.weight import BAD_WEIGHTS, bad_weights, is_bad_weight
from pipeline.lake import (
    COUNTS,
    ROWS_PER_ROW_GROUP,
    RUN,
    Backlog,
    DataFile,
    Lake,
    Snapshot,
    Table,
    backlog,
    commit,
    data_version,
    fingerprint,
)
from pipeline.lake.schema import from_spark
from pipeline.outcome import Outcome

SPEC_HASH = "lakestorm.spec_hash"
CLEAN_VERSION = "lakestorm.clean_version"
WATCHED = {"entities"}
"""Of `Features`: what is counted. It is no reason for another fit, but to count anew."""


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
    pipeline = pipeline.model_copy(
        update={"features": pipeline.features.expanded(clean.schema.names)}
    )
    require_no_leakage_in_clean(spark, pipeline, clean)
    settings = pipeline.features.model_dump(mode="json", exclude=LAYOUT_SETTINGS | WATCHED)
    # Upkeep moves rows to other files: that is no reason for another fit.
    version = data_version(lake.table("clean"), clean.version)
    run = fingerprint(clean_version=version, clean=clean.folder.root, settings=settings)
    spec = fitted_spec(lake, pipeline.name, run)
    if spec is None:
        described = with_fitted_strata(clean.dataframe(spark), pipeline.features)
        rows = prepared(clean.dataframe(spark), described)
        train = rows.where(F.col(SPLIT) == TRAIN)
        fitted = fit(
            train,
            described,
            pipeline.name,
            pipeline.clean.period.column,
            Vocabularies(lake, run),
        )
        spec = record(lake, fitted, run, clean.version)
    table, unchanged = ensure_features(spark, pipeline, lake, spec, clean)
    if local_of(lake, spec) is None:
        record_local(
            lake,
            spec,
            proven(clean.dataframe(spark), clean.rows, spec, lake, pipeline.is_sensitive_feature),
        )
    return _outcome(table, clean, time.monotonic() - started, unchanged=unchanged), spec


def follow(spark: SparkSession, pipeline: Pipeline, lake: Lake, spec: FeatureSpec) -> Outcome:
    """Brings the table of a spec to the present `clean`, without fitting another.

    Raises:
        LakestormError: `clean` is not there, or is not what the spec was fitted on.
    """
    started = time.monotonic()
    lake.require_writable()
    clean = lake.table("clean").snapshot()
    table, unchanged = ensure_features(spark, pipeline, lake, spec, clean)
    return _outcome(table, clean, time.monotonic() - started, unchanged=unchanged)


def ensure_features(
    spark: SparkSession, pipeline: Pipeline, lake: Lake, spec: FeatureSpec, clean: Snapshot
) -> tuple[Table, bool]:
    """Brings the table of a spec, the newest or a champion's, to a version of `clean`.

    Only rows that came since are read, and the periods of which rows were taken away; where there
    are histories, also the periods of later rows of the same entities, and all earlier events.

    Returns:
        The table, and whether it was there already.
    """
    table = lake.table(spec.table)
    written_as = fingerprint(
        spec=spec.hash, **pipeline.features.model_dump(include=LAYOUT_SETTINGS | WATCHED)
    )
    app = f"features/{spec.hash}"
    todo = backlog(app, table, lake.table("clean"), clean, spec.period_column)
    if table.last_note(RUN) not in (None, written_as):
        todo = todo.anew(clean, "all")
    if todo.done:
        return table, True
    _require_columns(clean, spec)
    find = partial(words_of, spark, lake)
    found = _overlaps(spark, pipeline, spec, clean)
    notes = {RUN: written_as, OVERLAPS: to_note(found)}
    todo, context = with_later_rows(spark, todo, clean, spec)
    _write(
        spark, pipeline, spec=spec, table=table, todo=todo, context=context, notes=notes, find=find
    )
    return table, False


def _overlaps(
    spark: SparkSession, pipeline: Pipeline, spec: FeatureSpec, clean: Snapshot
) -> tuple[Overlap, ...]:
    """Counts entities in several splits of the whole `clean`, not of new rows only.

    Raises:
        CountError: There are some, though the splits are by group.
    """
    columns = watched_columns(spec.splits, pipeline.features.entities)
    if not columns or not clean.rows:
        return ()
    rows = prepared(clean.dataframe(spark), spec)
    # The spec of a champion may derive other columns than the description does by now.
    found = overlaps(rows, [name for name in columns if name in rows.columns])
    require_none(found, spec.splits)
    return found


def _write(
    spark: SparkSession,
    pipeline: Pipeline,
    *,
    spec: FeatureSpec,
    table: Table,
    todo: Backlog,
    context: DataFrame | None,
    notes: dict[str, str],
    find: WordsOf,
) -> None:
    """Makes features of the backlog's rows, and commits them."""
    observation = Observation()
    rows = _observed(prepared(todo.rows.dataframe(spark), spec, context), spec, observation)
    # Sorted: Spark wants it by partition anyway, and equal rows then give equal files.
    told = _tells_missing(table, spec)
    frame = features(rows, spec, with_missing=told, words_of=find)
    frame = frame.sortWithinPartitions(SPLIT, spec.period_column, *spec.keys)
    table.create(from_spark(frame.schema), (SPLIT, spec.period_column), f"features {spec.hash}")
    with table.attempt() as attempt:
        options = writer_options(spec, pipeline.features)
        files = attempt.write(frame, options)
        # Without any row, nothing may have passed by the observer.
        found = {name: n for name, n in observation.get.items() if n} if todo.rows.rows else {}
        _require_sound(found, files, todo.rows, spec)
        counts = {name: n for name, n in found.items() if not isinstance(n, str)}
        written = {tuple(file.partition.values()) for file in files}
        commit(
            table,
            files,
            attempt=attempt,
            transaction=todo.transaction,
            since=todo.since,
            replace=todo.partitions(table.snapshot(), written, spec.period_column),
            notes={
                **notes,
                SPEC_HASH: spec.hash,
                CLEAN_VERSION: str(todo.rows.version),
                ROWS_PER_ROW_GROUP: str(pipeline.features.rows_per_row_group),
                COUNTS: json.dumps({n: c for n, c in counts.items() if n != "rows"}),
            },
        )


def _tells_missing(table: Table, spec: FeatureSpec) -> bool:
    """Whether the table has columns for what was missing; an older one goes on without."""
    return not table.exists or {*spec.missing_columns} <= {*table.snapshot().schema.names}


def _observed(rows: DataFrame, spec: FeatureSpec, observation: Observation) -> DataFrame:
    measures = [
        F.count(F.lit(1)).alias("rows"),
        F.count_if(is_bad_label(spec.label)).alias("bad labels"),
        *(F.count_if(is_bad_weight()).alias(BAD_WEIGHTS) for _ in spec.weight_columns),
        *(F.count_if(bad).alias(_bad_rows_of(part)) for part, bad in _checks(spec)),
        *(F.min(fault).alias(_fault_of(part)) for part, fault in _faults(spec)),
    ]
    splits = (TRAIN, VALIDATION, TEST, UNLABELLED, REST)
    reasons = (*spec.label.absent, "unknown")
    return rows.observe(
        observation,
        *measures,
        *(F.count_if(F.col(SPLIT) == split).alias(split) for split in splits),
        *(F.count_if(F.col(ABSENT) == why).alias(f"unlabelled {why}") for why in reasons),
    )


def _checks(spec: FeatureSpec) -> list[tuple[Fitted, Column]]:
    """The parts that cannot be made of every row, and whether they cannot."""
    return [(part, bad) for part in spec.parts if (bad := part.is_bad()) is not None]


def _bad_rows_of(part: Fitted) -> str:
    return f"bad {part.kind} {part.column}"


def _faults(spec: FeatureSpec) -> list[tuple[Fitted, Column]]:
    """The parts that tell what is wrong with a row, and what it is."""
    return [(part, fault) for part in spec.parts if (fault := part.fault()) is not None]


def _fault_of(part: Fitted) -> str:
    return f"fault of {part.kind} {part.column}"


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
    counts: Mapping[str, Any], files: list[DataFile], clean: Snapshot, spec: FeatureSpec
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
    if counts.get(BAD_WEIGHTS):
        raise bad_weights(spec.weight, counts[BAD_WEIGHTS])
    for part, _ in _checks(spec):
        if bad := counts.get(_bad_rows_of(part)):
            raise with_example(part.bad_rows(bad, written), counts.get(_fault_of(part)))


def _outcome(table: Table, clean: Snapshot, seconds: float, *, unchanged: bool) -> Outcome:
    snapshot = table.snapshot()
    counts = _counts(table, snapshot)
    found = from_note(table.last_note(OVERLAPS))
    return Outcome(
        stage="featurize",
        table=table.name,
        version=snapshot.version,
        rows_in=clean.rows,
        rows_out=snapshot.rows,
        seconds=seconds,
        unchanged=unchanged,
        counts=counts | {name: n for overlap in found for name, n in overlap.counts.items()},
        note="; ".join((*_empty_splits(counts), *(o.sentence for o in found if o.entities))),
    )


def _empty_splits(counts: dict[str, int]) -> list[str]:
    """Sentences on splits that have no row; without a row to train on, nothing was fitted."""
    empty = [split for split in (VALIDATION, TEST) if not counts.get(split)]
    return [f"no labelled row is in the split {split}" for split in empty]


def _counts(table: Table, features: Snapshot) -> dict[str, int]:
    """Rows by split of the whole table; why rows had no label, of those that came last."""
    noted: dict[str, int] = json.loads(table.last_note(COUNTS) or "{}")
    splits = {
        split: features.select(**{SPLIT: {split}}).rows for split in features.partitions(SPLIT)
    }
    named = {str(split): rows for split, rows in splits.items()}
    return {**noted, **named}
