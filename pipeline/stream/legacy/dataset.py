"""The old `pyarrow.parquet.ParquetDataset`, as far as Petastorm looks at it."""

from __future__ import annotations

import posixpath
from collections.abc import Callable, Sequence
from typing import Any

import pyarrow.fs
import pyarrow.parquet as pq
from fsspec.implementations.arrow import ArrowFSWrapper
from fsspec.implementations.local import LocalFileSystem

from pipeline.errors import SourceError
from pipeline.stores.reading import is_private
from pipeline.stream.legacy.partitions import Partitions, normalize_filters


class Dataset:
    """What Petastorm asks of a data set."""

    pieces: Sequence[Any]
    """One piece a file, with `path`, `partition_keys` and `get_metadata()`."""

    partitions: Partitions | None = None
    """The Hive levels of a folder; None for a list of files."""

    paths: str | list[str]
    """The folder or the files, as given."""

    fs: Any
    """The fsspec file system of `paths`."""

    metadata: Any = None
    """The footer in `_metadata`, where there is one."""

    metadata_path: str | None = None

    common_metadata: Any = None
    """The footer in `_common_metadata`, where there is one; holds Petastorm's Unischema."""


class FolderDataset(Dataset):
    """A folder of Parquet files, possibly partitioned as Hive does, or a list of files.

    Args:
        path_or_paths: A folder, a file, or files.
        filesystem: An fsspec file system or a `pyarrow.fs.FileSystem`; None for the local one.
        filters: Conditions on partition columns, in disjunctive normal form.
        piece_class: Called with path, opener and partition keys for each file.

    Raises:
        SourceError: There is no such file, or no Parquet file in the folder.
        StreamError: A filter names a column that is not a partition of the folder.
    """

    def __init__(
        self,
        path_or_paths: str | list[str],
        filesystem: Any,
        filters: Any,
        piece_class: Callable[..., Any],
    ) -> None:
        self.fs = _as_fsspec(filesystem)
        self.paths = path_or_paths
        if isinstance(path_or_paths, str) and self.fs.isdir(path_or_paths):
            found = self._walk(path_or_paths)
        else:
            files = [path_or_paths] if isinstance(path_or_paths, str) else path_or_paths
            found = [(path, []) for path in files]
        groups = normalize_filters(filters, self.partitions)
        self.pieces = [
            piece_class(path, open_file_func=self.fs.open, partition_keys=keys)
            for path, keys in found
            if not groups or any(self._accepts(keys, group) for group in groups)
        ]
        if not found:
            raise SourceError(str(path_or_paths), "no Parquet file", "Check the path.")

    def _accepts(self, keys: list[tuple[str, int]], conditions: Any) -> bool:
        return self.partitions is not None and self.partitions.accepts(keys, conditions)

    def _walk(self, root: str) -> list[tuple[str, list[tuple[str, int]]]]:
        """Lists the data files under `root` with their partition keys, and reads the summaries."""
        self.partitions = Partitions()
        root = root.rstrip("/")
        found = []
        for path in sorted(self.fs.find(root)):
            *folders, name = posixpath.relpath(path, root).split("/")
            if not folders and name == "_metadata":
                self.metadata, self.metadata_path = self._read_footer(path), path
            elif not folders and name == "_common_metadata":
                self.common_metadata = self._read_footer(path)
            elif not is_private(folders, name):
                found.append((path, self.partitions.keys_of(folders)))
        return found

    def _read_footer(self, path: str) -> pq.FileMetaData:
        with self.fs.open(path, "rb") as source:
            return pq.read_metadata(source)


def _as_fsspec(filesystem: Any) -> Any:
    """Returns an fsspec file system; wraps one of pyarrow."""
    if filesystem is None:
        return LocalFileSystem()
    if isinstance(filesystem, pyarrow.fs.FileSystem):
        return ArrowFSWrapper(filesystem)
    return filesystem
