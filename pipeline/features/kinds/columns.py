"""Forms of feature columns: what the table `features` holds, and which tensor it becomes.

Kinds of features are many, forms are five. Storage, stream, networks, drift and report know the
forms only, so a new kind needs nothing of them. In the table, and as a network's input:

    Number    `float`                        one column of `numeric`, float32 [rows, n]
    Id        `int`                          one column of `categorical`, int32 [rows, c]
    Vector    `array<float>`, fixed length   a tensor of its own, float32 [rows, width]
    Image     `binary`                       a tensor of its own, uint8 [rows, *shape]
    Sequence  `array<int>`, `array<float>`   a tensor of its own, [rows, longest of the batch]
      Bag     `array<int>`                   the same, of ids in no order

A sequence has lengths, int64 [rows], as a further input; see `lengths_names` for what they
are called.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import pyarrow as pa

MISSING_ID = 0
UNKNOWN_ID = 1
FIRST_ID = 2
NUMERIC = "numeric"
CATEGORICAL = "categorical"


@dataclass(frozen=True, kw_only=True)
class FeatureColumn:
    """One column of the table `features`."""

    name: str
    source: str
    """Column of `clean`, or derived one, that it is made of; for messages and drift."""
    is_indicator: bool = False
    """Whether it is 1 where the value is missing; these stand behind the others of their kind."""

    arrow: ClassVar[pa.DataType]
    """Type in the table."""
    is_list: ClassVar[bool] = False
    """Whether the table holds arrays, whose values Parquet keeps in a column of their own."""

    @property
    def spark(self) -> str:
        """Type in the table, as Spark SQL writes it."""
        names = {pa.float32(): "float", pa.int32(): "int", pa.binary(): "binary"}
        kind = self.arrow_type
        inner = kind.value_type if pa.types.is_list(kind) else kind
        return f"array<{names[inner]}>" if pa.types.is_list(kind) else names[inner]

    @property
    def arrow_type(self) -> pa.DataType:
        """Type in the table, as Arrow has it."""
        return self.arrow

    @property
    def tensor(self) -> str:
        """The network's input that it belongs to, where it is the only one of its sort."""
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class Number(FeatureColumn):
    """A finite number."""

    arrow: ClassVar[pa.DataType] = pa.float32()

    @property
    def tensor(self) -> str:
        """The matrix of all numbers."""
        return NUMERIC


@dataclass(frozen=True, kw_only=True)
class Id(FeatureColumn):
    """A whole number that an embedding is looked up by."""

    size: int
    """Number of ids, from 0 on, reserved ones included."""
    missing: int | None = MISSING_ID
    """The id of a missing value; None where missing values have no id of their own."""
    unknown: int | None = UNKNOWN_ID
    """The id of a value out of vocabulary; None where every value has an id of its own."""

    arrow: ClassVar[pa.DataType] = pa.int32()

    @property
    def tensor(self) -> str:
        """The matrix of all ids."""
        return CATEGORICAL


@dataclass(frozen=True, kw_only=True)
class Vector(FeatureColumn):
    """An array of finite numbers of a fixed length."""

    width: int
    prefix: str = "vector"

    arrow: ClassVar[pa.DataType] = pa.list_(pa.float32())
    is_list: ClassVar[bool] = True

    @property
    def tensor(self) -> str:
        """A tensor of its own."""
        return self.prefix


@dataclass(frozen=True, kw_only=True)
class Image(FeatureColumn):
    """A picture's bytes."""

    shape: tuple[int, ...]
    """Height and width, then channels if there are several."""
    encoding: Literal["raw", "png", "jpeg"]

    arrow: ClassVar[pa.DataType] = pa.binary()

    @property
    def tensor(self) -> str:
        """A tensor of its own."""
        return "image"


@dataclass(frozen=True, kw_only=True)
class Sequence(FeatureColumn):
    """Ids or numbers in order, of any length up to `longest`."""

    longest: int
    """Steps at most."""
    ids: int = 0
    """Number of ids, the padding's 0 included; 0 where the values are numbers."""
    width: int = 1
    """Numbers of one step, stored one step after the other."""
    ordered: bool = True
    """False for a bag, whose order means nothing."""
    prefix: str

    is_list: ClassVar[bool] = True

    @property
    def arrow_type(self) -> pa.DataType:
        """Type in the table, as Arrow has it."""
        return pa.list_(pa.int32() if self.ids else pa.float32())

    @property
    def tensor(self) -> str:
        """A tensor of its own."""
        return self.prefix


@dataclass(frozen=True, kw_only=True)
class Bag(Sequence):
    """Ids whose order means nothing, of any number up to `longest`; networks take their mean."""

    ordered: bool = False


def tensor_names(columns: Iterable[FeatureColumn]) -> Mapping[str, str]:
    """Names the network's inputs.

    The only image is called `image`. Of several, each has the name of its source: `image_front`,
    `image_back`; likewise for vectors and sequences of one kind.

    Returns:
        Feature column -> network's input.
    """
    listed = list(columns)
    matrices = (NUMERIC, CATEGORICAL)
    counts = Counter(column.tensor for column in listed if column.tensor not in matrices)
    return {
        column.name: f"{column.tensor}_{column.source}"
        if counts[column.tensor] > 1
        else column.tensor
        for column in listed
    }


def lengths_names(sequences: Collection[str]) -> Mapping[str, str]:
    """Names the inputs that hold lengths: `lengths`, or with several sequences `NAME_lengths`.

    Args:
        sequences: The network's inputs that are sequences.

    Returns:
        Each of them -> network's input with its lengths.
    """
    if len(sequences) == 1:
        return dict.fromkeys(sequences, "lengths")
    return {name: f"{name}_lengths" for name in sequences}
