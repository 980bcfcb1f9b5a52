"""Judged rows, an increment's or replayed ones, beside the rows that `clean` holds already."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from pyspark import StorageLevel
from pyspark.sql import DataFrame, Observation, SparkSession

from pipeline.clean.contract import carried
from pipeline.clean.frames import accepted, arranged, rejected
from pipeline.clean.quality import observed_verdicts
from pipeline.clean.sensitive import Redaction
from pipeline.clean.stage import profiled
from pipeline.clean.supersede import against, corrected, corrections, quarantined, remaining
from pipeline.clean.table_rules import Rights, with_table_rules
from pipeline.clean.verdict import once_counted
from pipeline.config import Pipeline
from pipeline.lake import Snapshot
from pipeline.sources.format import Rows


@dataclass
class Merged:
    """The rows to be written, lazily, and what is known of them."""

    rows: DataFrame
    """The judged rows, stored on disk: several tables come from one pass."""
    new: DataFrame
    """The accepted ones."""
    staying: DataFrame | None
    """Rows of `clean` that they do not correct; None where there are none."""
    good: DataFrame
    bad: DataFrame
    of_rows: Observation
    of_columns: Observation
    periods: set[str | None] = field(default_factory=set)
    """Periods of `clean` that are written again."""
    gone: int = 0
    """Rows of `clean` that the new ones correct."""


def merge(
    spark: SparkSession,
    pipeline: Pipeline,
    judged: DataFrame,
    *,
    before: Snapshot | None,
    rights: Mapping[str, Rows],
    redaction: Redaction,
    kept: list[DataFrame],
) -> Merged:
    """Judges rows by those that are there, and takes corrected ones out of `clean`.

    Args:
        spark: The session.
        pipeline: The description.
        judged: Rows with their verdict; no two accepted ones have the same key.
        before: `clean` as it is; None where nothing of it stays.
        rights: The raw rows of each right side.
        redaction: What quarantine does not show.
        kept: Gets the frames that the caller unpersists when all is written.
    """
    of_rows, of_columns = Observation(), Observation()
    settings = pipeline.clean
    present = before.dataframe(spark) if before is not None and before.files else None
    dedupe = settings.dedupe if present is not None else None
    staying = present
    if present is not None and dedupe is not None:
        judged = against(judged, present, dedupe)
        staying = remaining(judged, present, dedupe)
    sides = Rights(spark, pipeline, rights)
    judged = with_table_rules(judged, sides, staying)
    takes_out = any(rule.takes_rows_out for rule in settings.table_rules.values())
    if present is not None and dedupe is not None and takes_out:
        # A row that would have corrected one may be out: then that one stays, and has rivals.
        judged = with_table_rules(judged, sides, remaining(judged, present, dedupe))
    judged = observed_verdicts(
        judged, pipeline.source.columns, settings.rules, of_rows, settings.table_rules
    )
    rows = _keep(once_counted(judged), kept)
    new = accepted(spark, pipeline, rows, rights)
    merged = Merged(
        rows=rows,
        new=new,
        staying=present,
        good=profiled(new, pipeline, of_columns),
        bad=rejected(rows, carried(pipeline), redaction),
        of_rows=of_rows,
        of_columns=of_columns,
    )
    if before is not None and present is not None and dedupe is not None:
        merged.gone = corrections(rows).count()
        if merged.gone:
            merged.staying = remaining(rows, present, dedupe)
            _correct(pipeline, merged, before, redaction, kept)
    merged.good = arranged(merged.good, pipeline)
    return merged


def _correct(
    pipeline: Pipeline,
    merged: Merged,
    before: Snapshot,
    redaction: Redaction,
    kept: list[DataFrame],
) -> None:
    """Takes corrected rows out of `clean`: their periods are written again."""
    dedupe = pipeline.clean.dedupe
    if dedupe is None:
        return
    spark, period = merged.rows.sparkSession, pipeline.clean.period.column
    gone = _keep(corrected(merged.rows, before.dataframe(spark), dedupe), kept)
    # The names of periods, no rows.
    merged.periods = {row[0] for row in gone.select(period).distinct().collect()}
    rejects = quarantined(gone, carried(pipeline), f"clean@{before.version}", redaction)
    merged.bad = merged.bad.unionByName(rejects)
    touched = before.select(**{period: merged.periods}).dataframe(spark)
    merged.good = merged.good.unionByName(remaining(merged.rows, touched, dedupe))


def _keep(frame: DataFrame, kept: list[DataFrame]) -> DataFrame:
    """Stores a frame on local disk, whatever the memory."""
    kept.append(frame.persist(StorageLevel.DISK_ONLY))
    return kept[-1]
