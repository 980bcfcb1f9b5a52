"""Kinds of a user's own: 1 / x, a pair of ids, and a list that is no kind at all."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import numpy as np
import pyarrow as pa
from pyspark.sql import Column
from pyspark.sql import functions as F

from pipeline.features.kinds import FeatureColumn, FeatureSettings, Fitted, Id, Kind, Measured, Need
from pipeline.features.kinds import Number as NumberColumn
from pipeline.features.kinds.kind import is_number
from pipeline.features.kinds.values import floats, number_of, numbers_in, rows_of
from pipeline.settings import Positive

A_NUMBER = Need(is_number, "its reciprocal is to be a number", "Derive a number from it.")


class Reciprocal(FeatureSettings):
    """1 / x."""

    at_zero: float = 0.0

    @property
    def form(self) -> type[FeatureColumn]:
        return NumberColumn

    def fitted(self, name: str, measured: Measured) -> FittedReciprocal:
        del measured
        return FittedReciprocal(column=name, at_zero=self.at_zero)


class FittedReciprocal(Fitted):
    """1 / x, one column."""

    kind: Literal["reciprocal"] = "reciprocal"
    at_zero: float

    traceless = "no number"

    def columns(self) -> tuple[FeatureColumn, ...]:
        return (NumberColumn(name=f"reciprocal_{self.column}", source=self.column),)

    def spark(self) -> tuple[Column, ...]:
        value = number_of(self.column)
        return (F.coalesce(F.when(value != 0, F.lit(1.0) / value), F.lit(self.at_zero)),)

    def arrow(self, rows: Mapping[str, pa.Array]) -> tuple[pa.Array, ...]:
        value = numbers_in(rows_of(rows, self.column))
        is_zero = np.isnan(value) | (value == 0)
        return (floats(np.where(is_zero, self.at_zero, 1.0 / np.where(is_zero, 1.0, value))),)


class Digits(FeatureSettings):
    """The last two digits of |x|, each of them an id; the base is fitted as the greatest value."""

    offset: Positive = 2

    @property
    def form(self) -> type[FeatureColumn]:
        return Id

    def measures(self, name: str) -> Mapping[str, Column]:
        return {"greatest": F.max(F.abs(F.col(name)))}

    def fitted(self, name: str, measured: Measured) -> FittedDigits:
        return FittedDigits(
            column=name, offset=self.offset, greatest=int(measured.values["greatest"])
        )


class FittedDigits(Fitted):
    """Two columns of ids."""

    kind: Literal["digits"] = "digits"
    offset: int
    greatest: int

    def columns(self) -> tuple[FeatureColumn, ...]:
        return tuple(
            Id(
                name=f"{place}_{self.column}",
                source=self.column,
                size=self.offset + 10,
                missing=None,
                unknown=None,
            )
            for place in ("ones", "tens")
        )

    def spark(self) -> tuple[Column, ...]:
        value = F.coalesce(F.abs(F.col(self.column).cast("bigint")), F.lit(0))
        return tuple(F.floor(value / step) % 10 + self.offset for step in (1, 10))

    def arrow(self, rows: Mapping[str, pa.Array]) -> tuple[pa.Array, ...]:
        value = np.nan_to_num(np.abs(numbers_in(rows_of(rows, self.column)))).astype(np.int64)
        return tuple(
            pa.array((value // step % 10 + self.offset).astype(np.int32)) for step in (1, 10)
        )

    def word(self, id_: int) -> str:
        return f"digit {id_ - self.offset}"


KINDS = [
    Kind(name="reciprocal", settings=Reciprocal, fitted=FittedReciprocal, need=A_NUMBER),
    Kind(name="digits", settings=Digits, fitted=FittedDigits, need=A_NUMBER),
]
