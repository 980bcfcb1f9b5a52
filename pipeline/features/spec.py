"""The feature spec: everything that turns a row of `clean` into a row of `features`.

It is fitted on the train split, kept as JSON, and never changes: another fit is another spec with
another hash. Training, scoring and every later row use the same one.
"""

from __future__ import annotations

import math
from typing import Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    SerializerFunctionWrapHandler,
    ValidationError,
    model_serializer,
)

from pipeline.config import History, Label, Splits
from pipeline.errors import SpecError
from pipeline.lake import fingerprint

MISSING_ID = 0
UNKNOWN_ID = 1
FIRST_ID = 2
BITS_PER_COLUMN = 63
"""Of a `bigint`, its sign left out."""


class Part(BaseModel):
    """What all parts of a spec share: no unknown key, no change."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class StandardNumber(Part):
    """(value - mean) / deviation; missing becomes 0."""

    kind: Literal["standard"] = "standard"
    column: str
    indicator: bool
    mean: float
    deviation: float


class QuantileNumber(Part):
    """The share of boundaries that the value reaches, from -1 to 1; missing becomes 0."""

    kind: Literal["quantile"] = "quantile"
    column: str
    indicator: bool
    boundaries: tuple[float, ...]


class PlainNumber(Part):
    """The value itself; missing becomes 0."""

    kind: Literal["none"] = "none"
    column: str
    indicator: bool


class Vocabulary(Part):
    """A category's id: its place in the vocabulary plus 2; 0 is missing, 1 out of vocabulary."""

    column: str
    words: tuple[str, ...]


class Circle(Part):
    """Sine and cosine of 2 pi value / period; missing becomes the centre, 0 and 0."""

    column: str
    period: float


class Picture(Part):
    """An image, passed on as it is."""

    column: str
    shape: tuple[int, ...]
    """Height and width, then channels if there are several."""
    encoding: Literal["raw", "png", "jpeg"]

    @property
    def bytes(self) -> int | None:
        """Length of every row's image; None where it is compressed."""
        return math.prod(self.shape) if self.encoding == "raw" else None


class HashedText(Part):
    """The first words of a text as ids: 1 + CRC-32 modulo (buckets - 1); 0 is padding."""

    column: str
    separator: str
    buckets: int
    longest: int


class NumberSeries(Part):
    """The last values of an array; what is no number becomes 0."""

    column: str
    longest: int


class FeatureSpec(Part):
    """A fitted spec."""

    format: Literal[1] = 1
    pipeline: str
    keys: tuple[str, ...]
    period_column: str
    label: Label
    splits: Splits
    leakage: tuple[str, ...]
    derive: dict[str, str]
    histories: dict[str, History] = {}
    numbers: tuple[StandardNumber | QuantileNumber | PlainNumber, ...]
    circles: tuple[Circle, ...]
    categories: tuple[Vocabulary, ...]
    images: tuple[Picture, ...] = ()
    tokens: tuple[HashedText, ...] = ()
    series: tuple[NumberSeries, ...] = ()

    @model_serializer(mode="wrap")
    def _without_empty_histories(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Specs without histories keep the hash that they had before there were any."""
        dumped: dict[str, Any] = dump(self)
        if not self.histories:
            dumped.pop("histories", None)
        return dumped

    @property
    def hash(self) -> str:
        """16 hexadecimal digits over the whole spec."""
        return fingerprint(spec=self.model_dump(mode="json"))

    @property
    def table(self) -> str:
        """Name of the table that holds the features of this spec."""
        return f"features/{self.hash}"

    @property
    def numeric_columns(self) -> tuple[str, ...]:
        """Columns of the table that are `float`, in the order of the model's input."""
        return (
            *(f"num_{number.column}" for number in self.numbers),
            *(f"missing_{number.column}" for number in self.numbers if number.indicator),
            *(f"{wave}_{circle.column}" for circle in self.circles for wave in ("sin", "cos")),
        )

    @property
    def categorical_columns(self) -> tuple[str, ...]:
        """Columns of the table that are `int` ids, in the order of the model's input."""
        return tuple(f"cat_{category.column}" for category in self.categories)

    @property
    def cardinalities(self) -> tuple[int, ...]:
        """Number of ids of each categorical column, reserved ids included."""
        return tuple(len(category.words) + FIRST_ID for category in self.categories)

    @property
    def image_columns(self) -> tuple[str, ...]:
        """Columns of the table that are `binary`."""
        return tuple(f"image_{picture.column}" for picture in self.images)

    @property
    def token_columns(self) -> tuple[str, ...]:
        """Columns of the table that are `array<int>`, of any length up to `longest`."""
        return tuple(f"tokens_{text.column}" for text in self.tokens)

    @property
    def token_ids(self) -> int:
        """Number of ids that tokens may have, that of the padding included; 0 without tokens."""
        return max((text.buckets for text in self.tokens), default=0)

    @property
    def series_columns(self) -> tuple[str, ...]:
        """Columns of the table that are `array<float>`, of any length up to `longest`."""
        return tuple(f"series_{series.column}" for series in self.series)

    @property
    def feature_columns(self) -> tuple[str, ...]:
        """All columns of the table that a network is given."""
        return (
            *self.numeric_columns,
            *self.categorical_columns,
            *self.image_columns,
            *self.token_columns,
            *self.series_columns,
        )

    @property
    def imputed_columns(self) -> tuple[str, ...]:
        """Columns of `clean` whose missing values leave no trace in the features, each once."""
        parts = (*self.numbers, *self.circles, *self.tokens, *self.series)
        return tuple(dict.fromkeys(part.column for part in parts))

    @property
    def missing_columns(self) -> tuple[str, ...]:
        """Columns of the table that tell what was missing, for drift; no network is given them.

        `bigint`: bit i of column k is set where `imputed_columns[63 k + i]` was missing.
        """
        columns = -(-len(self.imputed_columns) // BITS_PER_COLUMN)
        return tuple(f"_missing_{place}" for place in range(columns))

    @property
    def label_columns(self) -> tuple[str, ...]:
        """Columns of the table that hold the label: all of them null, or none."""
        return self.label.columns

    @property
    def label_column(self) -> str:
        """The first of the label's columns."""
        return self.label_columns[0]

    @property
    def key_columns(self) -> tuple[str, ...]:
        """Columns that name a row."""
        return self.keys

    def to_json(self) -> str:
        """The spec for people and for `from_json`."""
        return self.model_dump_json(indent=2)

    @classmethod
    def from_json(cls, text: str | bytes) -> FeatureSpec:
        """Reads what `to_json` wrote; runs nothing.

        Raises:
            SpecError: It is not a spec, or one of another format.
        """
        try:
            return cls.model_validate_json(text)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            place = ".".join(str(part) for part in first["loc"])
            raise SpecError(
                f"feature spec, {place or 'whole'}",
                first["msg"],
                "Run featurize again with this version of lakestorm.",
            ) from error
