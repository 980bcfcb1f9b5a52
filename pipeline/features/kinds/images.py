"""The kind `images`: pictures as bytes, passed on as they are."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal

import pyarrow as pa
from pydantic import Field
from pyspark.sql import Column
from pyspark.sql import functions as F

from pipeline.errors import SpecError
from pipeline.features.kinds.columns import FeatureColumn, Image
from pipeline.features.kinds.kind import BYTES, FeatureSettings, Fitted, Kind, Measured
from pipeline.features.kinds.values import rows_of
from pipeline.settings import Positive

Encoding = Literal["raw", "png", "jpeg"]


class Images(FeatureSettings):
    """A picture in a binary column."""

    shape: tuple[Positive, ...] = Field(min_length=2, max_length=3)
    """Height and width, then channels if there are several."""
    encoding: Encoding = "raw"
    """`raw`: a byte a value, rows from the top. PNG and JPEG ask for the extra `images`."""

    @property
    def form(self) -> type[FeatureColumn]:
        """One of `pipeline.features.kinds.columns`."""
        return Image

    def fitted(self, name: str, measured: Measured) -> FittedImage:
        """Returns the part; nothing is fitted."""
        del measured
        return FittedImage(column=name, shape=self.shape, encoding=self.encoding)


class FittedImage(Fitted):
    """The bytes themselves, one column, `binary`; the stream decodes them to uint8 [*shape]."""

    kind: Literal["images"] = "images"
    shape: tuple[int, ...]
    """Height and width, then channels if there are several."""
    encoding: Encoding

    @property
    def bytes(self) -> int | None:
        """Length of every row's image; None where it is compressed."""
        return math.prod(self.shape) if self.encoding == "raw" else None

    def columns(self) -> tuple[FeatureColumn, ...]:
        """`image_<column>`."""
        name = f"image_{self.column}"
        return (Image(name=name, source=self.column, shape=self.shape, encoding=self.encoding),)

    def spark(self) -> tuple[Column, ...]:
        """The bytes."""
        return (F.col(self.column),)

    def arrow(self, rows: Mapping[str, pa.Array]) -> tuple[pa.Array, ...]:
        """The bytes."""
        return (rows_of(rows, self.column).cast(pa.binary()),)

    def is_bad(self) -> Column:
        """Whether it is null, or of another length than a batch of images needs."""
        image = F.col(self.column)
        missing = image.isNull()
        return missing if self.bytes is None else missing | (F.length(image) != self.bytes)

    def bad_rows(self, bad: int, rows: int) -> SpecError:
        """The error that tells which rule would keep such rows out."""
        shape = " x ".join(str(side) for side in self.shape)
        rule, problem = f"{self.column} IS NOT NULL", "null"
        if self.bytes is not None:
            rule, problem = (
                f"length({self.column}) = {self.bytes}",
                f"not {self.bytes} bytes ({shape})",
            )
        return SpecError(
            f"features.images.{self.column}",
            f"is {problem} in {bad} of {rows} rows",
            f"Nothing was committed; correct the shape, or write a rule under clean.rules: {rule}.",
        )


KIND = Kind(in_version_1=True, name="images", settings=Images, fitted=FittedImage, need=BYTES)
