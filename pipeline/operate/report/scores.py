"""Scores against what happened: calibration, and drift by period; Spark sends aggregates only."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from functools import reduce

from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F

from pipeline.config import TaskName
from pipeline.errors import CountError
from pipeline.features.prepared import TEST
from pipeline.features.spec import FeatureSpec
from pipeline.lake import Snapshot
from pipeline.operate.report.bins import (
    distinct_edges,
    population_stability_index,
    quantiles,
    sampled,
    with_bands,
)
from pipeline.operate.report.truth import ALONE, joined, paired
from pipeline.training.tasks import TASKS

TENTHS = 10


@dataclass(frozen=True, kw_only=True)
class Cell:
    """Pairs of one split, period, tenth, and bin of the training quantiles of the score."""

    split: str
    period: str
    tenth: int
    band: int
    rows: int
    """Rows whose first pair is here."""
    score_sum: float
    """Of these rows."""
    labelled: int
    """Pairs of which both sides are known."""
    predicted_sum: float
    """Of these pairs, as are the next two."""
    observed_sum: float
    loss_sum: float


@dataclass(frozen=True, kw_only=True)
class Group:
    """Scored rows that have something in common."""

    name: str
    rows: int
    labelled: int
    """Those with a label; for `multilabel`, times the labels."""
    mean_score: float
    """Over all rows."""
    predicted: float
    """Mean prediction of the labelled ones."""
    observed: float
    """Mean label among them: the share of class 1, of rows predicted right, or of a number."""
    loss: float
    """Mean over them: log-loss, or the squared error of a number."""

    @property
    def residual(self) -> float:
        """How far the predictions lie below what was observed, in the mean."""
        return self.observed - self.predicted

    @property
    def rmse(self) -> float:
        """Root of the mean squared error, where the loss is one."""
        return math.sqrt(self.loss)


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
    """Labelled test rows by tenth of the probability, or between tenths of the training rows'
    predicted numbers; empty ones left out."""
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
    task = spec.label.task
    train = predictions.select(**{spec.period_column: train_periods})
    found = _training_quantiles(train.dataframe(spark), train.rows, spec)
    rows_with_truth = joined(predictions.dataframe(spark), features.dataframe(spark), spec)
    frame = aggregated(
        paired(rows_with_truth, spec), distinct_edges(found), _tenth(task, found[1::2])
    )
    cells = [Cell(**row.asDict()) for row in frame.collect()]
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


def aggregated(frame: DataFrame, edges: Sequence[float], tenth: Column) -> DataFrame:
    """The cells of what `paired` returned: as many rows as there are periods, times a few."""
    first, known = F.col("first"), F.col("observed").isNotNull()

    def total(value: Column) -> Column:
        return F.coalesce(F.sum(value), F.lit(0.0))

    return (
        with_bands(frame, {"score": edges})
        .groupBy(
            "split", "period", tenth.alias("tenth"), F.col("band_score").cast("int").alias("band")
        )
        .agg(
            F.count_if(first).alias("rows"),
            total(F.when(first, F.col("score"))).alias("score_sum"),
            F.count_if(known).alias("labelled"),
            total(F.when(known, F.col("predicted"))).alias("predicted_sum"),
            total(F.col("observed")).alias("observed_sum"),
            total(F.col("loss")).alias("loss_sum"),
        )
    )


def _tenth(task: TaskName, deciles: Sequence[float]) -> Column:
    """In which of ten groups a pair is judged: by its probability, or its place in training."""
    predicted, truth = F.col("predicted"), TASKS[task].words.truth
    if truth is None or not truth.share:
        reached = ((predicted >= decile).cast("int") for decile in deciles)
        return reduce(Column.__add__, reached, F.lit(0))
    return F.least(F.floor(predicted * TENTHS), F.lit(TENTHS - 1)).cast("int")


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


def _training_quantiles(train: DataFrame, rows: int, spec: FeatureSpec) -> Sequence[float]:
    """The 19 inner quantiles of the training periods' scores; none without rows."""
    score = quantiles(spec.label.definition.score())
    found = sampled(train, spec.keys, rows).agg(score).first()
    return (found[0] if found else None) or ()


def _groups(cells: Iterable[Cell], name_of: Callable[[Cell], str]) -> tuple[Group, ...]:
    named: dict[str, list[Cell]] = defaultdict(list)
    for cell in cells:
        named[name_of(cell)].append(cell)
    return tuple(_group(name, named[name]) for name in sorted(named))


def _group(name: str, cells: Sequence[Cell]) -> Group:
    rows = sum(cell.rows for cell in cells)
    labelled = sum(cell.labelled for cell in cells)

    def mean(sums: Iterable[float], count: int) -> float:
        return math.fsum(sums) / count if count else math.nan

    return Group(
        name=name,
        rows=rows,
        labelled=labelled,
        mean_score=mean((cell.score_sum for cell in cells), rows),
        predicted=mean((cell.predicted_sum for cell in cells), labelled),
        observed=mean((cell.observed_sum for cell in cells), labelled),
        loss=mean((cell.loss_sum for cell in cells), labelled),
    )


def _histogram(cells: Iterable[Cell]) -> dict[int, int]:
    found: dict[int, int] = defaultdict(int)
    for cell in cells:
        found[cell.band] += cell.rows
    return found
