"""The kind `buckets`: a number as the id of the interval that it lies in."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

import numpy as np
import pyarrow as pa
from pydantic import Field, model_validator
from pyspark.sql import Column
from pyspark.sql import functions as F

from pipeline.features.kinds.columns import MISSING_ID, FeatureColumn, Id
from pipeline.features.kinds.kind import (
    A_NUMBER,
    FeatureSettings,
    Fitted,
    Kind,
    Measured,
    require_values,
)
from pipeline.features.kinds.scales import percentiles
from pipeline.features.kinds.values import number_of, numbers_in, rows_of

VALUES, QUANTILES, LEAST, GREATEST = "values", "quantiles", "least", "greatest"
FIRST_BUCKET = MISSING_ID + 1


class Buckets(FeatureSettings):
    """A number as the id of its interval; every number has one, 0 is a missing value."""

    count: Annotated[int, Field(ge=2, le=10_000)] | None = None
    """Intervals at most; quantiles that are equal make fewer."""
    strategy: Literal["quantile", "uniform"] = "quantile"
    """Where `count` intervals meet: at train quantiles, or at equal distances from the least train
    value to the greatest."""
    edges: tuple[float, ...] | None = None
    """Where the intervals meet, ascending, in place of `count`."""

    @property
    def form(self) -> type[FeatureColumn]:
        """One of `pipeline.features.kinds.columns`."""
        return Id

    def measures(self, name: str) -> Mapping[str, Column]:
        """How many values there are, and what the strategy needs; nothing where edges are given."""
        if self.count is None:
            return {}
        number = number_of(name)
        asked = {VALUES: F.count(number)}
        if self.strategy == "uniform":
            return {**asked, LEAST: F.min(number), GREATEST: F.max(number)}
        shares = tuple(rank / self.count for rank in range(self.count + 1))
        return {**asked, QUANTILES: percentiles(number, shares)}

    def fitted(self, name: str, measured: Measured) -> FittedBuckets:
        """Returns the intervals.

        Raises:
            SpecError: The column has no value in the train split.
        """
        if self.edges is not None:
            return FittedBuckets(column=name, edges=self.edges)
        require_values(measured, VALUES)
        # The first and the last interval are open: the least and greatest value are no edges.
        return FittedBuckets(column=name, edges=self._quantiles(measured.values)[1:-1])

    def _quantiles(self, measured: Mapping[str, Any]) -> tuple[float, ...]:
        """The distinct ends of all intervals, ascending."""
        if self.strategy == "quantile":
            return tuple(dict.fromkeys(measured[QUANTILES]))
        assert self.count is not None  # noqa: S101 - for mypy: one of the two is set
        least, greatest = measured[LEAST], measured[GREATEST]
        width = (greatest - least) / self.count
        ends = (*(least + width * place for place in range(self.count)), greatest)
        return tuple(dict.fromkeys(ends))

    @model_validator(mode="after")
    def _one_of_both(self) -> Self:
        if (self.count is None) == (self.edges is None):
            raise ValueError("set either count or edges")
        if self.edges is not None and "strategy" in self.model_fields_set:
            raise ValueError("strategy says where count intervals meet; edges say it themselves")
        edges = self.edges or (0.0,)
        ascending = all(low < high for low, high in itertools.pairwise(edges))
        if not self.edges and self.count is None:
            raise ValueError("edges: name one at least")
        if not ascending or not all(math.isfinite(edge) for edge in edges):
            raise ValueError(f"edges {list(edges)} are not finite and ascending")
        return self


class FittedBuckets(Fitted):
    """1 + the number of edges that the value reaches (value >= edge); 0 is missing.

    One column, `int`, ids 0 to edges + 1. The intervals are closed below and open above, the first
    has no lower and the last no upper end, so no number is unknown.

    Source: scikit-learn, KBinsDiscretizer with `encode="ordinal"`; Spark ML's Bucketizer with
    infinite first and last splits.
    """

    kind: Literal["buckets"] = "buckets"
    edges: tuple[float, ...]
    """Where the intervals meet, ascending."""

    def columns(self) -> tuple[FeatureColumn, ...]:
        """`bucket_<column>`."""
        size = FIRST_BUCKET + len(self.edges) + 1
        return (Id(name=f"bucket_{self.column}", source=self.column, size=size, unknown=None),)

    def spark(self) -> tuple[Column, ...]:
        """The id of the value's interval."""
        value = number_of(self.column)
        # A sum of comparisons is one piece of generated code without branches or objects.
        reached = F.lit(FIRST_BUCKET)
        for edge in self.edges:
            reached = reached + (value >= F.lit(edge)).cast("int")
        return (F.when(value.isNull(), MISSING_ID).otherwise(reached),)

    def arrow(self, rows: Mapping[str, pa.Array]) -> tuple[pa.Array, ...]:
        """The id of the value's interval."""
        values = numbers_in(rows_of(rows, self.column))
        reached = np.searchsorted(np.array(self.edges), values, side="right") + FIRST_BUCKET
        ids = np.where(np.isnan(values), MISSING_ID, reached)
        return (pa.array(ids.astype(np.int32)),)

    def word(self, id_: int) -> str:
        """The interval."""
        place = id_ - FIRST_BUCKET
        if not self.edges:
            return "any number"
        if place == 0:
            return f"below {self.edges[0]:g}"
        if place >= len(self.edges):
            return f"{self.edges[-1]:g} and above"
        return f"{self.edges[place - 1]:g} to below {self.edges[place]:g}"


KIND = Kind(name="buckets", settings=Buckets, fitted=FittedBuckets, need=A_NUMBER)
