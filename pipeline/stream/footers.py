"""What the files' footers say: row groups, their row counts, and the columns' types."""

from __future__ import annotations

import json
import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.errors import LakestormError, RowGroupError
from pipeline.stores.reading import identity_of, is_remote, open_file
from pipeline.stream.block_format import Block
from pipeline.stream.cache import BlockCache, block_key

# Requests for footers under way at once. Local files are parsed by one thread: each thread's heap
# would keep what it once needed.
_FOOTER_THREADS = 16


@dataclass(frozen=True, slots=True)
class RowGroup:
    """One row group of a snapshot."""

    file: str
    index: int
    """Which row group of the file."""

    rows: int


@dataclass(frozen=True, slots=True)
class Footer:
    """What the plan and the layout need of a file's footer."""

    file: str
    identity: str | None
    """What changes with the content; None where nobody needs it and asking costs a request."""

    row_group_rows: tuple[int, ...]
    types: Mapping[str, pa.DataType]
    """Column -> Arrow type."""

    list_lengths: Mapping[str, int]
    """List column -> numbers a row, in lists of any depth, in the first row group with rows."""

    def width(self, column: str) -> int | None:
        """Returns the values a row holds in this column; None when no row is there to tell."""
        found, width = storage_type(self.types[column]), 1
        while pa.types.is_fixed_size_list(found):
            width, found = width * found.list_size, storage_type(found.value_type)
        return self.list_lengths.get(column) if is_list(found) else width


def is_list(column_type: pa.DataType) -> bool:
    """Whether a column's rows are lists, of whatever encoding."""
    types, stored = pa.types, storage_type(column_type)
    return bool(
        types.is_list(stored) or types.is_large_list(stored) or types.is_fixed_size_list(stored)
    )


def storage_type(column_type: pa.DataType) -> pa.DataType:
    """Returns what an extension type, such as Arrow's fixed_shape_tensor, is stored as."""
    if isinstance(column_type, pa.BaseExtensionType):
        return column_type.storage_type
    return column_type


class FooterCache:
    """Parsed footers, least recently used first out; shared by the threads of a stream.

    Opening a file without its footer at hand means reading and parsing it again for every row
    group, and of a data set of many files not all parsed footers fit into memory.

    Args:
        max_bytes: Most bytes that the footers take in their files; parsed, they take about eleven
            times that.
    """

    def __init__(self, max_bytes: int = 512 << 10) -> None:
        self._max_bytes = max_bytes
        self._used_bytes = 0
        self._lock = threading.Lock()
        self._footers: OrderedDict[str, pq.FileMetaData] = OrderedDict()

    def get(self, file: str) -> pq.FileMetaData:
        """Returns the footer of a file, reading it where it is not at hand.

        Raises:
            OSError: The file is not there or its store fails.
            ArrowInvalid: It is no Parquet file.
        """
        with self._lock:
            found = self._footers.get(file)
            if found is not None:
                self._footers.move_to_end(file)
                return found
        with open_file(file) as source, closing(pq.ParquetFile(source)) as parquet:
            return self.put(file, parquet.metadata)

    def put(self, file: str, footer: pq.FileMetaData) -> pq.FileMetaData:
        """Keeps a footer, and returns it."""
        with self._lock:
            if file not in self._footers:
                self._footers[file] = footer
                self._used_bytes += footer.serialized_size
            while self._used_bytes > self._max_bytes and len(self._footers) > 1:
                self._used_bytes -= self._footers.popitem(last=False)[1].serialized_size
        return footer


def open_parquet(file: str, footers: FooterCache) -> pq.ParquetFile:
    """Opens a Parquet file for reading.

    Args:
        file: An absolute path or a URI.
        footers: Where its footer may be at hand.

    Raises:
        StoreError: No store answers to the URI, or it carries a secret.
        OSError: The file is not there, may not be read, or its store fails again and again.
        ArrowInvalid: It is no Parquet file.
    """
    footer = footers.get(file)
    return pq.ParquetFile(open_file(file), metadata=footer)


def row_groups_of(files: Sequence[str]) -> list[RowGroup]:
    """Returns the row groups of Parquet files, in the order of the files.

    Args:
        files: Absolute paths or URIs.

    Raises:
        RowGroupError: A file is not there or its footer cannot be read.
    """
    return [
        RowGroup(footer.file, index, rows)
        for footer in read_footers(files)
        for index, rows in enumerate(footer.row_group_rows)
    ]


def read_footers(
    files: Sequence[str], parsed: FooterCache | None = None, cache: BlockCache | None = None
) -> list[Footer]:
    """Reads what every file's footer says, several files at a time; in the order of the files.

    Args:
        files: Absolute paths or URIs.
        parsed: Where to keep the footers themselves, for those who read the files next.
        cache: Where to keep what they say, so that the next run need not read them.

    Raises:
        RowGroupError: A file is not there or its footer cannot be read.
    """
    if not files:
        return []

    def read(file: str) -> Footer:
        return _read_footer(file, parsed or FooterCache(), cache)

    threads = min(_FOOTER_THREADS, len(files)) if any(map(is_remote, files)) else 1
    with ThreadPoolExecutor(threads, "footers") as executor:
        return list(executor.map(read, files))


def _read_footer(file: str, parsed: FooterCache, cache: BlockCache | None) -> Footer:
    try:
        # Asked before the footer is read: a change between the two is then seen as one.
        identity = None if cache is None and is_remote(file) else identity_of(file)
        if cache is None or identity is None:
            return _summarize(file, identity, parsed)
        key = block_key(file, identity, -1, "footer")
        known = cache.get(key)
        if known is not None:
            return _from_block(file, identity, known)
        footer = _summarize(file, identity, parsed)
        cache.put(key, _to_block(footer))
        return footer
    except LakestormError:
        raise
    except Exception as error:
        raise RowGroupError(
            f"{file}, footer",
            f"{type(error).__name__}: {error}",
            "Read a version of the table whose files are all there and whole.",
        ) from error


def _summarize(file: str, identity: str | None, parsed: FooterCache) -> Footer:
    # Not `FileMetaData.schema`: it and the footer refer to each other, so that footers would stay
    # in memory until the garbage collector looks at everything.
    with open_file(file) as source, closing(pq.ParquetFile(source)) as parquet:
        schema, metadata = parquet.schema_arrow, parsed.put(file, parquet.metadata)
    groups = [metadata.row_group(index) for index in range(metadata.num_row_groups)]
    types = {field.name: field.type for field in schema}
    lengths: dict[str, int] = {}
    filled = next((group for group in groups if group.num_rows), None)
    if filled is not None:
        leaves = [filled.column(leaf) for leaf in range(filled.num_columns)]
        # A flat column may be called `x.y` beside a list `x`.
        nested = [leaf for leaf in leaves if leaf.path_in_schema not in types]
        for column in (name for name, found in types.items() if is_list(found)):
            leaf = next(leaf for leaf in nested if leaf.path_in_schema.startswith(f"{column}."))
            lengths[column] = leaf.num_values // filled.num_rows
    return Footer(file, identity, tuple(group.num_rows for group in groups), types, lengths)


def _to_block(footer: Footer) -> Block:
    schema = pa.schema(list(footer.types.items()))
    return {
        "row_group_rows": np.array(footer.row_group_rows, np.int64),
        "schema": np.frombuffer(schema.serialize(), np.uint8),
        "list_lengths": np.frombuffer(json.dumps(footer.list_lengths).encode(), np.uint8),
    }


def _from_block(file: str, identity: str, block: Block) -> Footer:
    schema = pa.ipc.read_schema(pa.py_buffer(block["schema"]))
    return Footer(
        file,
        identity,
        tuple(block["row_group_rows"].tolist()),
        {field.name: field.type for field in schema},
        json.loads(bytes(block["list_lengths"])),
    )
