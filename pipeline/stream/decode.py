"""From one row group to a block: the bytes that Parquet keeps of it, decoded once.

Flat columns of plain numbers are decoded by jollyjack straight into the arrays that tensors are
made of, at nearly twice the speed of Arrow, which has its own arrays first. It refuses what it
cannot do (nulls, dictionaries, lists); Arrow then reads those tensors, and says what is wrong, if
anything is.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import groupby

import jollyjack
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.errors import RowGroupError
from pipeline.stream.block_format import Block
from pipeline.stream.blocks import to_block
from pipeline.stream.layout import ResolvedLayout, TensorSpec

# The Arrow types whose Parquet values are, bit for bit, those of the tensor's dtype.
_SAME_BITS = {
    np.dtype(np.float32): {pa.float32()},
    np.dtype(np.int32): {pa.int32(), pa.int16(), pa.int8(), pa.uint16(), pa.uint8()},
    np.dtype(np.int64): {pa.int64()},
}


@dataclass(slots=True)
class OpenFile:
    """A Parquet file that is open, with what was learnt of it; it owns its source."""

    source: pa.NativeFile
    footer: pq.FileMetaData
    reader: pq.ParquetFile = field(init=False)
    types: dict[str, pa.DataType] = field(init=False)
    leaves: dict[str, int] = field(init=False)
    """Flat column -> its place among the leaves of the schema."""
    refused: set[str] = field(default_factory=set)
    """Tensors that jollyjack cannot read out of this file."""

    def __post_init__(self) -> None:
        self.reader = pq.ParquetFile(self.source, metadata=self.footer)
        # Not `footer.schema`: see footers.py.
        self.types = {each.name: each.type for each in self.reader.schema_arrow}
        paths = map(".".join, self.reader.reader.column_paths)
        self.leaves = {path: leaf for leaf, path in enumerate(paths)}

    def rows(self, row_group: int) -> int:
        """Rows of a row group."""
        return int(self.footer.row_group(row_group).num_rows)

    def close(self) -> None:
        """Closes the source."""
        self.reader.close(force=True)


def decode(file: OpenFile, row_group: int, layout: ResolvedLayout, where: str) -> Block:
    """Decodes a row group, whole.

    Args:
        file: The file it is in.
        row_group: Which of the file.
        layout: What to make of it.
        where: File and row group, for errors.

    Raises:
        NullValueError: A dense column holds a null.
        SchemaError: Lists are not of the length or shape that is asked for.
        RowGroupError: Another number of rows comes out than the footer says.
        OSError: The file is cut short, or its store fails again and again.
        ArrowInvalid: A page is corrupt.
    """
    block: Block = {}
    for specs in _alike(file, layout.tensors):
        with suppress(_Refused):
            block |= _plain_numbers(file, row_group, specs)
    rest = tuple(spec for spec in layout.tensors if spec.name not in block)
    if rest or layout.ragged:
        others = replace(layout, tensors=rest)
        columns = list(others.columns)
        # The workers are the threads; more of Arrow's would only stand in each other's way.
        table = file.reader.read_row_group(row_group, columns=columns, use_threads=False)
        _refuse_other_rows(table.num_rows, file.rows(row_group), where)
        block |= to_block(table, others, where)
    return block


def _refuse_other_rows(decoded: int, promised: int, where: str) -> None:
    """Refuses a row group out of which Arrow makes another number of rows than the footer says.

    It does so without a word for some damaged files, and for some of its own (pyarrow 25: required
    lists of booleans in data pages of version 2).
    """
    if decoded != promised:
        raise RowGroupError(
            where,
            f"{decoded} rows come out of it, but its footer says {promised}",
            "Write the file anew.",
        )


class _Refused(Exception):
    """jollyjack cannot read it."""


def _alike(file: OpenFile, specs: Sequence[TensorSpec]) -> Iterator[list[TensorSpec]]:
    """Yields the tensors that jollyjack may read, those of one dtype together."""
    plain = [
        spec
        for spec in specs
        if spec.codec is None
        and spec.name not in file.refused
        and all(file.types[column] in _SAME_BITS.get(spec.dtype, ()) for column in spec.columns)
    ]
    for _, group in groupby(sorted(plain, key=lambda s: s.dtype.str), key=lambda s: s.dtype):
        yield list(group)


def _plain_numbers(file: OpenFile, row_group: int, specs: Sequence[TensorSpec]) -> Block:
    """Decodes flat columns of one dtype, each value straight to its place."""
    leaves = [file.leaves[column] for spec in specs for column in spec.columns]
    # [columns of all these tensors, rows]
    held = np.empty((len(leaves), file.rows(row_group)), specs[0].dtype)
    try:
        jollyjack.read_into_numpy(
            file.source,
            file.footer,
            held.T,
            [row_group],
            column_indices=tuple(zip(leaves, range(len(leaves)), strict=True)),
            use_threads=False,
        )
    except RuntimeError as error:
        file.refused.update(spec.name for spec in specs)
        raise _Refused from error
    block: Block = {}
    for spec in specs:
        own, held = held[: len(spec.columns)], held[len(spec.columns) :]
        block[spec.name] = own if spec.by_column else own[0]
    return block
