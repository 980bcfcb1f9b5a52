"""Histograms of what a network is given and of what it says, on bins that never move.

Training and scoring count on the same bins, so counts of any blocks of rows add up exactly, and
what to compare them by is decided afterwards. A number's bin is the top of its bits: sign, exponent
and the first bits of the mantissa, as floats are ordered like their bits but for the sign. That
costs a shift; edges that fit the data would cost a search for each value.

Source: IEEE 754-2019, 3.4 (the format) and 5.10 (the order of the bits).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from collections.abc import Sequence as Listed
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pipeline.config import TaskName
from pipeline.features.kinds import (
    CATEGORICAL,
    NUMERIC,
    Image,
    Sequence,
    Vector,
    lengths_names,
    tensor_names,
)
from pipeline.features.spec import BITS_PER_COLUMN, FeatureSpec
from pipeline.training.tasks import TASKS

FEATURE_BITS = 12
"""Three of the mantissa: bins of an eighth of the power of two that they lie in."""
SCORE_BITS = 14
"""Five of the mantissa, a 32nd: scores lie close together, and so does pictures' brightness."""
_FLOAT_BITS = 32
_CHUNK_BITS = 12
"""Of what was missing, bits that are counted together, by their combinations: one pass for 12."""

Outputs: TypeAlias = tuple[TaskName, Listed[str], Listed[str]]
"""What a model says: its task, its classes and its labels' columns."""


@dataclass(frozen=True, kw_only=True)
class Columns:
    """Columns of one tensor that are counted alike."""

    tensor: str
    """A tensor [rows] or [rows, columns] of inputs or predictions."""
    names: tuple[str, ...]
    """What the columns are called in histograms."""
    sizes: tuple[int, ...]
    """Bins of each."""
    bits: int = 0
    """Of floats, the top bits that are the bin; 0 for whole numbers, which are their own bins."""
    summary: Callable[[Tensor], Tensor] | None = None
    """What makes one number [rows] of a tensor [rows, ...], where that is counted."""

    @classmethod
    def of_floats(
        cls,
        tensor: str,
        names: tuple[str, ...],
        bits: int,
        summary: Callable[[Tensor], Tensor] | None = None,
    ) -> Columns:
        """Columns of numbers."""
        sizes = (1 << bits,) * len(names)
        return cls(tensor=tensor, names=names, sizes=sizes, bits=bits, summary=summary)


@dataclass(frozen=True, kw_only=True)
class Histograms:
    """How many rows lie in which bin, by column."""

    rows: int
    bins: Mapping[str, Mapping[int, int]]
    """Column to bin to rows; bins ascend as values do, and none is empty."""
    missing: Mapping[str, int]
    """Column of `clean` to rows where it was missing, for those whose features do not tell."""


def input_columns(spec: FeatureSpec) -> list[Columns]:
    """What is counted of a network's inputs.

    Numbers and ids; of a sequence its length; of an image its mean brightness; of a vector its
    Euclidean norm.
    """
    names = tensor_names(spec.columns)
    lengths = lengths_names([names[column.name] for column in spec.columns_of(Sequence)])
    columns = [
        Columns.of_floats(NUMERIC, spec.numeric_columns, FEATURE_BITS),
        Columns(tensor=CATEGORICAL, names=spec.categorical_columns, sizes=spec.cardinalities),
        *(
            Columns.of_floats(names[column.name], (column.name,), SCORE_BITS, summary)
            for form, summary in ((Image, brightness), (Vector, norm))
            for column in spec.columns_of(form)
        ),
        *(
            Columns(
                tensor=lengths[names[column.name]],
                names=(column.name,),
                sizes=(column.longest + 1,),
            )
            for column in spec.columns_of(Sequence)
        ),
    ]
    return [each for each in columns if each.names]


def score_columns(task: TaskName, classes: Listed[str], labels: Listed[str]) -> list[Columns]:
    """What is counted of a model's predictions."""
    return [
        Columns(tensor=each.tensor, names=each.names, sizes=(each.classes,) * len(each.names))
        if each.classes
        else Columns.of_floats(each.tensor, each.names, SCORE_BITS)
        for each in TASKS[task].counted(classes, labels)
    ]


class Tally:
    """Counts blocks of rows.

    Args:
        columns: What to count.
        imputed: Columns of `clean` whose missing values the tensors `_missing_0`, ... tell of.
    """

    def __init__(self, columns: Iterable[Columns], imputed: Listed[str] = ()) -> None:
        self._columns = tuple(columns)
        self._imputed = tuple(imputed)
        self._rows = 0
        self._counts = [np.zeros(sum(each.sizes), np.int64) for each in self._columns]
        # Of each column of bits, of each chunk of its bits: rows by combination.
        self._combinations = [
            [np.zeros(1 << _CHUNK_BITS, np.int64) for _ in range(0, bits, _CHUNK_BITS)]
            for bits in _bits_of(len(self._imputed))
        ]

    def add(self, tensors: Mapping[str, Tensor], rows: int) -> None:
        """Counts a block.

        Args:
            tensors: The tensors of the columns, each [rows] or [rows, columns], on the CPU; images
                are [rows, ...]. Others are left alone.
            rows: How many.
        """
        self._rows += rows
        for counts, columns in zip(self._counts, self._columns, strict=True):
            values = tensors[columns.tensor]
            values = values if columns.summary is None else columns.summary(values)
            _count(places(values, columns), counts)
        for place, chunks in enumerate(self._combinations):
            held = tensors[f"_missing_{place}"]
            for chunk, counts in enumerate(chunks):
                _count(held >> (chunk * _CHUNK_BITS) & (len(counts) - 1), counts)

    def histograms(self) -> Histograms:
        """What was counted so far."""
        return Histograms(
            rows=self._rows,
            bins=dict(self._by_name()),
            missing=dict(zip(self._imputed, self._missing(), strict=True)),
        )

    def _missing(self) -> list[int]:
        """Rows where each imputed column was missing."""
        # [combinations, bits of a chunk]
        is_set = np.arange(1 << _CHUNK_BITS)[:, None] >> np.arange(_CHUNK_BITS) & 1
        rows: list[int] = []
        for bits, chunks in zip(_bits_of(len(self._imputed)), self._combinations, strict=True):
            rows += np.concatenate([counts @ is_set for counts in chunks])[:bits].tolist()
        return rows

    def _by_name(self) -> Iterator[tuple[str, dict[int, int]]]:
        for counts, columns in zip(self._counts, self._columns, strict=True):
            first = 0
            for name, size in zip(columns.names, columns.sizes, strict=True):
                own = counts[first : first + size]
                own = ascending(own) if columns.bits else own
                (filled,) = own.nonzero()
                yield name, dict(zip(filled.tolist(), own[filled].tolist(), strict=True))
                first += size


def total(parts: Listed[Histograms]) -> Histograms:
    """Histograms of the rows of all parts, which are of the same columns."""
    bins: dict[str, Counter[int]] = {}
    missing: Counter[str] = Counter()
    for part in parts:
        for name, counts in part.bins.items():
            bins.setdefault(name, Counter()).update(counts)
        # Columns where nothing was missing are told, too.
        missing.update(part.missing)
    return Histograms(
        rows=sum(part.rows for part in parts),
        bins={name: dict(sorted(counts.items())) for name, counts in bins.items()},
        missing=dict(missing),
    )


def places(values: Tensor, columns: Columns) -> Tensor:
    """Where each value is counted: its bin, behind the bins of the columns before.

    Args:
        values: [rows] or [rows, columns], floats or whole numbers from 0 on.
        columns: What the values are.

    Returns:
        Whole numbers [columns * rows], column by column. Negative floats come first, those near
        zero first of all: see `ascending`.
    """
    # [rows] -> [rows, 1]
    table = values if values.ndim == 2 else values[:, None]
    # [rows, columns] -> [columns, rows], as it lies in memory already where columns are flat.
    held = table.T.contiguous()
    if columns.bits:
        held = held.to(torch.float32).view(torch.int32) >> (_FLOAT_BITS - columns.bits)
    ends = np.cumsum((0, *columns.sizes[:-1])) + ((1 << columns.bits) >> 1)
    return (held + torch.from_numpy(ends)[:, None].to(held.dtype)).view(-1)


def ascending(counts: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """The counts of a column of floats with bins in the order of values; -0 counts as 0."""
    half = len(counts) // 2
    ordered = np.concatenate([counts[:half][::-1], counts[half:]])
    ordered[half] += ordered[half - 1]
    ordered[half - 1] = 0
    return ordered


def brightness(images: Tensor) -> Tensor:
    """The mean of each picture's values, float32 [rows], of images uint8 [rows, ...]."""
    # [rows, height, width, ...] -> [rows, values]
    return images.flatten(1).to(torch.float32).mean(dim=1)


def norm(vectors: Tensor) -> Tensor:
    """The Euclidean norm of each vector, float32 [rows], of vectors [rows, width]."""
    lengths: Tensor = torch.linalg.vector_norm(vectors.to(torch.float32), dim=1)
    return lengths


def _count(found: Tensor, counts: npt.NDArray[np.int64]) -> None:
    """Adds how often each place was found."""
    if len(counts) > 4 * len(found):
        # Of a vast vocabulary most bins stay empty: here only those that are met cost anything.
        np.add.at(counts, found.numpy(), 1)
    else:
        counts += torch.bincount(found, minlength=len(counts)).numpy()


def _bits_of(imputed: int) -> list[int]:
    """How many bits of each of the columns `_missing_0`, ... tell something."""
    firsts = range(0, imputed, BITS_PER_COLUMN)
    return [min(BITS_PER_COLUMN, imputed - first) for first in firsts]
