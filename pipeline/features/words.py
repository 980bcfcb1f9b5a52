"""The words of the train split: counted in the one pass of the fit, then chosen and numbered."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import reduce
from typing import Any

import pyarrow as pa
from pyspark import StorageLevel
from pyspark.sql import Column, DataFrame, Observation, Row, Window
from pyspark.sql import functions as F

from pipeline.features.kinds.columns import FIRST_ID
from pipeline.features.kinds.kind import ROW_HASH, TARGET, Tally, Words

PLACE, WORD, ID, OCCURRENCES, VALUES = "place", "word", "id", "rows", "values"
"""Columns of counted words: the feature's place in the description, the word, its id, its
occurrences, what its kind makes of the label."""
ROWS_BY_FOLD, SUMS_BY_FOLD = "rows_by_fold", "sums_by_fold"
_SHIFTS = pa.schema([(PLACE, pa.int32()), ("part", pa.int32()), ("shift", pa.int64())])


@dataclass(frozen=True, kw_only=True)
class WordCounts:
    """What was counted: `frame` is held on Spark's disks as long as the context is open."""

    frame: DataFrame
    """Columns `PLACE`, `WORD`, `OCCURRENCES`, `ROWS_BY_FOLD`, `SUMS_BY_FOLD`; each pair once."""
    words: Mapping[int, int]
    """Place of the feature -> number of its words."""
    collected: Sequence[Row] | None
    """The same rows, where there are few."""


def tally() -> Tally:
    """The columns of `WordCounts.frame`, for payloads."""
    return Tally(F.col(OCCURRENCES), F.col(ROWS_BY_FOLD), F.col(SUMS_BY_FOLD))


@contextmanager
def counted(
    train: DataFrame, measures: Sequence[Column], wanted: Mapping[int, Words], few: int
) -> Iterator[tuple[dict[str, Any], WordCounts]]:
    """Measures the train split and counts its words, in one pass over it.

    Args:
        train: The rows, with `ROW_HASH` and `TARGET`.
        measures: Aggregates with names.
        wanted: Place of a feature -> its words; at least one.
        few: Up to so many words of all features are collected at once: one job instead of three.

    Yields:
        Measures by name, and the words that are frequent enough.
    """
    observation = Observation()
    frequent = _frequent(_grouped(train.observe(observation, *measures), wanted), wanted)
    frequent.persist(StorageLevel.DISK_ONLY)
    try:
        chosen = _largest(frequent, wanted)
        first = chosen.limit(few + 1).collect()
        # Without any word, nothing may have passed by the observer.
        measured = observation.get if first else measured_alone(train, measures)
        words = Counter(row[PLACE] for row in first)
        if len(first) > few:
            numbers = chosen.groupBy(PLACE).count().collect()
            words = Counter({row[PLACE]: row["count"] for row in numbers})
        yield (
            measured,
            WordCounts(
                frame=chosen,
                words={place: words[place] for place in wanted},
                collected=first if len(first) <= few else None,
            ),
        )
    finally:
        frequent.unpersist()


def measured_alone(train: DataFrame, measures: Sequence[Column]) -> dict[str, Any]:
    """The measures by name, where no word is wanted."""
    return train.agg(*measures).head().asDict()  # type: ignore[union-attr]


def _grouped(train: DataFrame, wanted: Mapping[int, Words]) -> DataFrame:
    """Each word of each feature once, with its tallies."""
    folds = max(each.folds for each in wanted.values())
    pairs = F.flatten(F.array(*(_pairs(place, each, folds) for place, each in wanted.items())))
    return (
        train.select(F.explode(pairs).alias("pair"))
        .where("pair.word IS NOT NULL")
        .groupBy(F.col("pair.place").alias(PLACE), F.col("pair.word").alias(WORD))
        .agg(F.count(F.lit(1)).alias(OCCURRENCES), *_by_fold(folds))
    )


def _by_fold(folds: int) -> tuple[Column, Column]:
    """Rows and sums of the label by fold; null where no feature asks for them."""
    rows, sums = F.lit(None).cast("array<bigint>"), F.lit(None).cast("array<double>")
    if folds:
        is_in = [F.col("pair.fold") == fold for fold in range(folds)]
        rows = F.array(*(F.count_if(each) for each in is_in))
        sums = F.array(*(_sum(F.col("pair.label"), each) for each in is_in))
    return rows.alias(ROWS_BY_FOLD), sums.alias(SUMS_BY_FOLD)


def _sum(label: Column, condition: Column) -> Column:
    return F.coalesce(F.sum(F.when(condition, label)), F.lit(0.0))


def _pairs(place: int, wanted: Words, folds: int) -> Column:
    """The words of a row, `array<struct<place, word>>`, with fold and label if any feature asks."""
    fold = F.pmod(F.col(ROW_HASH), F.lit(wanted.folds)) if wanted.folds else F.lit(None)
    beside = [fold.cast("int").alias("fold"), F.col(TARGET).alias("label")] if folds else []

    def pair(word: Column) -> Column:
        return F.struct(F.lit(place).alias(PLACE), word.alias(WORD), *beside)

    if not wanted.is_list:
        return F.array(pair(wanted.value))
    words = F.coalesce(wanted.value, F.array().cast("array<string>"))
    return F.transform(words, pair)


def _frequent(grouped: DataFrame, wanted: Mapping[int, Words]) -> DataFrame:
    enough = [
        (F.col(PLACE) == place) & (F.col(OCCURRENCES) >= each.minimum_count)
        for place, each in wanted.items()
    ]
    return grouped.where(reduce(Column.__or__, enough))


def _largest(frequent: DataFrame, wanted: Mapping[int, Words]) -> DataFrame:
    """Leaves out what is beyond the most frequent words, where that is asked for."""
    limits = {place: each.largest for place, each in wanted.items() if each.largest}
    if not limits:
        return frequent
    most_frequent = Window.partitionBy(PLACE).orderBy(F.desc(OCCURRENCES), WORD)
    limit = reduce(
        lambda chain, item: chain.when(F.col(PLACE) == item[0], item[1]),
        limits.items(),
        F.when(F.lit(False), 0),
    )
    ranked = (
        frequent.where(F.col(PLACE).isin(*limits))
        .withColumn("rank", F.row_number().over(most_frequent))
        # A bound for all: Spark then ranks within each partition first.
        .where(F.col("rank") <= max(limits.values()))
        .where(F.col("rank") <= limit)
        .drop("rank")
    )
    others = frequent.where(~F.col(PLACE).isin(*limits))
    return ranked if len(limits) == len(wanted) else others.unionByName(ranked)


def with_payload(counts: WordCounts, payloads: Mapping[int, Column]) -> DataFrame:
    """Columns `PLACE`, `WORD`, `OCCURRENCES`, and `VALUES`, `array<double>`: the payload."""
    values = reduce(
        lambda chain, item: chain.when(F.col(PLACE) == item[0], item[1]),
        payloads.items(),
        F.when(F.lit(False), F.lit(None).cast("array<double>")),
    )
    return counts.frame.select(PLACE, WORD, OCCURRENCES, values.alias(VALUES))


@contextmanager
def numbered(words: DataFrame, places: Collection[int]) -> Iterator[DataFrame]:
    """Adds `ID`: the words of each feature in their order, from `FIRST_ID` on.

    A sort of Spark's over all executors; only the sizes of its partitions come to the driver.

    Args:
        words: What `with_payload` returned.
        places: Of the features to number.

    Yields:
        The words, held on Spark's disks as long as the context is open.
    """
    ordered = words.where(F.col(PLACE).isin(*places)).orderBy(PLACE, WORD)
    ordered.persist(StorageLevel.DISK_ONLY)
    try:
        at = ordered.withColumn("part", F.spark_partition_id()).withColumn(
            "at", F.monotonically_increasing_id()
        )
        sizes = at.groupBy(PLACE, "part").agg(F.count("at").alias("size"), F.min("at").alias("at"))
        shifts, following = [], dict.fromkeys(places, FIRST_ID)
        for row in sizes.orderBy(PLACE, "part").collect():
            shift = following[row[PLACE]] - row["at"]
            shifts.append({PLACE: row[PLACE], "part": row["part"], "shift": shift})
            following[row[PLACE]] += row["size"]
        # By way of Arrow: of Python's rows, Spark starts Python workers.
        table = words.sparkSession.createDataFrame(pa.Table.from_pylist(shifts, _SHIFTS))
        yield (
            at.join(F.broadcast(table), [PLACE, "part"])
            .withColumn(ID, (F.col("at") + F.col("shift")).cast("int"))
            .select(PLACE, WORD, ID, OCCURRENCES, VALUES)
        )
    finally:
        ordered.unpersist()
