"""What Petastorm sees as `pyarrow.hdfs`: fsspec's face of `pyarrow.fs.HadoopFileSystem`."""

from __future__ import annotations

from typing import Any

import pyarrow.fs
from fsspec.implementations.arrow import ArrowFSWrapper


class HadoopFileSystem:
    """The operations that Petastorm's high-availability client passes on to a live connection.

    The client derives from this class and replaces each public method by one that calls the
    connection's method of that name, and tries the next name node when that fails.
    """

    def exists(self, path: str) -> bool:
        """Whether there is something at the path."""
        raise NotImplementedError

    def find(self, path: str) -> list[str]:
        """Lists all files below the path."""
        raise NotImplementedError

    def isdir(self, path: str) -> bool:
        """Whether the path is a folder."""
        raise NotImplementedError

    def open(self, path: str, mode: str = "rb") -> Any:
        """Opens a file."""
        raise NotImplementedError

    def rm(self, path: str) -> None:
        """Removes a file."""
        raise NotImplementedError


def connect(host: str = "default", port: int = 0, user: str | None = None) -> ArrowFSWrapper:
    """Opens a connection to a name node, as `pyarrow.hdfs.connect` did."""
    return ArrowFSWrapper(pyarrow.fs.HadoopFileSystem(host, port, user=user))
