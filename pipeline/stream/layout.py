"""Which columns of the Parquet files become which tensors of a batch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa

from pipeline.errors import PlanError, SchemaError
from pipeline.stream.footers import Footer, is_list

_FLOATS = {pa.float16(), pa.float32(), pa.float64()}
_INT32S = {pa.bool_(), pa.int8(), pa.int16(), pa.int32(), pa.uint8(), pa.uint16()}
_INT64S = {pa.int64(), pa.uint32()}


@dataclass(frozen=True, kw_only=True)
class BatchLayout:
    """Names the tensors of a batch and the columns they are made of.

    Float columns become float32; booleans and integers of up to 32 bits become int32; int64 and
    uint32 become int64. A matrix of int32 and int64 columns is int64. Lists of fixed length may
    stand among a matrix's columns and take as many of its columns as they are long.
    """

    matrices: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """Tensor name -> columns, side by side: a tensor [rows, columns]."""

    scalars: Mapping[str, str] = field(default_factory=dict)
    """Tensor name -> one column: a tensor [rows]."""

    strings: Sequence[str] = ()
    """String columns to deliver under their own names: an object array [rows]."""

    def __post_init__(self) -> None:
        if not self.columns:
            raise PlanError("layout", "no column at all", "Name at least one column.")
        if empty := [name for name, columns in self.matrices.items() if not columns]:
            raise PlanError(f"layout.matrices[{empty[0]!r}]", "no column", "Name its columns.")
        if twice := sorted(set(self.matrices) & set(self.scalars)):
            raise PlanError(f"layout: {twice[0]!r}", "a matrix and a scalar", "Rename one of them.")

    @property
    def columns(self) -> list[str]:
        """Every column that is read, once, in the order of the layout."""
        nested = [*self.matrices.values(), list(self.scalars.values()), self.strings]
        return list(dict.fromkeys(column for columns in nested for column in columns))


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """One tensor of a batch, with what the files' schemas say about it."""

    name: str
    columns: tuple[str, ...]
    dtype: np.dtype[np.generic]
    widths: tuple[int, ...]
    """For each column how many of the tensor's columns it takes: 1, or the length of its lists."""

    is_matrix: bool

    def shape(self, rows: int) -> tuple[int, ...]:
        """Returns the tensor's shape for a number of rows: [rows, width] or [rows]."""
        return (rows, sum(self.widths)) if self.is_matrix else (rows,)


@dataclass(frozen=True, slots=True)
class ResolvedLayout:
    """A layout that was found to fit every file."""

    tensors: tuple[TensorSpec, ...]
    strings: tuple[str, ...]
    columns: tuple[str, ...]


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
    wanted = [(name, tuple(columns), True) for name, columns in layout.matrices.items()]
    wanted += [(name, (column,), False) for name, column in layout.scalars.items()]
    tensors = tuple(
        TensorSpec(name, columns, _dtype(columns, footers), _widths(columns, footers), is_matrix)
        for name, columns, is_matrix in wanted
    )
    for spec in tensors:
        if not spec.is_matrix and footers and spec.widths != (1,):
            raise SchemaError(
                f"{footers[0].file}: column {spec.columns[0]!r}",
                "a list, asked for as a scalar",
                "Ask for it under `matrices`.",
            )
    return ResolvedLayout(tensors, tuple(layout.strings), tuple(layout.columns))


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
            found = footer.types[column]
            where = f"{footer.file}: column {column!r}"
            yield where, _dense_dtype(found.value_type if is_list(found) else found, where)


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
        "Cast it to float, int or boolean, or a list of those, when the table is written.",
    )


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
                    "Write lists of one length.",
                )
    return tuple(widths.get(column, 0 if footers else 1) for column in columns)
