"""How an anomaly score is spread, by split and by period: there is no truth to hold it against."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from pipeline.features.spec import FeatureSpec
from pipeline.lake import Snapshot
from pipeline.operate.report.bins import sampled
from pipeline.operate.report.truth import joined

SHARES = {"5%": 0.05, "25%": 0.25, "median": 0.5, "75%": 0.75, "95%": 0.95, "99%": 0.99}
"""Quantiles by the name that the page gives them."""

KINDS = ("split", "period")

Quantiles = Mapping[str, float]
"""A name of `SHARES` to the score that this share of the rows does not exceed."""


@dataclass(frozen=True, kw_only=True)
class Spread:
    """Quantiles of the score."""

    splits: Mapping[str, Quantiles]
    periods: Mapping[str, Quantiles]


def measure_spread(
    spark: SparkSession, predictions: Snapshot, features: Snapshot, spec: FeatureSpec
) -> Spread:
    """Measures the quantiles on a sample of the predictions.

    Args:
        spark: The session.
        predictions: Those of one model version.
        features: What they were made from.
        spec: Names keys and period.
    """
    some = sampled(predictions.dataframe(spark), spec.keys, predictions.rows)
    found: dict[str, dict[str, Quantiles]] = {kind: {} for kind in KINDS}
    for row in spread_rows(joined(some, features.dataframe(spark), spec)).collect():
        found[row["kind"]][row["name"]] = dict(zip(SHARES, row["quantiles"], strict=True))
    return Spread(splits=found["split"], periods=found["period"])


def spread_rows(rows: DataFrame) -> DataFrame:
    """The aggregate behind a spread: kind (split or period), name, quantiles."""
    groups = F.array(
        *(F.struct(F.lit(kind).alias("kind"), F.col(kind).alias("name")) for kind in KINDS)
    )
    shares = F.array(*(F.lit(share) for share in SHARES.values()))
    long = rows.select("score", F.explode(groups).alias("group"))
    return long.groupBy("group.kind", "group.name").agg(
        # Exact, so that the same rows give the same page.
        F.percentile("score", shares).alias("quantiles")
    )
