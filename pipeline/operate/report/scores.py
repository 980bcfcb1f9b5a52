"""Scores against what happened: calibration, and drift by period; Spark sends aggregates only."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass

from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F

from pipeline.errors import CountError
from pipeline.features.spec import FeatureSpec
from pipeline.features.transform import SPLIT, TEST
from pipeline.lake import Snapshot
from pipeline.operate.report.bins import (
    distinct_edges,
    population_stability_index,
    quantiles,
    sampled,
    with_bands,
)

TENTHS = 10
ALONE = "none"
"""In place of the split of a prediction without features."""
# float32 cannot tell numbers closer to 1, and a logarithm must not see 0.
CLOSEST = 1e-7


@dataclass(frozen=True, kw_only=True)
class Cell:
    """Scored rows of one split, period, tenth of the score, and bin of the training quantiles."""

    split: str
    period: str
    tenth: int
    band: int
    rows: int
    score_sum: float
    labelled: int
    labelled_score_sum: float
    label_sum: float
    loss_sum: float
    """Of the labelled rows' log-loss."""


@dataclass(frozen=True, kw_only=True)
class Group:
    """Scored rows that have something in common."""

    name: str
    rows: int
    labelled: int
    mean_score: float
    """Over all rows."""
    predicted: float
    """Mean score of the labelled rows."""
    observed: float
    """Share of class 1 among them."""
    log_loss: float
    """Over them."""


@dataclass(frozen=True, kw_only=True)
class Period:
    """The scores of one period beside those of the training periods."""

    group: Group
    in_training: bool
    """Whether the train split has rows of this period."""
    psi: float


@dataclass(frozen=True, kw_only=True)
class Scores:
    """All that the page says of the scores."""

    calibration: tuple[Group, ...]
    """Tenths of the score among labelled test rows, empty ones left out."""
    calibration_error: float
    """Mean distance of predicted and observed, weighted by rows; NaN without test rows."""
    splits: tuple[Group, ...]
    periods: tuple[Period, ...]

    @property
    def psi_after_training(self) -> float:
        """Of the period after training that lies furthest from it; NaN without one."""
        known = [p.psi for p in self.after_training if not math.isnan(p.psi)]
        return max(known, default=math.nan)

    @property
    def after_training(self) -> tuple[Period, ...]:
        """The periods later than all that the train split has rows of."""
        last = max((p.group.name for p in self.periods if p.in_training), default="")
        return tuple(p for p in self.periods if p.group.name > last)


def measure_scores(
    spark: SparkSession,
    predictions: Snapshot,
    features: Snapshot,
    spec: FeatureSpec,
    train_periods: Collection[str | None],
) -> Scores:
    """Joins predictions with labels and aggregates them.

    Args:
        spark: The session.
        predictions: Those of one model version.
        features: What they were made from.
        spec: Names keys, label and period.
        train_periods: Periods that the train split has rows of.

    Raises:
        CountError: The keys do not name each prediction's features exactly once.
    """
    train = predictions.select(**{spec.period_column: train_periods})
    edges = _edges(train.dataframe(spark), train.rows, spec)
    frame = labelled(predictions.dataframe(spark), features.dataframe(spark), spec)
    cells = [Cell(**row.asDict()) for row in aggregated(frame, edges).collect()]
    rows = sum(cell.rows for cell in cells)
    alone = sum(cell.rows for cell in cells if cell.split == ALONE)
    if alone or rows != predictions.rows:
        raise CountError(
            f"table {predictions.name}",
            f"{predictions.rows} predictions meet {rows - alone} rows of {features.name} by "
            f"{', '.join(spec.keys)}",
            "Choose features.keys that name a row, and let clean.dedupe keep them unique.",
        )
    return summarised(cells, {period or "" for period in train_periods})


def labelled(predictions: DataFrame, features: DataFrame, spec: FeatureSpec) -> DataFrame:
    """Each prediction with its row's label and split.

    Args:
        predictions: Rows of `predictions`.
        features: Rows of `features`.
        spec: Names the columns.

    Returns:
        Columns `score`, `period`, `label` (null where unknown) and `split` (`ALONE` without).
    """
    left = predictions.select(
        *(F.col(key).alias(f"left{i}") for i, key in enumerate(spec.keys)),
        F.col("score").cast("double").alias("score"),
        F.coalesce(F.col(spec.period_column), F.lit("")).alias("period"),
    )
    right = features.select(
        *(F.col(key).alias(f"right{i}") for i, key in enumerate(spec.keys)),
        F.col(spec.label_column).cast("double").alias("label"),
        F.col(SPLIT).alias("split"),
    )
    same = [F.col(f"left{i}").eqNullSafe(F.col(f"right{i}")) for i in range(len(spec.keys))]
    joined = left.join(right, same, "left")
    return joined.select(
        "score", "period", "label", F.coalesce("split", F.lit(ALONE)).alias("split")
    )


def aggregated(frame: DataFrame, edges: Sequence[float]) -> DataFrame:
    """The cells of what `labelled` returned: as many rows as there are periods, times a few."""
    score, label = F.col("score"), F.col("label")
    has_label = label.isNotNull()
    safe = F.least(F.greatest(score, F.lit(CLOSEST)), F.lit(1 - CLOSEST))
    loss = -(label * F.log(safe) + (1 - label) * F.log(1 - safe))

    def total(value: Column) -> Column:
        return F.coalesce(F.sum(value), F.lit(0.0))

    return (
        with_bands(frame, {"score": edges})
        .groupBy(
            "split",
            "period",
            F.least(F.floor(score * TENTHS), F.lit(TENTHS - 1)).cast("int").alias("tenth"),
            F.col("band_score").cast("int").alias("band"),
        )
        .agg(
            F.count(F.lit(1)).alias("rows"),
            total(score).alias("score_sum"),
            F.count(label).alias("labelled"),
            total(F.when(has_label, score)).alias("labelled_score_sum"),
            total(label).alias("label_sum"),
            total(loss).alias("loss_sum"),
        )
    )


def summarised(cells: Sequence[Cell], train_periods: Collection[str]) -> Scores:
    """What the page says, from the cells."""
    test = [cell for cell in cells if cell.split == TEST and cell.labelled]
    calibration = _groups(test, lambda cell: f"{cell.tenth / TENTHS:.1f}")
    rows = sum(group.labelled for group in calibration)
    distance = [group.labelled * abs(group.predicted - group.observed) for group in calibration]
    before = _histogram(cell for cell in cells if cell.period in train_periods)
    periods = tuple(
        Period(
            group=group,
            in_training=group.name in train_periods,
            psi=population_stability_index(
                before, _histogram(cell for cell in cells if cell.period == group.name)
            ),
        )
        for group in _groups(cells, lambda cell: cell.period)
    )
    return Scores(
        calibration=calibration,
        calibration_error=math.fsum(distance) / rows if rows else math.nan,
        splits=_groups(cells, lambda cell: cell.split),
        periods=periods,
    )


def _edges(train: DataFrame, rows: int, spec: FeatureSpec) -> tuple[float, ...]:
    found = sampled(train, spec.keys, rows).agg(quantiles(F.col("score").cast("double"))).first()
    return distinct_edges(found[0] if found else None)


def _groups(cells: Iterable[Cell], name_of: Callable[[Cell], str]) -> tuple[Group, ...]:
    named: dict[str, list[Cell]] = defaultdict(list)
    for cell in cells:
        named[name_of(cell)].append(cell)
    return tuple(_group(name, named[name]) for name in sorted(named))


def _group(name: str, cells: Sequence[Cell]) -> Group:
    rows = sum(cell.rows for cell in cells)
    labelled_rows = sum(cell.labelled for cell in cells)

    def mean(sums: Iterable[float], count: int) -> float:
        return math.fsum(sums) / count if count else math.nan

    return Group(
        name=name,
        rows=rows,
        labelled=labelled_rows,
        mean_score=mean((cell.score_sum for cell in cells), rows),
        predicted=mean((cell.labelled_score_sum for cell in cells), labelled_rows),
        observed=mean((cell.label_sum for cell in cells), labelled_rows),
        log_loss=mean((cell.loss_sum for cell in cells), labelled_rows),
    )


def _histogram(cells: Iterable[Cell]) -> dict[int, int]:
    found: dict[int, int] = defaultdict(int)
    for cell in cells:
        found[cell.band] += cell.rows
    return found
