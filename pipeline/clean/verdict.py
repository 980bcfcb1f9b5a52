"""The verdict on each row: clean, quarantine or drop, and why."""

from __future__ import annotations

from collections.abc import Mapping

from pyspark.sql import DataFrame, Window
from pyspark.sql import functions as F

from pipeline.clean.contract import REASONS, reasons_of
from pipeline.clean.rules import fails_column
from pipeline.config import Dedupe, Rule
from pipeline.sources.raw import FILE, POSITION

VERDICT = "_verdict"
CLEAN, QUARANTINE, DROP = "clean", "quarantine", "drop"
DUPLICATE = "duplicate"
DROPPED_BY = "_dropped_by"


_FAILS, _BREAKS = "_fails_", "_breaks_"


def breaks_column(name: str) -> str:
    """The boolean column that tells whether a row breaks a rule about the table."""
    return f"{_BREAKS}{name}"


def table_reason(name: str) -> str:
    """The reason that a rule about the table gives to the rows that break it."""
    return f"table:{name}"


def rule_reason(name: str) -> str:
    """The reason that a rule gives to the rows that fail it."""
    return f"rule:{name}"


def with_verdict(frame: DataFrame, rules: Mapping[str, Rule]) -> DataFrame:
    """Adds all reasons and the verdict.

    A row goes to quarantine when it breaks the contract or a rule whose action sends it there;
    else it is dropped when it fails a rule whose action drops it. Quarantine comes first, because
    a value that cannot be read makes such a rule fail too, and the row must not vanish.

    Returns:
        The frame with `REASONS` complete, `VERDICT`, and `DROPPED_BY`: the first rule
        that drops it, so that counts by reason add up to the rows dropped.
    """
    goes_to = {name: rule.consequence.verdict for name, rule in rules.items()}
    rejecting = [name for name, rule in rules.items() if rule.consequence.takes_rows_out]
    failed = reasons_of({rule_reason(n): F.col(fails_column(n)) for n in rejecting})
    quarantined = F.size(REASONS) > 0
    for name in rejecting:
        if goes_to[name] == QUARANTINE:
            quarantined = quarantined | F.col(fails_column(name))
    dropping = [name for name in rejecting if goes_to[name] == DROP]
    dropped_by = F.coalesce(
        F.lit(None).cast("string"),
        *(F.when(F.col(fails_column(n)), F.lit(rule_reason(n))) for n in dropping),
    )
    verdict = F.when(quarantined, QUARANTINE).when(dropped_by.isNotNull(), DROP).otherwise(CLEAN)
    return (
        frame.withColumns({VERDICT: verdict, DROPPED_BY: dropped_by})
        .withColumn(DROPPED_BY, F.when(F.col(VERDICT) == DROP, F.col(DROPPED_BY)))
        .withColumn(REASONS, F.concat(REASONS, failed))
    )


def once_counted(frame: DataFrame) -> DataFrame:
    """What is still asked of the rows when their verdicts have been counted.

    Where a row came from only matters for one that is rejected: of a narrow table it is the larger
    part of what is kept.
    """
    rejected = F.col(VERDICT) == QUARANTINE
    counted = [name for name in frame.columns if name.startswith((_FAILS, _BREAKS))]
    return frame.drop(DROPPED_BY, *counted).withColumns(
        {name: F.when(rejected, F.col(name)) for name in (FILE, POSITION)}
    )


def without_superseded(frame: DataFrame, dedupe: Dedupe) -> DataFrame:
    """Sends all but the newest of the clean rows with the same key to quarantine.

    Newest is the greatest `latest_by`, nulls last; ties go to the last file by name and the last
    position in it, so that the outcome does not depend on how Spark spreads the work.
    """
    # Rejected rows are no rivals: a broken late row must not supersede a good early one. Their
    # own origin as part of the key keeps them from piling up in one task.
    rejected = F.col(VERDICT) != CLEAN
    apart = [F.when(rejected, F.col(FILE)), F.when(rejected, F.col(POSITION))]
    newest_first = [F.col(name).desc_nulls_last() for name in (*dedupe.latest_by, FILE, POSITION)]
    rank = F.row_number().over(Window.partitionBy(*dedupe.keys, *apart).orderBy(*newest_first))
    superseded = F.col("_rank") > 1
    return (
        frame.withColumn("_rank", rank)
        .withColumns(
            {
                VERDICT: F.when(superseded, QUARANTINE).otherwise(F.col(VERDICT)),
                REASONS: F.when(superseded, F.array(F.lit(DUPLICATE))).otherwise(F.col(REASONS)),
            }
        )
        .drop("_rank")
    )
