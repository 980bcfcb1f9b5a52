"""The kind `piecewise`: a number as a vector, by piecewise linear encoding."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from typing import Annotated, ClassVar, Literal

import numpy as np
import pyarrow as pa
from pydantic import Field
from pyspark.sql import Column
from pyspark.sql import functions as F

from pipeline.features.kinds.columns import FeatureColumn, Vector
from pipeline.features.kinds.kind import (
    A_NUMBER,
    FeatureSettings,
    Fitted,
    Kind,
    Measured,
    require_values,
)
from pipeline.features.kinds.lists import lists_of
from pipeline.features.kinds.scales import percentiles
from pipeline.features.kinds.values import (
    LARGEST_FLOAT,
    limited,
    limited_floats,
    number_of,
    numbers_in,
    rows_of,
)

VALUES, QUANTILES = "values", "quantiles"


class Piecewise(FeatureSettings):
    """A number as a vector: how far it has come through each bin between train quantiles."""

    bins: Annotated[int, Field(ge=1, le=1_000)] = 16
    """Bins between equally spaced quantiles; fewer where quantiles are equal."""

    @property
    def form(self) -> type[FeatureColumn]:
        """One of `pipeline.features.kinds.columns`."""
        return Vector

    def measures(self, name: str) -> Mapping[str, Column]:
        """How many values there are, and the quantiles of 0, 1/bins, ... 1."""
        number = number_of(name)
        shares = tuple(rank / self.bins for rank in range(self.bins + 1))
        return {VALUES: F.count(number), QUANTILES: percentiles(number, shares)}

    def fitted(self, name: str, measured: Measured) -> FittedPiecewise:
        """Returns the bins.

        Raises:
            SpecError: The column has no value in the train split.
        """
        require_values(measured, VALUES)
        return FittedPiecewise(column=name, edges=tuple(dict.fromkeys(measured.values[QUANTILES])))


class FittedPiecewise(Fitted):
    """Component t is (value - b[t-1]) / (b[t] - b[t-1]), limited to [0, 1]; one column.

    b are the distinct train quantiles. The first component has no lower limit and the last no
    upper one, so that values beyond the train split's are told apart. Where all quantiles are
    equal, the only component is value - b[0]. A missing value is all 0.

    `array<float>` [width], width = quantiles - 1, at least 1; without a unit.

    Source: Gorishniy et al., On Embeddings for Numerical Features in Tabular Deep Learning (2022),
    https://arxiv.org/abs/2203.05556, equations 1 and 2.
    """

    kind: Literal["piecewise"] = "piecewise"
    edges: Annotated[tuple[float, ...], Field(min_length=1)]
    """Distinct quantiles, ascending."""

    traceless: ClassVar[Literal["null", "no number"] | None] = "no number"

    @property
    def width(self) -> int:
        """Number of bins."""
        return max(len(self.edges) - 1, 1)

    def columns(self) -> tuple[FeatureColumn, ...]:
        """`piecewise_<column>`."""
        name = f"piecewise_{self.column}"
        return (Vector(name=name, source=self.column, width=self.width, prefix="piecewise"),)

    def spark(self) -> tuple[Column, ...]:
        """The components, all 0 for null."""
        value = number_of(self.column)
        components = [
            F.coalesce(limited((value - F.lit(begin)) / F.lit(width), low, high), F.lit(0.0))
            for begin, width, low, high in self._bins()
        ]
        return (F.array(*components),)

    def arrow(self, rows: Mapping[str, pa.Array]) -> tuple[pa.Array, ...]:
        """The components, all 0 for null."""
        values = numbers_in(rows_of(rows, self.column))
        components = [
            limited_floats((values - begin) / width, low, high)
            for begin, width, low, high in self._bins()
        ]
        # [bins][rows] -> [rows, bins]
        table = np.stack(components, axis=1)
        return (lists_of(np.where(np.isnan(table), 0.0, table)),)

    def _bins(self) -> Iterator[tuple[float, float, float, float]]:
        """The begin and width of each bin, and the limits of its component."""
        pairs = list(itertools.pairwise(self.edges)) or [(self.edges[0], self.edges[0] + 1.0)]
        for place, (begin, end) in enumerate(pairs):
            low = -LARGEST_FLOAT if place == 0 else 0.0
            high = LARGEST_FLOAT if place == len(pairs) - 1 else 1.0
            # A constant of 1e300 plus 1 is itself, and must not divide by zero.
            yield begin, (end - begin) or 1.0, low, high


KIND = Kind(name="piecewise", settings=Piecewise, fitted=FittedPiecewise, need=A_NUMBER)
