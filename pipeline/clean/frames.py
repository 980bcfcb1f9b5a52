"""The frames of `clean`: all raw rows with their verdicts, those accepted, those rejected."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import reduce

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from pipeline.clean.asof import joined_as_of
from pipeline.clean.contract import REASONS, carried, typed, with_row_id
from pipeline.clean.joins import joined, require_joinable, right_side
from pipeline.clean.rules import with_rules
from pipeline.clean.sensitive import Redaction
from pipeline.clean.verdict import CLEAN, QUARANTINE, VERDICT, with_verdict, without_superseded
from pipeline.config import Pipeline
from pipeline.errors import ConfigError
from pipeline.expressions import checked
from pipeline.sources.format import Rows
from pipeline.sources.raw import FILE, POSITION, quoted, reading

PERIOD_PARTITIONS = 1_000
"""Of the shuffle that brings a period's rows together."""


def judged(spark: SparkSession, pipeline: Pipeline, subject: Rows, key: str = "") -> DataFrame:
    """All raw rows, typed, each with its verdict and reasons.

    Args:
        spark: The session.
        pipeline: The description.
        subject: The raw rows.
        key: For ids by content, which would give sensitive values away without.
    """
    source = pipeline.source
    with reading("source"):
        raw = subject.frames(spark)
    groups = [typed(each, source.columns, source.time_zone) for each in raw]
    rows = with_row_id(reduce(DataFrame.unionByName, groups), pipeline, key)
    return judged_by_rules(rows, pipeline)


def judged_by_rules(frame: DataFrame, pipeline: Pipeline) -> DataFrame:
    """Typed rows, each with its verdict and reasons: by the rules, and as duplicates of another."""
    frame = with_rules(frame, pipeline.clean.rules, carried(pipeline))
    frame = with_verdict(frame, pipeline.clean.rules)
    if pipeline.clean.dedupe is not None:
        frame = without_superseded(frame, pipeline.clean.dedupe)
    return frame


def accepted(
    spark: SparkSession,
    pipeline: Pipeline,
    judged: DataFrame,
    rights: Mapping[str, Rows],
) -> DataFrame:
    """The accepted rows with the columns of the table `clean`, in no order."""
    frame = judged.where(F.col(VERDICT) == CLEAN).select(*map(quoted, carried(pipeline)))
    for name, described in pipeline.clean.joins.items():
        # Its contract, with patterns written out.
        join = described.model_copy(update={"columns": rights[name].files.columns})
        with reading(f"clean.joins.{name}"):
            raw = rights[name].frames(spark)
        right = right_side(raw, join)
        require_joinable(frame, right, join, name, pipeline.is_sensitive)
        if join.asof is None:
            frame = joined(frame, right, join)
        else:
            frame = joined_as_of(frame, right, join, join.asof)
    period = pipeline.clean.period
    value = checked(frame, period.expression, "clean.period.expression", ConfigError).column
    return frame.withColumn(period.column, value.cast("string"))


def arranged(frame: DataFrame, pipeline: Pipeline) -> DataFrame:
    """Rows of `clean` as they are written: equal rows give equal files however Spark spreads them.

    Spark merges small and cuts large partitions to files worth reading. Of a partition that holds
    many periods each cut would hold them all, and files become the smaller the more periods there
    are: so there are more partitions than periods, whatever `spark.sql.shuffle.partitions` says.
    """
    period = pipeline.clean.period.column
    order = pipeline.clean.dedupe.keys if pipeline.clean.dedupe else pipeline.features.keys
    spread = frame.hint("rebalance", PERIOD_PARTITIONS, F.col(period))
    return spread.sortWithinPartitions(period, *order)


def rejected(judged: DataFrame, contract: Sequence[str], redaction: Redaction) -> DataFrame:
    """The rejected rows with the columns of the table `quarantine`."""
    return judged.where(F.col(VERDICT) == QUARANTINE).select(
        F.col(FILE).alias("source_file"),
        F.col(POSITION).alias("source_position"),
        F.col(REASONS).alias("reasons"),
        redaction.of_row(judged.schema, contract).alias("row"),
        redaction.of_unreadable(contract).alias("unreadable"),
    )
