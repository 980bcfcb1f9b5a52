"""The kind `numeric`: a number, scaled."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, ClassVar, Literal

import numpy as np
import pyarrow as pa
from pydantic import Field, FiniteFloat
from pyspark.sql import Column
from pyspark.sql import functions as F

from pipeline.features.kinds.columns import FeatureColumn, Number
from pipeline.features.kinds.kind import (
    A_NUMBER,
    FeatureSettings,
    Fitted,
    Kind,
    Measured,
    require_values,
)
from pipeline.features.kinds.scales import SCALES, Scale, Steps, rounded
from pipeline.features.kinds.values import (
    LARGEST_FLOAT,
    floats,
    limited,
    number_of,
    numbers_in,
    rows_of,
)

VALUES, FILL = "values", "fill"
_FILLS: Mapping[str, Callable[[Column], Column]] = {
    "mean": F.avg,
    "median": lambda number: F.percentile_approx(number, 0.5, 10_000),
}


class Numeric(FeatureSettings):
    """A number, scaled; a missing one becomes 0 after scaling and, if asked, sets an indicator."""

    added: ClassVar[frozenset[str]] = frozenset({"impute"})

    scale: Literal["standard", "robust", "minmax", "log", "quantile", "clip", "none"] = "standard"
    """See `pipeline/features/kinds/scales.py`, a class each with its formula."""
    indicator: bool = False
    """Adds a column that is 1 where the value is missing."""
    impute: Literal["mean", "median"] | FiniteFloat | None = None
    """What a missing value becomes before scaling: the train split's mean or median, or a number.
    By default it becomes 0 after scaling."""

    @property
    def form(self) -> type[FeatureColumn]:
        """One of `pipeline.features.kinds.columns`."""
        return Number

    def measures(self, name: str) -> Mapping[str, Column]:
        """How many values there are, and what the scale needs."""
        number = number_of(name)
        fill = {FILL: _FILLS[self.impute](number)} if isinstance(self.impute, str) else {}
        return {VALUES: F.count(number), **fill, **SCALES[self.scale].measures(number)}

    def fitted(self, name: str, measured: Measured) -> FittedNumber:
        """Returns the scaled number.

        Raises:
            SpecError: It has no value in the train split.
        """
        require_values(measured, VALUES)
        scale = SCALES[self.scale].fitted(measured.values)
        fill = measured.values.get(FILL, self.impute)
        return FittedNumber(
            column=name,
            indicator=self.indicator,
            fill=None if fill is None else rounded(float(fill), beside=float(fill)),
            scale=scale,
        )


class FittedNumber(Fitted):
    """The value, scaled; a missing one is 0, or what `fill` is scaled to. One column, `float`.

    With `indicator` a second column that is 1 where the value is missing, else 0.
    """

    kind: Literal["numeric"] = "numeric"
    indicator: bool
    fill: float | None = None
    """What a missing value becomes before scaling."""
    scale: Annotated[Scale | Steps, Field(discriminator="name")]

    traceless: ClassVar[Literal["null", "no number"] | None] = "no number"

    @property
    def ulps(self) -> int:
        """Those of the scale."""
        return self.scale.ulps

    def columns(self) -> tuple[FeatureColumn, ...]:
        """`num_<column>`, and `missing_<column>` with an indicator."""
        value = Number(name=f"num_{self.column}", source=self.column)
        missing = Number(name=f"missing_{self.column}", source=self.column, is_indicator=True)
        return (value, missing) if self.indicator else (value,)

    def spark(self) -> tuple[Column, ...]:
        """The scaled value, and whether it is missing."""
        value = number_of(self.column)
        known = value if self.fill is None else F.coalesce(value, F.lit(self.fill))
        scaled = limited(self.scale.spark(known), -LARGEST_FLOAT, LARGEST_FLOAT)
        scaled = F.coalesce(scaled, F.lit(0.0))
        return (scaled, value.isNull().cast("float")) if self.indicator else (scaled,)

    def arrow(self, rows: Mapping[str, pa.Array]) -> tuple[pa.Array, ...]:
        """The scaled value, and whether it is missing."""
        value = numbers_in(rows_of(rows, self.column))
        missing = np.isnan(value)
        known = value if self.fill is None else np.where(missing, self.fill, value)
        scaled = np.clip(self.scale.arrow(known), -LARGEST_FLOAT, LARGEST_FLOAT)
        made = floats(scaled, missing=0.0)
        return (made, floats(missing)) if self.indicator else (made,)


KIND = Kind(in_version_1=True, name="numeric", settings=Numeric, fitted=FittedNumber, need=A_NUMBER)
