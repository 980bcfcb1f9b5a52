"""Judged rows, an increment's or replayed ones, beside the rows that `clean` holds already."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from pyspark import StorageLevel
from pyspark.sql import DataFrame, Observation, SparkSession

from pipeline.clean.contract import carried
from pipeline.clean.frames import accepted, arranged, rejected
from pipeline.clean.quality import observed_columns, observed_verdicts
from pipeline.clean.supersede import against, corrected, corrections, quarantined, remaining
from pipeline.clean.verdict import once_counted
from pipeline.config import Dedupe, Pipeline
from pipeline.lake import Snapshot
from pipeline.sources.formats import Rows


@dataclass
class Merged:
    """The rows to be written, lazily, and what is known of them."""

    rows: DataFrame
    """The judged rows, stored on disk: several tables come from one pass."""
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
    kept: list[DataFrame],
) -> Merged:
    """Judges rows by those that are there, and takes corrected ones out of `clean`.

    Args:
        spark: The session.
        pipeline: The description.
        judged: Rows with their verdict; no two accepted ones have the same key.
        before: `clean` as it is; None where nothing of it stays.
        rights: The raw rows of each right side of a join.
        kept: Gets the frames that the caller unpersists when all is written.
    """
    of_rows, of_columns = Observation(), Observation()
    dedupe = pipeline.clean.dedupe if before is not None and before.files else None
    if before is not None and dedupe is not None:
        judged = against(judged, before.dataframe(spark), dedupe)
    judged = observed_verdicts(judged, pipeline.source.columns, pipeline.clean.rules, of_rows)
    rows = _keep(once_counted(judged, pipeline.clean.rules), kept)
    good = observed_columns(accepted(spark, pipeline, rows, rights), of_columns)
    bad = rejected(rows, carried(pipeline))
    merged = Merged(rows, good, bad, of_rows, of_columns)
    if before is not None and dedupe is not None:
        merged.gone = corrections(rows).count()
        if merged.gone:
            _correct(pipeline, merged, before, dedupe, kept)
    merged.good = arranged(merged.good, pipeline)
    return merged


def _correct(
    pipeline: Pipeline, merged: Merged, before: Snapshot, dedupe: Dedupe, kept: list[DataFrame]
) -> None:
    """Takes corrected rows out of `clean`: their periods are written again."""
    spark = merged.rows.sparkSession
    period = pipeline.clean.period.column
    gone = _keep(corrected(merged.rows, before.dataframe(spark), dedupe), kept)
    # The names of periods, no rows.
    merged.periods = {row[0] for row in gone.select(period).distinct().collect()}
    rejects = quarantined(gone, carried(pipeline), f"clean@{before.version}")
    merged.bad = merged.bad.unionByName(rejects)
    touched = before.select(**{period: merged.periods}).dataframe(spark)
    merged.good = merged.good.unionByName(remaining(merged.rows, touched, dedupe))


def _keep(frame: DataFrame, kept: list[DataFrame]) -> DataFrame:
    """Stores a frame on local disk, whatever the memory."""
    kept.append(frame.persist(StorageLevel.DISK_ONLY))
    return kept[-1]
