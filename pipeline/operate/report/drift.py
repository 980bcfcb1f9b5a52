"""Drift of each feature from the train split to the test split; Spark sends histograms only."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from pipeline.features.kinds import Id, Number
from pipeline.features.prepared import SPLIT, TEST, TRAIN
from pipeline.features.spec import FeatureSpec
from pipeline.lake import Snapshot
from pipeline.operate.report.bins import (
    distinct_edges,
    population_stability_index,
    quantiles,
    sampled,
    with_bands,
)


@dataclass(frozen=True, kw_only=True)
class Histogram:
    """One feature in one split."""

    rows_by_bin: Mapping[int, int]
    mean: float
    """NaN without rows."""

    @property
    def rows(self) -> int:
        """Rows in all bins."""
        return sum(self.rows_by_bin.values())

    def share(self, bin_: int) -> float:
        """Of the rows that lie in one bin; 0 without rows."""
        return self.rows_by_bin.get(bin_, 0) / self.rows if self.rows else 0.0


@dataclass(frozen=True, kw_only=True)
class FeatureDrift:
    """How far a feature of the test split lies from that of the train split."""

    name: str
    psi: float
    subject: str
    """What `before` and `after` are: the mean, or the share of the word that moved most."""
    before: float
    after: float


def measure_drift(
    spark: SparkSession,
    features: Snapshot,
    spec: FeatureSpec,
    is_sensitive: Callable[[str], bool] = lambda _: False,
) -> tuple[FeatureDrift, ...]:
    """Compares all features, once for the edges of the bins and once for the rows in them.

    Args:
        spark: The session.
        features: The features that were scored.
        spec: Names their columns and words.
        is_sensitive: Whether the words of a column must not be shown.

    Returns:
        The numbers and categories, those that moved most first; no other ones.
    """
    columns: tuple[Number | Id, ...] = (*spec.columns_of(Number), *spec.columns_of(Id))
    if not columns:
        return ()
    train, test = (
        sampled(side.dataframe(spark), spec.keys, side.rows)
        for side in (features.select(split={name}) for name in (TRAIN, TEST))
    )
    edges = edges_of(train, spec.numeric_columns)
    found = histograms(train.unionByName(test), [column.name for column in columns], edges)
    empty = Histogram(rows_by_bin={}, mean=math.nan)
    moved = []
    for position, column in enumerate(columns):
        before, after = (found.get((split, position), empty) for split in (TRAIN, TEST))
        if isinstance(column, Id):
            part = spec.parts_by_column[column.name]
            hidden = any(is_sensitive(source) for source in part.reads)
            words = _withheld if hidden else partial(part.word_in, column)
            moved.append(_compared_ids(column, before, after, words))
        else:
            moved.append(_compared_numbers(column, before, after))
    return tuple(sorted(moved, key=lambda drift: (-_known(drift.psi), drift.name)))


def edges_of(rows: DataFrame, columns: Sequence[str]) -> dict[str, tuple[float, ...]]:
    """The distinct quantiles of each column."""
    if not columns:
        return {}
    values = F.array(*(F.col(name).cast("double") for name in columns))
    long = rows.select(F.posexplode(values).alias("position", "value"))
    found = long.groupBy("position").agg(quantiles(F.col("value")).alias("edges")).collect()
    by_position = {row["position"]: row["edges"] for row in found}
    return {name: distinct_edges(by_position.get(i)) for i, name in enumerate(columns)}


def histograms(
    frame: DataFrame, columns: Sequence[str], edges: Mapping[str, Sequence[float]]
) -> dict[tuple[str, int], Histogram]:
    """Rows by bin of every column in every split, in one pass.

    Args:
        frame: Has the columns and the split.
        columns: What to count; those without edges hold ids, which are their own bins.
        edges: Column to ascending edges.

    Returns:
        (split, position of the column) to histogram.
    """
    rows: dict[tuple[str, int], dict[int, int]] = defaultdict(dict)
    sums: dict[tuple[str, int], list[float]] = defaultdict(list)
    for row in histogram_rows(frame, columns, edges).collect():
        where = (row[SPLIT], row["position"])
        rows[where][row["bin"]] = row["rows"]
        sums[where].append(row["sum"])
    return {
        where: Histogram(rows_by_bin=bins, mean=math.fsum(sums[where]) / sum(bins.values()))
        for where, bins in rows.items()
    }


def histogram_rows(
    frame: DataFrame, columns: Sequence[str], edges: Mapping[str, Sequence[float]]
) -> DataFrame:
    """The aggregate behind `histograms`: split, position, bin, rows, and the sum of the values."""
    pairs = [
        F.struct(
            F.col(f"band_{name}" if name in edges else name).cast("int").alias("bin"),
            F.col(name).cast("double").alias("value"),
        )
        for name in columns
    ]
    banded = with_bands(frame, edges)
    long = banded.select(SPLIT, F.posexplode(F.array(*pairs)).alias("position", "pair"))
    return long.groupBy(SPLIT, "position", F.col("pair.bin").alias("bin")).agg(
        F.count(F.lit(1)).alias("rows"), F.sum("pair.value").alias("sum")
    )


def _compared_numbers(column: Number, before: Histogram, after: Histogram) -> FeatureDrift:
    return FeatureDrift(
        name=column.name,
        psi=population_stability_index(before.rows_by_bin, after.rows_by_bin),
        subject="share of rows" if column.is_indicator else "mean",
        before=before.mean,
        after=after.mean,
    )


def _compared_ids(
    column: Id, before: Histogram, after: Histogram, words: Callable[[int], str]
) -> FeatureDrift:
    ids = sorted(before.rows_by_bin.keys() | after.rows_by_bin.keys())
    most = max(ids, key=lambda id_: abs(after.share(id_) - before.share(id_)), default=0)
    reserved = {column.missing: "(missing)", column.unknown: "(out of vocabulary)"}
    return FeatureDrift(
        name=column.name,
        psi=population_stability_index(before.rows_by_bin, after.rows_by_bin),
        subject=f"share of {reserved.get(most) or words(most)}",
        before=before.share(most) if before.rows else math.nan,
        after=after.share(most) if after.rows else math.nan,
    )


def _withheld(_: int) -> str:
    return "(withheld)"


def _known(psi: float) -> float:
    return -1.0 if math.isnan(psi) else psi
