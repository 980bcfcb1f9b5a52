"""Which columns of the Parquet files become which tensors of a batch."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipeline.errors import PlanError, SchemaError
from pipeline.stream.block_format import Block
from pipeline.stream.codecs import Codec
from pipeline.stream.footers import Footer, is_list, storage_type

_FLOATS = {pa.float16(), pa.float32(), pa.float64()}
_INT32S = {pa.bool_(), pa.int8(), pa.int16(), pa.int32(), pa.uint8(), pa.uint16()}
_INT64S = {pa.int64(), pa.uint32()}


@dataclass(frozen=True, kw_only=True)
class TensorColumn:
    """One column whose every row is an array of the same shape: an image, an embedding."""

    column: str
    """Lists of numbers, flat or nested as the shape is, or whatever the codec reads."""

    shape: tuple[int, ...]
    """Of one row."""

    dtype: str | np.dtype[np.generic] | None = None
    """None: the codec's or as stored, so that bytes of images stay bytes; float64 is float32."""

    codec: Codec | None = None
    """How the stored values become arrays, where they are not lists of numbers."""


@dataclass(frozen=True, kw_only=True)
class SequenceColumn:
    """One column of lists whose lengths differ from row to row."""

    column: str
    """Lists of numbers, or what the codec reads."""

    padding: float = 0
    """What stands behind the end of a sequence."""

    width: int = 1
    """Values of one step, stored one step after the other."""

    codec: Codec | None = None


@dataclass(frozen=True, kw_only=True)
class BatchLayout:
    """Names the tensors of a batch and the columns they are made of.

    Float columns become float32; booleans and integers of up to 32 bits become int32; int64 and
    uint32 become int64. A matrix of int32 and int64 columns is int64. Lists of fixed length may
    stand among a matrix's columns and take as many of its columns as they are long.
    """

    matrices: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """Tensor name -> columns, side by side: a tensor [rows, columns].

    One of flat columns lies in memory column after column (`stride(0)` is 1): networks take it as
    it is, and `.contiguous()` makes rows of it.
    """

    scalars: Mapping[str, str] = field(default_factory=dict)
    """Tensor name -> one column: a tensor [rows]."""

    tensors: Mapping[str, TensorColumn] = field(default_factory=dict)
    """Tensor name -> one column: a tensor [rows, *shape]."""

    sequences: Mapping[str, SequenceColumn] = field(default_factory=dict)
    """Tensor name -> one column: a tensor [rows, longest of the batch] and its lengths [rows]."""

    strings: Sequence[str] = ()
    """String columns to deliver under their own names: an object array [rows]."""

    def __post_init__(self) -> None:
        if not self.columns:
            raise PlanError("layout", "no column at all", "Name at least one column.")
        if empty := [name for name, columns in self.matrices.items() if not columns]:
            raise PlanError(f"layout.matrices[{empty[0]!r}]", "no column", "Name its columns.")
        names = [*self.matrices, *self.scalars, *self.tensors, *self.sequences, *self.strings]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise PlanError(f"layout: {twice[0]!r}", "names two things", "Rename one of them.")

    @property
    def columns(self) -> list[str]:
        """Every column that is read, once, in the order of the layout."""
        tensors = [asked.column for asked in self.tensors.values()]
        sequences = [asked.column for asked in self.sequences.values()]
        scalars = list(self.scalars.values())
        nested = [*self.matrices.values(), scalars, tensors, sequences, self.strings]
        return list(dict.fromkeys(column for columns in nested for column in columns))


Held = Any
"""A decoded tensor: its columns [rows] one by one, or an array [rows, *shape of a row]."""


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """One dense tensor of a batch, with what the files' schemas say about it."""

    name: str
    columns: tuple[str, ...]
    dtype: np.dtype[np.generic]
    widths: tuple[int, ...]
    """For each column how many values a row has: 1, or the length of its lists."""

    row_shape: tuple[int, ...]
    """Of one row: () for a scalar, (width,) for a matrix."""

    codec: Codec | None = None

    @property
    def by_column(self) -> bool:
        """Whether it is held column by column: a matrix of flat columns, as Parquet has them.

        Turning columns into rows took as long as decoding them.
        """
        return self.codec is None and len(self.row_shape) == 1 and set(self.widths) == {1}

    def tensor(self, held: Held) -> npt.NDArray[Any]:
        """Returns what is held as [rows, *row_shape]; of flat columns a transposed view."""
        return self.stacked(held).T if self.by_column else held

    def rows(self, held: Held, begin: int, end: int) -> Held:
        """Returns views of rows `begin` to `end` of what is held."""
        if not self.by_column:
            return held[begin:end]
        if isinstance(held, np.ndarray):
            return held[:, begin:end]
        return [column[begin:end] for column in held]

    def stacked(self, held: Held) -> npt.NDArray[Any]:
        """Returns what is held as one array: [columns, rows] or [rows, *row_shape]."""
        if isinstance(held, np.ndarray) and held.dtype == self.dtype:
            return held
        # dtype: the columns may be narrower than the tensor
        return np.stack(held, dtype=self.dtype, casting="same_kind") if self.by_column else held

    @property
    def row_bytes(self) -> int:
        """Bytes of one row."""
        return self.dtype.itemsize * math.prod(self.row_shape)


@dataclass(frozen=True, slots=True)
class SequenceSpec:
    """One padded tensor of a batch."""

    name: str
    column: str
    dtype: np.dtype[np.generic]
    padding: float
    codec: Codec | None
    width: int = 1


@dataclass(frozen=True, slots=True)
class ResolvedLayout:
    """A layout that was found to fit every file."""

    tensors: tuple[TensorSpec, ...]
    sequences: tuple[SequenceSpec, ...]
    strings: tuple[str, ...]

    @property
    def columns(self) -> tuple[str, ...]:
        """Every column that is read, once."""
        dense = [column for spec in self.tensors for column in spec.columns]
        return tuple(dict.fromkeys([*dense, *self.ragged_columns]))

    @property
    def dense_row_bytes(self) -> int:
        """Bytes that one row takes in the dense tensors."""
        return sum(spec.row_bytes for spec in self.tensors)

    @property
    def ragged(self) -> tuple[str, ...]:
        """What has no fixed size a row, and stays with Arrow until a batch is made."""
        return (*(spec.name for spec in self.sequences), *self.strings)

    def rows(self, block: Block, begin: int, end: int) -> Block:
        """Returns views of rows `begin` to `end` of a block."""
        rows = {name: held[begin:end] for name, held in block.items() if name in self.ragged}
        return rows | {spec.name: spec.rows(block[spec.name], begin, end) for spec in self.tensors}

    def stacked(self, block: Block) -> Block:
        """Returns a block with one array for each tensor."""
        return block | {spec.name: spec.stacked(block[spec.name]) for spec in self.tensors}

    @property
    def ragged_columns(self) -> tuple[str, ...]:
        """The file columns behind `ragged`."""
        return (*(spec.column for spec in self.sequences), *self.strings)

    def digest(self) -> str:
        """Identifies what a row group decodes to under this layout, across processes."""
        parts = [
            (s.name, s.columns, s.dtype.str, s.widths, s.row_shape, _described(s.codec))
            for s in self.tensors
        ]
        ragged = [(s.name, s.column, s.dtype.str, _described(s.codec)) for s in self.sequences]
        return hashlib.sha256(repr((parts, ragged, self.strings)).encode()).hexdigest()


def resolve(layout: BatchLayout, footers: Sequence[Footer]) -> ResolvedLayout:
    """Checks the layout against every file and settles dtypes and widths.

    Args:
        layout: The tensors that are asked for.
        footers: The footers of all files; the dtypes are the widest over them.

    Raises:
        SchemaError: A file lacks a column, or has it in a type or length that does not fit.
    """
    for footer in footers:
        _check_names(layout, footer)
        _check_strings(layout, footer)
    tensors = [_matrix(name, tuple(columns), footers) for name, columns in layout.matrices.items()]
    tensors += [_scalar(name, column, footers) for name, column in layout.scalars.items()]
    tensors += [_tensor(name, asked, footers) for name, asked in layout.tensors.items()]
    sequences = [_sequence(name, asked, footers) for name, asked in layout.sequences.items()]
    return ResolvedLayout(tuple(tensors), tuple(sequences), tuple(layout.strings))


def _check_names(layout: BatchLayout, footer: Footer) -> None:
    missing = [column for column in layout.columns if column not in footer.types]
    if missing:
        raise SchemaError(
            f"{footer.file}: column {missing[0]!r}",
            f"missing; the file has {sorted(footer.types)}",
            "Name a column of the file; partition columns are not in the files.",
        )


def _check_strings(layout: BatchLayout, footer: Footer) -> None:
    for column in layout.strings:
        found = footer.types[column]
        if not (pa.types.is_string(found) or pa.types.is_large_string(found)):
            raise SchemaError(
                f"{footer.file}: column {column!r}",
                f"of type {found}, asked for as a string",
                "Ask for it under `matrices` or `scalars`, or write it as a string.",
            )


def _matrix(name: str, columns: tuple[str, ...], footers: Sequence[Footer]) -> TensorSpec:
    widths = _widths(columns, footers)
    return TensorSpec(name, columns, _dtype(columns, footers), widths, (sum(widths),))


def _scalar(name: str, column: str, footers: Sequence[Footer]) -> TensorSpec:
    if lists := [footer for footer in footers if is_list(footer.types[column])]:
        raise SchemaError(
            f"{lists[0].file}: column {column!r}",
            "a list, asked for as a scalar",
            "Ask for it under `matrices`, `tensors` or `sequences`.",
        )
    return TensorSpec(name, (column,), _dtype((column,), footers), (1,), ())


def _tensor(name: str, asked: TensorColumn, footers: Sequence[Footer]) -> TensorSpec:
    width = math.prod(asked.shape)
    if asked.codec is not None:
        if asked.codec.shape != asked.shape:
            raise PlanError(
                f"layout.tensors[{name!r}]",
                f"of shape {asked.shape}, but its codec makes {asked.codec.shape}",
                "Give both the same shape.",
            )
        dtype = np.dtype(asked.dtype or asked.codec.dtype)
        return TensorSpec(name, (asked.column,), dtype, (width,), asked.shape, asked.codec)
    for footer in footers:
        _check_shape(asked, footer)
    _dtype((asked.column,), footers)  # no floats beside integers
    stored = {_stored_dtype(asked.column, footer) for footer in footers}
    common = np.result_type(*stored) if stored else np.dtype(np.float32)
    dtype = np.dtype(asked.dtype) if asked.dtype is not None else common
    # A narrower float is what networks ask for; an integer that does not fit would wrap.
    if not (np.can_cast(common, dtype, "safe") or (common.kind, dtype.kind) == ("f", "f")):
        raise PlanError(
            f"layout.tensors[{name!r}]",
            f"asked for as {dtype}, which does not hold every {common} that is stored",
            "Ask for a wider dtype, or none.",
        )
    return TensorSpec(name, (asked.column,), dtype, (width,), asked.shape)


def _check_shape(asked: TensorColumn, footer: Footer) -> None:
    """Checks what the schema says of a tensor column's shape; nested lists are checked as read."""
    found, width = footer.types[asked.column], footer.width(asked.column)
    where = f"{footer.file}: column {asked.column!r}"
    if isinstance(found, pa.FixedShapeTensorType):
        if tuple(found.shape) != asked.shape:
            raise SchemaError(
                where,
                f"a tensor of shape {tuple(found.shape)}, asked for as {asked.shape}",
                "Correct the shape.",
            )
        if found.permutation and list(found.permutation) != sorted(found.permutation):
            raise SchemaError(
                where,
                f"a tensor with its dimensions permuted: {list(found.permutation)}",
                "Write it in the order of its dimensions.",
            )
    if width is not None and width != math.prod(asked.shape):
        raise SchemaError(
            where,
            f"{width} values a row, but shape {asked.shape} has {math.prod(asked.shape)}",
            "Correct the shape, or ask for it under `sequences` if the lengths differ.",
        )


def _sequence(name: str, asked: SequenceColumn, footers: Sequence[Footer]) -> SequenceSpec:
    if asked.codec is not None:
        dtype = np.dtype(asked.codec.dtype)
    else:
        for footer in footers:
            found = storage_type(footer.types[asked.column])
            if not is_list(found) or is_list(found.value_type):
                raise SchemaError(
                    f"{footer.file}: column {asked.column!r}",
                    f"of type {found}, asked for as a sequence",
                    "A sequence is a list of numbers.",
                )
        dtype = _dtype((asked.column,), footers)
    with np.errstate(invalid="ignore"):
        held = np.array(asked.padding).astype(dtype)
    if dtype.kind != "f" and held != asked.padding:
        raise PlanError(
            f"layout.sequences[{name!r}].padding",
            f"{asked.padding}, which {dtype} does not hold",
            "Give a whole number.",
        )
    return SequenceSpec(name, asked.column, dtype, asked.padding, asked.codec, asked.width)


def _dtype(columns: Sequence[str], footers: Sequence[Footer]) -> np.dtype[np.generic]:
    """Returns the one dtype for columns that are to stand side by side; float32 without files."""
    dtypes = [(where, dtype) for where, dtype in _column_dtypes(columns, footers)]
    kinds = {dtype.kind for _, dtype in dtypes}
    if len(kinds) > 1:
        first = dtypes[0]
        where, other = next(pair for pair in dtypes if pair[1].kind != first[1].kind)
        raise SchemaError(
            where,
            f"{other} beside {first[1]} of {first[0]}",
            "Keep float and integer columns in matrices of their own.",
        )
    return max((dtype for _, dtype in dtypes), key=lambda d: d.itemsize, default=np.dtype("f4"))


def _column_dtypes(
    columns: Sequence[str], footers: Sequence[Footer]
) -> Iterator[tuple[str, np.dtype[np.generic]]]:
    for footer in footers:
        for column in columns:
            where = f"{footer.file}: column {column!r}"
            yield where, _dense_dtype(_value_type(footer.types[column]), where)


def _value_type(found: pa.DataType) -> pa.DataType:
    """Returns the type of the numbers in a column, in lists of whatever depth."""
    while is_list(found):
        found = storage_type(found).value_type
    return found


def _dense_dtype(found: pa.DataType, where: str) -> np.dtype[np.generic]:
    if found in _FLOATS:
        return np.dtype(np.float32)
    if found in _INT32S:
        return np.dtype(np.int32)
    if found in _INT64S:
        return np.dtype(np.int64)
    raise SchemaError(
        where,
        f"of type {found}, which no dense tensor holds",
        "Cast it to float, int or boolean, or a list of those, when the table is written; encoded "
        "values need a codec.",
    )


def _stored_dtype(column: str, footer: Footer) -> np.dtype[np.generic]:
    """Returns the dtype of a tensor column: as stored, but float64 is float32."""
    found = _value_type(footer.types[column])
    dense = _dense_dtype(found, f"{footer.file}: column {column!r}")
    if pa.types.is_floating(found) or pa.types.is_boolean(found):
        return dense if found != pa.float16() else np.dtype(np.float16)
    stored: np.dtype[np.generic] = np.dtype(found.to_pandas_dtype())
    return stored


def _widths(columns: Sequence[str], footers: Sequence[Footer]) -> tuple[int, ...]:
    """Returns how many tensor columns each file column takes; the files must agree."""
    widths: dict[str, int] = {}
    for footer in footers:
        for column in columns:
            width = footer.width(column)
            if width is None:
                continue
            if widths.setdefault(column, width) != width:
                raise SchemaError(
                    f"{footer.file}: column {column!r}",
                    f"lists of length {width}, but {widths[column]} in files before",
                    "Write lists of one length, or ask for it under `sequences`.",
                )
    return tuple(widths.get(column, 0 if footers else 1) for column in columns)


def _described(codec: Codec | None) -> str | None:
    return None if codec is None else codec.describe()
