"""The kind `series`: arrays of numbers of any length, such as the readings of a day."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

import numpy as np
import pyarrow as pa
from pyspark.sql import Column
from pyspark.sql import functions as F

from pipeline.features.kinds.columns import FeatureColumn, Sequence
from pipeline.features.kinds.kind import NUMBERS, FeatureSettings, Fitted, Kind, Measured
from pipeline.features.kinds.lists import ends_of
from pipeline.features.kinds.values import floats, held_by_a_float, numbers_in, rows_of
from pipeline.settings import Positive


class Series(FeatureSettings):
    """An array of numbers, of any length, such as the readings of a day."""

    longest: Positive = 512
    """Values kept, from the end: the newest."""

    @property
    def form(self) -> type[FeatureColumn]:
        """One of `pipeline.features.kinds.columns`."""
        return Sequence

    def fitted(self, name: str, measured: Measured) -> FittedSeries:
        """Returns the part; nothing is fitted."""
        del measured
        return FittedSeries(column=name, longest=self.longest)


class FittedSeries(Fitted):
    """The last values of an array, one column, `array<float>`.

    What is no number becomes 0; a missing array is one of no values.
    """

    kind: Literal["series"] = "series"
    longest: int

    traceless: ClassVar[Literal["null", "no number"] | None] = "null"

    def columns(self) -> tuple[FeatureColumn, ...]:
        """`series_<column>`."""
        name = f"series_{self.column}"
        return (Sequence(name=name, source=self.column, longest=self.longest, prefix="series"),)

    def spark(self) -> tuple[Column, ...]:
        """The last values; an empty array for null."""
        values = F.col(self.column)
        first = F.greatest(F.size(values) - self.longest + 1, F.lit(1))
        numbers = F.transform(
            F.slice(values, first, self.longest),
            lambda value: F.coalesce(held_by_a_float(value), F.lit(0.0)).cast("float"),
        )
        return (F.coalesce(numbers, F.array().cast("array<float>")),)

    def arrow(self, rows: Mapping[str, pa.Array]) -> tuple[pa.Array, ...]:
        """The last values; an empty array for null."""
        kept = ends_of(rows_of(rows, self.column), self.longest)
        numbers = floats(np.nan_to_num(numbers_in(kept.values)))
        return (pa.ListArray.from_arrays(kept.offsets, numbers),)


KIND = Kind(in_version_1=True, name="series", settings=Series, fitted=FittedSeries, need=NUMBERS)
