"""Aggregates over a window of time that moves with the rows, in time that does not grow with it.

Spark reads the whole window again for each row; its segment tree (off by default) does not, but
costs milliseconds an entity however few rows that has, and rounds sums otherwise below a number of
rows. So time is cut into blocks as long as the window: [t - w, t) is the end of one block, from
t - w on, and the beginning of the next, up to t. Both are running values, one from the front and
one from the back of a block, so each row counts once in each, and a sum is rounded by nothing but
its own two blocks.

Source: van Herk, "A fast algorithm for local minimum and maximum filters on rectangular and
octagonal kernels", Pattern Recognition Letters 13, 1992.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F

from pipeline.sources.raw import quoted

MEASURES: dict[str, Callable[[Column], Column]] = {
    "count": F.count,
    "sum": lambda value: F.sum(value.cast("double")),
    "mean": lambda value: F.avg(value.cast("double")),
    "min": F.min,
    "max": F.max,
    "std": lambda value: F.stddev_pop(value.cast("double")),
}
_PARTS = {
    "count": ("count",),
    "sum": ("count", "sum"),
    "mean": ("count", "sum"),
    "min": ("min",),
    "max": ("max",),
    "std": ("count", "mean", "variance"),
}
"""What is to be known of each of the two parts of a window."""
_OF_PART: dict[str, Callable[[Column], Column]] = {
    **MEASURES,
    "variance": lambda value: F.var_pop(value.cast("double")),
}
_BLOCK, _FRONT, _BACK, _KEPT = "_block", "_front", "_back", "_kept"
_POSITION, _IS_QUESTION, _VALUE, _TIE = "_position", "_is_question", "_value_", "_tie_"


@dataclass(frozen=True)
class Moving:
    """Rows in groups that are in one partition each."""

    rows: DataFrame
    """Values are null where a row is no event."""
    group: list[str]
    at: str
    """`bigint`: the row's time; null where it is no event and asks nothing."""
    place: str
    """A number that grows in the order of `at` and `ties`, within a group."""
    ties: list[str]
    """Columns that order events of the same time."""

    def aggregates(self, wanted: Mapping[str, tuple[str, Column]], steps: int) -> DataFrame:
        """Adds aggregates over [at - steps, at).

        Args:
            wanted: New column to measure and value.
            steps: Length of the window.
        """
        parts = {
            f"{name}_{part}": (part, value)
            for name, (measure, value) in wanted.items()
            for part in _PARTS[measure]
        }
        halves = self._with_back(self._with_front(parts, steps), parts, steps)
        merged = {name: _merged(name, measure) for name, (measure, _) in wanted.items()}
        return halves.withColumns(merged).drop(_FRONT, _BACK)

    def _with_front(self, parts: Mapping[str, tuple[str, Column]], steps: int) -> DataFrame:
        """The row's own block up to the row: the values at the last row before it."""
        block = Window.partitionBy(*self.group, _BLOCK)
        so_far = block.orderBy(self.at, *self.ties).rowsBetween(
            Window.unboundedPreceding, Window.currentRow
        )
        earlier = block.orderBy(self.at).rangeBetween(Window.unboundedPreceding, -1)
        running = {
            name: _OF_PART[part](value).over(so_far) for name, (part, value) in parts.items()
        }
        rows = self.rows.withColumn(_BLOCK, _block_of(F.col(self.at), steps)).withColumns(running)
        front = F.max_by(F.struct(*running), F.col(self.place)).over(earlier)
        return rows.withColumn(_FRONT, front).drop(_BLOCK, *running)

    def _with_back(
        self, rows: DataFrame, parts: Mapping[str, tuple[str, Column]], steps: int
    ) -> DataFrame:
        """The block before, from its end back to `at - steps`: the row itself asks from there."""
        values = {f"{_VALUE}{name}": value for name, (_, value) in parts.items()}
        ties = {f"{_TIE}{place}": F.col(name) for place, name in enumerate(self.ties)}
        is_question, at = F.col(_IS_QUESTION), F.col(self.at)
        both = rows.withColumn(_IS_QUESTION, F.explode(F.array(F.lit(False), F.lit(True)))).select(
            *self.group,
            F.when(is_question, F.struct(*map(quoted, rows.columns))).alias(_KEPT),
            is_question,
            F.when(is_question, at - F.lit(steps)).otherwise(at).alias(_POSITION),
            *(F.when(~is_question, column).alias(name) for name, column in values.items()),
            *(F.when(~is_question, column).alias(name) for name, column in ties.items()),
        )
        both = both.withColumn(_BLOCK, _block_of(F.col(_POSITION), steps))
        # Events at the edge come before the question: they are in its window.
        backwards = [F.desc(_POSITION), F.asc(_IS_QUESTION), *(F.desc(name) for name in ties)]
        from_end = (
            Window.partitionBy(*self.group, _BLOCK)
            .orderBy(*backwards)
            .rowsBetween(Window.unboundedPreceding, Window.currentRow)
        )
        running = {
            name: _OF_PART[part](F.col(f"{_VALUE}{name}")).over(from_end)
            for name, (part, _) in parts.items()
        }
        asked = both.withColumns(running).where(is_question)
        others = [name for name in rows.columns if name not in self.group]
        return asked.select(
            *self.group,
            *(F.col(_KEPT).getField(name).alias(name) for name in others),
            F.struct(*running).alias(_BACK),
        )


def _block_of(position: Column, steps: int) -> Column:
    return position - F.pmod(position, F.lit(steps).cast("bigint"))


def _merged(name: str, measure: str) -> Column:
    """The measure of both parts together; null where there is no value."""
    front, back = (
        {part: F.col(side).getField(f"{name}_{part}") for part in _PARTS[measure]}
        for side in (_FRONT, _BACK)
    )
    if measure in ("min", "max"):
        both = F.least if measure == "min" else F.greatest
        return both(front[measure], back[measure])
    counts = [F.coalesce(side["count"], F.lit(0).cast("bigint")) for side in (front, back)]
    count = counts[0] + counts[1]
    if measure == "count":
        return count
    if measure == "std":
        return F.when(count > 0, F.sqrt(_spread(front, back, counts) / count))
    total = _or_zero(back["sum"]) + _or_zero(front["sum"])
    return F.when(count > 0, total if measure == "sum" else total / count)


def _spread(
    front: Mapping[str, Column], back: Mapping[str, Column], counts: list[Column]
) -> Column:
    """The sum of squared differences from the mean of both.

    Source: Chan, Golub, LeVeque, "Updating formulae and a pairwise algorithm for computing sample
    variances", 1979.
    """
    apart = _or_zero(front["mean"] - back["mean"])
    between = apart * apart * counts[0] * counts[1] / (counts[0] + counts[1])
    within = (
        _or_zero(side["variance"]) * count
        for side, count in zip((front, back), counts, strict=True)
    )
    return sum(within, between)


def _or_zero(value: Column) -> Column:
    return F.coalesce(value, F.lit(0.0))
