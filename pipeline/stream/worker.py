"""The worker: a run of rows of one row group, from Parquet to dense arrays."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from petastorm.workers_pool import EmptyResultError
from petastorm.workers_pool.worker_base import WorkerBase

from pipeline.errors import LakestormError, NullValueError, RowGroupError, SchemaError
from pipeline.stream.footers import is_list, open_parquet
from pipeline.stream.layout import ResolvedLayout, TensorSpec

Block = dict[str, npt.NDArray[Any]]
"""Tensor or string column -> its rows: [rows, width] or [rows]."""

# Opening a file means reading its footer again, so each worker keeps its last few open.
_OPEN_FILES = 8


class BlockReader:
    """Hands blocks from the pool to the reader; Petastorm's `results queue reader`."""

    batched_output = True

    def read_next(self, pool: Any, _schema: Any, _ngram: Any) -> Block:
        """Returns the next block; part of Petastorm's protocol."""
        try:
            block: Block = pool.get_results()
        except EmptyResultError:
            raise StopIteration from None
        return block


class RowGroupWorker(WorkerBase):  # type: ignore[misc]
    """Reads runs of rows out of row groups and makes the layout's dense arrays of them."""

    def __init__(self, worker_id: int, publish: Callable[[Block], None], args: Any) -> None:
        super().__init__(worker_id, publish, args)
        # The order of these arguments is Petastorm's: file system, data set, ..., pieces.
        self._layout: ResolvedLayout = args[1].layout
        self._pieces = args[4]
        self._open: OrderedDict[str, pq.ParquetFile] = OrderedDict()

    @staticmethod
    def new_results_queue_reader() -> BlockReader:
        """Returns what the reader takes results with; part of Petastorm's protocol."""
        return BlockReader()

    def process(self, piece_index: int, start: int, stop: int) -> None:
        """Reads rows `start` to `stop` of a row group and publishes them as one block.

        Raises:
            RowGroupError: The row group cannot be read, or has fewer rows than planned.
            NullValueError: A dense column holds a null.
            SchemaError: The lists of a column are not of one length.
        """
        piece = self._pieces[piece_index]
        where = f"{piece.path}, row group {piece.row_group}"
        try:
            table = self._read(piece.path, piece.row_group)
            _refuse_short(table, stop, where)
            block = to_block(table.slice(start, stop - start), self._layout, where)
        except LakestormError:
            raise
        except Exception as error:
            raise RowGroupError(
                where,
                f"{type(error).__name__}: {error}",
                "Restore the file, or read a version of the table that does not have it.",
            ) from error
        self.publish_func(block)

    def shutdown(self) -> None:
        """Closes the files that are still open."""
        while self._open:
            self._open.popitem()[1].close(force=True)

    def _read(self, path: str, row_group: int) -> pa.Table:
        file = self._open.pop(path, None) or open_parquet(path)
        self._open[path] = file
        if len(self._open) > _OPEN_FILES:
            self._open.popitem(last=False)[1].close(force=True)
        # The workers are the threads; more of Arrow's would only stand in each other's way.
        return file.read_row_group(row_group, columns=list(self._layout.columns), use_threads=False)


def to_block(table: pa.Table, layout: ResolvedLayout, where: str) -> Block:
    """Makes the layout's arrays of a table.

    Args:
        table: Rows with at least the layout's columns.
        layout: Which arrays to make.
        where: File and row group, for errors.

    Returns:
        For each tensor its array in the layout's dtype, [rows, width] for a matrix and [rows] for a
        scalar; for each string column an object array [rows] of str or None.
    """
    block: Block = {spec.name: _to_tensor(table, spec, where) for spec in layout.tensors}
    for column in layout.strings:
        block[column] = table.column(column).to_numpy(zero_copy_only=False).astype(object)
    return block


def _to_tensor(table: pa.Table, spec: TensorSpec, where: str) -> npt.NDArray[Any]:
    """Puts columns side by side: [rows, width] for a matrix, [rows] for a scalar."""
    parts = [
        _to_array(table.column(column), width, f"{where}, column {column!r}")
        for column, width in zip(spec.columns, spec.widths, strict=True)
    ]
    if len(parts) == 1:
        # No copy where the dtype fits: the array is Arrow's own buffer.
        return parts[0].astype(spec.dtype, copy=False).reshape(spec.shape(table.num_rows))
    # n x [rows, width of the column] -> [rows, width]
    return np.concatenate(parts, axis=1, dtype=spec.dtype, casting="same_kind")


def _to_array(column: pa.ChunkedArray, width: int, where: str) -> npt.NDArray[Any]:
    """Returns a column's values: [rows, width]."""
    array = column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()
    _refuse_nulls(array, where)
    if is_list(array.type):
        _refuse_ragged(array, width, where)
        values = array.flatten()
        _refuse_nulls(values, where)
    else:
        values = array
    flat: npt.NDArray[Any] = values.to_numpy(zero_copy_only=False)
    # [rows * width] -> [rows, width]
    return flat.reshape(len(array), width)


def _refuse_short(table: pa.Table, rows: int, where: str) -> None:
    if table.num_rows < rows:
        raise RowGroupError(
            where,
            f"{table.num_rows} rows, but {rows} when the footers were read",
            "Files of a snapshot must not change; open the stream again.",
        )


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
        return
    lengths = np.diff(array.offsets.to_numpy())
    if len(lengths) and (lengths != width).any():
        raise SchemaError(
            where,
            f"lists of {lengths.min()} to {lengths.max()} values, but {width} were expected",
            "Write lists of one length.",
        )
