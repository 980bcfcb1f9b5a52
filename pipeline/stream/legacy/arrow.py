"""What Petastorm sees as `pyarrow`: today's, with the file system names that left it."""

from __future__ import annotations

from typing import Any

import pyarrow
from fsspec.implementations.local import LocalFileSystem

from pipeline.stream.legacy import filesystem, hdfs, parquet

__all__ = ["LocalFileSystem", "filesystem", "hdfs", "localfs", "parquet"]

localfs = LocalFileSystem()


def __getattr__(name: str) -> Any:
    return getattr(pyarrow, name)
