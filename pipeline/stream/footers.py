"""What the files' footers say: row groups, their row counts, and the columns' types."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from urllib.parse import unquote, urlsplit

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.errors import RowGroupError

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
    row_group_rows: tuple[int, ...]
    types: Mapping[str, pa.DataType]
    """Column -> Arrow type."""

    list_lengths: Mapping[str, int]
    """List column -> values a row in the first row group that has rows."""

    def width(self, column: str) -> int | None:
        """Returns the values a row holds in this column; None when no row is there to tell."""
        found = self.types[column]
        if not is_list(found):
            return 1
        if pa.types.is_fixed_size_list(found):
            return int(found.list_size)
        return self.list_lengths.get(column)


def is_list(column_type: pa.DataType) -> bool:
    """Whether a column's rows are lists, of whatever encoding."""
    types = pa.types
    return bool(
        types.is_list(column_type)
        or types.is_large_list(column_type)
        or types.is_fixed_size_list(column_type)
    )


def open_parquet(file: str) -> pq.ParquetFile:
    """Opens a Parquet file for reading.

    Args:
        file: An absolute path, or a URI that fsspec knows. No memory map: a file that is cut short
            while mapped would kill the process.
    """
    if "://" not in file:
        return pq.ParquetFile(file)
    if file.startswith("file://"):
        return pq.ParquetFile(unquote(urlsplit(file).path))
    filesystem, path = fsspec.core.url_to_fs(file)
    return pq.ParquetFile(filesystem.open(path, "rb"))


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


def read_footers(files: Sequence[str]) -> list[Footer]:
    """Reads every file's footer once, several at a time; the order is that of the files.

    Raises:
        RowGroupError: A file is not there or its footer cannot be read.
    """
    if not files:
        return []
    with ThreadPoolExecutor(min(_FOOTER_THREADS, len(files)), "footers") as executor:
        return list(executor.map(_read_footer, files))


def _read_footer(file: str) -> Footer:
    try:
        parquet = open_parquet(file)
        try:
            return _summarize(file, parquet.metadata, parquet.schema_arrow)
        finally:
            parquet.close(force=True)
    except Exception as error:
        raise RowGroupError(
            f"{file}, footer",
            f"{type(error).__name__}: {error}",
            "Read a version of the table whose files are all there and whole.",
        ) from error


def _summarize(file: str, metadata: pq.FileMetaData, schema: pa.Schema) -> Footer:
    groups = [metadata.row_group(index) for index in range(metadata.num_row_groups)]
    lengths: dict[str, int] = {}
    filled = next((group for group in groups if group.num_rows), None)
    if filled is not None:
        paths = [metadata.schema.column(leaf).path for leaf in range(metadata.num_columns)]
        for column in (field.name for field in schema if is_list(field.type)):
            leaf = next(i for i, path in enumerate(paths) if path.startswith(f"{column}."))
            lengths[column] = filled.column(leaf).num_values // filled.num_rows
    return Footer(
        file,
        tuple(group.num_rows for group in groups),
        {field.name: field.type for field in schema},
        lengths,
    )
