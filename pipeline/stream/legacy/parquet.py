"""What Petastorm sees as `pyarrow.parquet`: today's, with the data set classes that left it.

pyarrow 15 removed the old `ParquetDataset` (with `pieces`, `partitions`, `fs`, `paths` and
`common_metadata`) and `ParquetDatasetPiece`. Petastorm is built on both, so they are here again,
over fsspec.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.stream.legacy.dataset import Dataset, FolderDataset
from pipeline.stream.legacy.partitions import Partitions


class ParquetFile(pq.ParquetFile):  # type: ignore[misc]
    """A Parquet file that closes its source when Petastorm drops it.

    Petastorm opens one beside every piece it reads, never looks at it and never closes it.
    """

    def __del__(self) -> None:
        self.close(force=True)


class ParquetDatasetPiece:
    """One Parquet file of a data set, or one row group of it.

    Args:
        path: The file's path in its file system.
        open_file_func: Opens a path for reading bytes.
        row_group: The row group, or None for the whole file.
        partition_keys: For each Hive level its column and the index of the value among the level's.
    """

    def __init__(
        self,
        path: str,
        open_file_func: Callable[[str], Any] = open,
        row_group: int | None = None,
        partition_keys: Iterable[tuple[str, int]] = (),
    ) -> None:
        self.path = path
        self.row_group = row_group
        self.partition_keys = list(partition_keys)
        self._open = open_file_func

    def get_metadata(self) -> pq.FileMetaData:
        """Returns the file's footer."""
        with self._open(self.path) as source:
            return pq.read_metadata(source)

    def read(
        self,
        columns: Iterable[str] | None = None,
        partitions: Partitions | None = None,
        use_threads: bool = True,
    ) -> pa.Table:
        """Reads the piece.

        Args:
            columns: Columns of the file to read, None for all; others are ignored.
            partitions: The levels that `partition_keys` refers to.
            use_threads: Whether Arrow may decode columns in parallel.

        Returns:
            A table of the columns in the file's order, then a constant one for each Hive level.
        """
        wanted = None if columns is None else list(columns)
        with self._open(self.path) as source, pq.ParquetFile(source) as file:
            if self.row_group is None:
                table = file.read(columns=wanted, use_threads=use_threads)
            else:
                table = file.read_row_group(self.row_group, columns=wanted, use_threads=use_threads)
        for level, (name, index) in zip(partitions or (), self.partition_keys, strict=False):
            # Plain values, not a dictionary column as once: Petastorm would make it a
            # pandas.Categorical, which neither fits its own schema nor becomes a tensor.
            if name not in table.column_names:
                constant = pa.repeat(level.dictionary[index], table.num_rows)
                table = table.append_column(name, constant)
        return table


def ParquetDataset(  # noqa: N802 - the name is Petastorm's
    path_or_paths: str | list[str] | Dataset,
    filesystem: Any = None,
    filters: Any = None,
    **_ignored: Any,
) -> Dataset:
    """Opens a folder, a file or a list of files; hands a data set that is already open back.

    Args:
        path_or_paths: What to open. A `Dataset` is how lakestorm's reader gives Petastorm's a
            snapshot whose footers it has read.
        filesystem: An fsspec file system or a `pyarrow.fs.FileSystem`; None for the local one.
        filters: Conditions on partition columns, in disjunctive normal form.
        **_ignored: Settings that only mattered to the old implementation.
    """
    if isinstance(path_or_paths, Dataset):
        return path_or_paths
    return FolderDataset(path_or_paths, filesystem, filters, piece_class=ParquetDatasetPiece)


def __getattr__(name: str) -> Any:
    return getattr(pq, name)
