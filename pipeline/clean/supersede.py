"""New rows against those that `clean` holds already: of equal keys the newest one stays.

A row that comes again, as all of a file's do that is delivered twice, changes nothing; only a row
with a later `clean.dedupe.latest_by` takes another's place. The one that has to go, whichever it
is, goes to quarantine as a duplicate.
"""

from __future__ import annotations

from functools import reduce

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from pipeline.clean.contract import REASONS
from pipeline.clean.sensitive import Redaction
from pipeline.clean.uniqueness import matching
from pipeline.clean.verdict import CLEAN, DUPLICATE, QUARANTINE, VERDICT
from pipeline.config import Dedupe

CORRECTS = "_corrects"
"""Whether an accepted row takes the place of one in `clean`."""


def against(judged: DataFrame, present: DataFrame, dedupe: Dedupe) -> DataFrame:
    """Judges new rows once more, by the rows that are there.

    Args:
        judged: New rows with their verdict; no two accepted ones have the same key.
        present: Rows of `clean`.
        dedupe: What makes rows the same thing, and which is newest.

    Returns:
        The frame with `CORRECTS`; rows that are no newer than those there are quarantined.
    """
    accepted = judged.where(F.col(VERDICT) == CLEAN).select(*dedupe.keys)
    # From all of `clean` first those few that have a rival; keys may be null, and are then equal.
    there = present.select(*dict.fromkeys((*dedupe.keys, *dedupe.latest_by)))
    there = matching(there, accepted, dedupe.keys, "left_semi")
    renamed = there.select(*(F.col(name).alias(_there(name)) for name in there.columns))
    has_rival = reduce(
        lambda one, other: one & other,
        (F.col(key).eqNullSafe(F.col(_there(key))) for key in dedupe.keys),
        F.col(VERDICT) == CLEAN,
    )
    both = judged.join(renamed.withColumn("_rival", F.lit(True)), has_rival, "left")
    rival = F.coalesce("_rival", F.lit(False))
    newer = _newer(dedupe)
    late = rival & ~newer
    return both.withColumns(
        {
            CORRECTS: rival & newer,
            VERDICT: F.when(late, QUARANTINE).otherwise(F.col(VERDICT)),
            REASONS: F.when(late, F.array(F.lit(DUPLICATE))).otherwise(F.col(REASONS)),
        }
    ).drop("_rival", *renamed.columns)


def corrections(judged: DataFrame) -> DataFrame:
    """The accepted rows that take the place of others."""
    return judged.where((F.col(VERDICT) == CLEAN) & F.col(CORRECTS))


def corrected(judged: DataFrame, present: DataFrame, dedupe: Dedupe) -> DataFrame:
    """The rows of `clean` whose place new ones take."""
    return matching(present, corrections(judged), dedupe.keys, "left_semi")


def remaining(judged: DataFrame, present: DataFrame, dedupe: Dedupe) -> DataFrame:
    """The rows of `clean` that stay."""
    return matching(present, corrections(judged), dedupe.keys, "left_anti")


def quarantined(
    gone: DataFrame, contract: list[str], origin: str, redaction: Redaction
) -> DataFrame:
    """Rows that were in `clean`, with the columns of the table `quarantine`.

    Args:
        gone: Rows of `clean`.
        contract: The contract's columns.
        origin: What stands for their file: which version of `clean` had them.
        redaction: What is not shown of them.
    """
    return gone.select(
        F.lit(origin).alias("source_file"),
        F.lit(None).cast("bigint").alias("source_position"),
        F.array(F.lit(DUPLICATE)).alias("reasons"),
        redaction.of_row(gone.schema, contract).alias("row"),
        F.lit(None).cast("string").alias("unreadable"),
    )


def _newer(dedupe: Dedupe) -> Column:
    """Whether the new row's `latest_by` is later; a null is earlier than anything."""
    newer, equal = F.lit(False), F.lit(True)
    for name in dedupe.latest_by:
        new, old = F.col(name), F.col(_there(name))
        later = new.isNotNull() & (old.isNull() | (new > old))
        newer = newer | (equal & F.coalesce(later, F.lit(False)))
        equal = equal & new.eqNullSafe(old)
    return newer


def _there(name: str) -> str:
    return f"_there_{name}"
