"""What Petastorm sees as `pyarrow.filesystem`, which left pyarrow in version 16."""

from fsspec.implementations.local import LocalFileSystem

__all__ = ["LocalFileSystem"]
