"""The kind `cyclic`: a number on a circle, such as the time of day."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import ClassVar, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field
from pyspark.sql import Column
from pyspark.sql import functions as F

from pipeline.features.kinds.columns import FeatureColumn, Number
from pipeline.features.kinds.kind import A_NUMBER, FeatureSettings, Fitted, Kind, Measured
from pipeline.features.kinds.values import floats, number_of, numbers_in, rows_of


class Cyclic(FeatureSettings):
    """A number on a circle, such as the time of day, as its sine and cosine."""

    period: float = Field(gt=0, allow_inf_nan=False)

    @property
    def form(self) -> type[FeatureColumn]:
        """One of `pipeline.features.kinds.columns`."""
        return Number

    def fitted(self, name: str, measured: Measured) -> FittedCyclic:
        """Returns the part; nothing is fitted."""
        del measured
        return FittedCyclic(column=name, period=self.period)


class FittedCyclic(Fitted):
    """sin(2 pi value / period) and cos(2 pi value / period), in [-1, 1].

    A missing value becomes the centre of the circle, 0 and 0. Two columns, `float`.
    """

    kind: Literal["cyclic"] = "cyclic"
    period: float

    traceless: ClassVar[Literal["null", "no number"] | None] = "no number"

    @property
    def ulps(self) -> int:
        """Java's and C's sines may differ in the last place."""
        return 1

    def columns(self) -> tuple[FeatureColumn, ...]:
        """`sin_<column>` and `cos_<column>`."""
        return tuple(
            Number(name=f"{wave}_{self.column}", source=self.column) for wave in ("sin", "cos")
        )

    def spark(self) -> tuple[Column, ...]:
        """The two waves."""
        angle = number_of(self.column) * F.lit(2 * math.pi / self.period)
        return F.coalesce(F.sin(angle), F.lit(0.0)), F.coalesce(F.cos(angle), F.lit(0.0))

    def arrow(self, rows: Mapping[str, pa.Array]) -> tuple[pa.Array, ...]:
        """The two waves."""
        # A minute or a month is one of few: a sine costs more than to look a value up.
        encoded = rows_of(rows, self.column).dictionary_encode()
        angle = numbers_in(encoded.dictionary) * (2 * math.pi / self.period)
        missing = np.isnan(angle)
        waves = (np.where(missing, 0.0, wave(angle)) for wave in (np.sin, np.cos))
        return tuple(pc.fill_null(floats(each).take(encoded.indices), 0.0) for each in waves)


KIND = Kind(in_version_1=True, name="cyclic", settings=Cyclic, fitted=FittedCyclic, need=A_NUMBER)
