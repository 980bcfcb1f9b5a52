"""The kind `vectors`: arrays of numbers of a fixed length, such as embeddings made elsewhere."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import numpy as np
import pyarrow as pa
from pyspark.sql import Column
from pyspark.sql import functions as F

from pipeline.errors import SpecError
from pipeline.features.kinds.columns import FeatureColumn, Vector
from pipeline.features.kinds.kind import (
    NUMBERS,
    FeatureSettings,
    Fitted,
    Kind,
    Measured,
    Need,
)
from pipeline.features.kinds.lists import lists_of
from pipeline.features.kinds.values import Floats, held_by_a_float, numbers_in, rows_of
from pipeline.settings import Positive

_NEED = Need(NUMBERS.fits, "a vector is to be an array of numbers", NUMBERS.remedy)
Missing = Literal["error", "zeros"]


class Vectors(FeatureSettings):
    """An array of numbers that has the same length in every row."""

    width: Positive
    """Numbers of each row."""
    missing: Missing = "error"
    """What a null array does: it ends featurize, or becomes zeros."""
    normalize: bool = False
    """Divides by the Euclidean norm."""

    @property
    def form(self) -> type[FeatureColumn]:
        """One of `pipeline.features.kinds.columns`."""
        return Vector

    def fitted(self, name: str, measured: Measured) -> FittedVector:
        """Returns the part; nothing is fitted."""
        del measured
        return FittedVector(
            column=name, width=self.width, missing=self.missing, normalize=self.normalize
        )


class FittedVector(Fitted):
    """The numbers themselves, or x / sqrt(sum of x^2); one column, `array<float>` [width].

    Both are computed in doubles, the sum from the first number to the last, so Spark and NumPy
    give the same bits. A vector of zeros stays as it is. A null array is zeros where `missing`
    says so; an array of another length, or with an element that is no number a float can hold,
    ends the run.

    Source: scikit-learn, Normalizer with `norm="l2"`; Spark ML's Normalizer.
    """

    kind: Literal["vectors"] = "vectors"
    width: int
    missing: Missing
    normalize: bool

    @property
    def traceless(self) -> Literal["null"] | None:  # type: ignore[override]
        """Null arrays are counted apart where they become zeros."""
        return "null" if self.missing == "zeros" else None

    def columns(self) -> tuple[FeatureColumn, ...]:
        """`vector_<column>`."""
        return (Vector(name=f"vector_{self.column}", source=self.column, width=self.width),)

    def spark(self) -> tuple[Column, ...]:
        """The numbers, zeros for null."""
        numbers = F.transform(F.col(self.column), lambda value: value.cast("double"))
        if self.normalize:
            squares = F.aggregate(numbers, F.lit(0.0), lambda total, x: total + x * x)
            norm = F.when(squares > 0, F.sqrt(squares)).otherwise(1.0)
            numbers = F.transform(numbers, lambda x: x / norm)
        return (F.coalesce(numbers, F.array(*[F.lit(0.0)] * self.width)),)

    def arrow(self, rows: Mapping[str, pa.Array]) -> tuple[pa.Array, ...]:
        """The numbers, zeros for null.

        Raises:
            SpecError: A row cannot be a vector.
        """
        lists = rows_of(rows, self.column)
        missing = np.asarray(lists.is_null())
        lengths = np.asarray(lists.value_lengths().fill_null(0))
        bad = (lengths != self.width) & ~missing
        if self.missing == "error":
            bad |= missing
        values = numbers_in(lists.flatten())
        row_of_each = np.repeat(np.arange(len(lists)), lengths)
        bad[row_of_each[np.isnan(values)]] = True
        if bad.any():
            raise self.bad_rows(int(bad.sum()), len(lists))
        table = np.zeros((len(lists), self.width))
        # [rows with a vector x width] -> [rows with a vector, width]
        table[~missing] = values.reshape(-1, self.width)
        return (lists_of(_normalized(table) if self.normalize else table),)

    def is_bad(self) -> Column:
        """Whether it is null, of another length, or holds what is no number."""
        values = F.col(self.column)
        not_numbers = F.exists(values, lambda value: held_by_a_float(value).isNull())
        is_wrong = (F.size(values) != self.width) | not_numbers
        return F.when(values.isNull(), F.lit(self.missing == "error")).otherwise(is_wrong)

    def bad_rows(self, bad: int, rows: int) -> SpecError:
        """The error that tells which rule would keep such rows out."""
        name = self.column
        rule = f"size({name}) = {self.width} AND forall({name}, x -> abs(x) < 3.4e38)"
        either = (
            "correct the width, or"
            if self.missing == "zeros"
            else ("correct the width, allow null by missing: zeros, or")
        )
        return SpecError(
            f"features.vectors.{name}",
            f"is not {self.width} numbers in {bad} of {rows} rows",
            f"Nothing was committed; {either} write a rule under clean.rules: {rule}.",
        )


def _normalized(table: Floats) -> Floats:
    """Rows divided by their norms, float64 [rows, width]."""
    squares = np.zeros(len(table))
    # One after the other: NumPy's own sum adds in another order than Spark.
    for component in table.T:
        squares = squares + component * component
    norms = np.where(squares > 0, np.sqrt(squares), 1.0)
    # [rows] -> [rows, 1]
    return table / norms[:, None]


KIND = Kind(name="vectors", settings=Vectors, fitted=FittedVector, need=_NEED)
