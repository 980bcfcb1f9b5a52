"""Histograms by quantiles of the training rows, and the population stability index.

Bins of equal width say nothing where a score is rare or a feature has a long tail: nearly all rows
share one bin, before and after a shift. Quantiles of the training rows spread them evenly.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from pyspark.ml.feature import Bucketizer
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

BINS = 20
QUANTILES = tuple(k / BINS for k in range(1, BINS))
SAMPLE_ROWS = 25_000
"""Of each side. Two samples of one population are then 0.0016 apart with 20 bins."""

MODERATE, LARGE = 0.1, 0.25
"""The usual reading: below 0.1 stable, from 0.25 another population.

Source: Siddiqi, Credit Risk Scorecards (2006), chapter 10.
"""


def sampled(frame: DataFrame, keys: Sequence[str], rows: int) -> DataFrame:
    """About `SAMPLE_ROWS` of a frame's rows, the same ones each time.

    Args:
        frame: The rows.
        keys: Columns that name a row.
        rows: How many rows the frame has.
    """
    every = max(1, rows // SAMPLE_ROWS)
    return frame.where(F.pmod(F.xxhash64(*keys), F.lit(every)) == 0)


def quantiles(value: Column) -> Column:
    """An aggregate: the 19 inner quantiles, exact, so that the same rows give the same edges."""
    return F.percentile(value, F.array(*(F.lit(share) for share in QUANTILES)))


def distinct_edges(found: Sequence[float] | None) -> tuple[float, ...]:
    """Quantiles as edges: ascending, finite, each once; none where there were no rows."""
    return tuple(sorted({edge for edge in found or () if math.isfinite(edge)}))


def with_bands(frame: DataFrame, edges: Mapping[str, Sequence[float]]) -> DataFrame:
    """Adds to each column the bin of its value: edges reached plus edges exceeded.

    So a value that lies on an edge has a bin of its own, and what many rows share, such as the 0 of
    an indicator, is told from everything beside it.

    Spark ML searches each value's place among its splits. Comparisons written as expressions make a
    method too long for the JVM to compile: 32 columns by 300,000 rows took two minutes.

    Args:
        frame: Has the columns, as numbers.
        edges: Column to ascending edges.

    Returns:
        The frame with a column `band_<name>`, a whole number as double, for each.
    """
    if not edges:
        return frame
    bucketizer = Bucketizer(
        inputCols=list(edges),
        outputCols=[f"band_{name}" for name in edges],
        splitsArray=[_splits(some) for some in edges.values()],
        handleInvalid="keep",
    )
    return bucketizer.transform(frame)


def _splits(edges: Sequence[float]) -> list[float]:
    """Each edge twice, as itself and as the next number: between the two lies only itself."""
    inner = {side for edge in edges for side in (edge, math.nextafter(edge, math.inf))}
    return [-math.inf, *(sorted(inner) or [0.0]), math.inf]


def population_stability_index(before: Mapping[int, int], after: Mapping[int, int]) -> float:
    """How far two histograms lie apart: the sum of (q - p) ln(q / p) over their bins.

    Half a row is added to each bin that either has, so that an empty one gives a large number, not
    an infinite one.

    Args:
        before: Bin to rows.
        after: Bin to rows.

    Returns:
        0 for equal shares; NaN where one side has no rows.

    Source:
        Siddiqi, Credit Risk Scorecards (2006); it is Jeffreys' divergence of the two.
    """
    bins = [bin_ for bin_ in before.keys() | after.keys() if before.get(bin_) or after.get(bin_)]
    totals = [sum(side.values()) for side in (before, after)]
    if not all(totals):
        return math.nan
    p, q = (
        [(side.get(bin_, 0) + 0.5) / (total + 0.5 * len(bins)) for bin_ in sorted(bins)]
        for side, total in zip((before, after), totals, strict=True)
    )
    return math.fsum((b - a) * math.log(b / a) for a, b in zip(p, q, strict=True))
