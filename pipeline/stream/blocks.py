"""From columns to arrays: dense ones as tensors are, ragged ones as Arrow has them."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipeline.errors import NullValueError, SchemaError
from pipeline.stream.block_format import Block
from pipeline.stream.codecs import Codec
from pipeline.stream.footers import is_list
from pipeline.stream.layout import Held, ResolvedLayout, SequenceSpec, TensorSpec


def to_block(table: pa.Table, layout: ResolvedLayout, where: str) -> Block:
    """Makes the layout's arrays of a table; of flat columns without a copy where types fit.

    Args:
        table: Rows with at least the layout's columns.
        layout: Which arrays to make.
        where: File and row group, for errors.

    Returns:
        For each tensor what `TensorSpec` holds; for each sequence and string column an Arrow
        array [rows].

    Raises:
        NullValueError: A dense column holds a null.
        SchemaError: Lists are not of the length or shape that the tensor has room for.
    """
    dense: Block = {spec.name: _tensor(table, spec, where) for spec in layout.tensors}
    return dense | ragged(table, layout, where)


def ragged(table: pa.Table, layout: ResolvedLayout, where: str) -> Block:
    """Returns the Arrow arrays of the layout's sequences and strings; rows as in the table."""
    block: Block = {}
    for spec in layout.sequences:
        block[spec.name] = _sequences(
            table.column(spec.column), spec, f"{where}, column {spec.column!r}"
        )
    for name in layout.strings:
        block[name] = _whole(table.column(name)).cast(pa.large_string())
    return block


def _tensor(table: pa.Table, spec: TensorSpec, where: str) -> Held:
    if spec.by_column:
        return [_values(table.column(c), 1, (), f"{where}, column {c!r}") for c in spec.columns]
    if spec.codec is not None:
        column = spec.columns[0]
        return _decoded(table.column(column), spec, spec.codec, f"{where}, column {column!r}")
    parts = []
    for column, width in zip(spec.columns, spec.widths, strict=True):
        shape = spec.row_shape if len(spec.columns) == 1 else (width,)
        values = _values(table.column(column), width, shape, f"{where}, column {column!r}")
        # [rows * width] -> [rows, width]
        parts.append(values.reshape(table.num_rows, width))
    # n x [rows, width of the column] -> [rows, width] -> [rows, *shape of a row]
    joined = parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1, dtype=spec.dtype)
    return joined.astype(spec.dtype, copy=False).reshape(table.num_rows, *spec.row_shape)


def _values(
    column: pa.ChunkedArray, width: int, shape: tuple[int, ...], where: str
) -> npt.NDArray[Any]:
    """Returns a column's numbers one after the other: [rows * width]."""
    array = _whole(column)
    _refuse_nulls(array, where)
    if is_list(array.type):
        array = _flatten(array, width, shape, where)
    values: npt.NDArray[Any] = array.to_numpy(zero_copy_only=False)
    return values


def _flatten(array: pa.Array, width: int, shape: tuple[int, ...], where: str) -> pa.Array:
    """Takes lists apart, of one level or of as many as the shape has."""
    rows = len(array)
    nested = is_list(array.type.value_type)
    for length in shape if nested else (width,):
        array = _stored(array)
        if not is_list(array.type):
            break
        _refuse_ragged(array, length, where)
        array = array.flatten()
        _refuse_nulls(array, where)
    if is_list(array.type) or len(array) != rows * width:
        raise SchemaError(
            where,
            f"lists of another shape than {shape}",
            "Correct the shape in the layout, or write the column in that shape.",
        )
    return array


def _sequences(column: pa.ChunkedArray, spec: SequenceSpec, where: str) -> pa.LargeListArray:
    """Returns the rows as lists of the spec's dtype; no list and no value in one is null."""
    array = _whole(column)
    if spec.codec is not None:
        decoded = list(spec.codec.decode(array, where))
        lengths = [len(row) for row in decoded]
        values = np.concatenate([np.empty(0, spec.dtype), *decoded], dtype=spec.dtype)
        offsets = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]).astype(np.int64)
        return pa.LargeListArray.from_arrays(pa.array(offsets), pa.array(values))
    _refuse_nulls(array, where)
    array = array.cast(pa.large_list(pa.from_numpy_dtype(spec.dtype)))
    _refuse_nulls(array.flatten(), where)
    return array


def _decoded(
    column: pa.ChunkedArray, spec: TensorSpec, codec: Codec, where: str
) -> npt.NDArray[Any]:
    rows = codec.decode(_whole(column), where)
    # A codec of a shape without gaps gives one array.
    return np.asarray(rows, spec.dtype).reshape(len(column), *spec.row_shape)


def _whole(column: pa.ChunkedArray) -> pa.Array:
    """Returns a column as one array; a row group usually is one already."""
    array = column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()
    return _stored(array)


def _stored(array: pa.Array) -> pa.Array:
    return array.storage if isinstance(array, pa.ExtensionArray) else array


def _refuse_nulls(array: pa.Array, where: str) -> None:
    if array.null_count:
        raise NullValueError(
            where,
            f"{array.null_count} of {len(array)} values are null",
            "Fill them, with an indicator column, when the table is written.",
        )


def _refuse_ragged(array: pa.Array, width: int, where: str) -> None:
    """Refuses lists of another length than the tensor has room for."""
    if pa.types.is_fixed_size_list(array.type):
        lengths = np.full(len(array), array.type.list_size)
    else:
        lengths = np.diff(array.offsets.to_numpy())
    if len(lengths) and (lengths != width).any():
        raise SchemaError(
            where,
            f"lists of {lengths.min()} to {lengths.max()} values, but {width} were expected",
            "Write lists of one length, or ask for the column under `sequences`.",
        )
