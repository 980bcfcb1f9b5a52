"""One data file of a table: path, size, rows, partition and statistics."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from urllib.parse import quote, unquote

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.errors import CommitRefusedError
from pipeline.lake.schema import require_same, without
from pipeline.lake.statistics import delta_statistics
from pipeline.stores.folder import Entry, Folder

# Hive's spelling of a null partition value in a path; Spark, DuckDB and Polars read it so.
NULL_PARTITION = "__HIVE_DEFAULT_PARTITION__"


@dataclass(frozen=True, kw_only=True)
class DataFile:
    """A Parquet file that is, or is about to be, part of a table."""

    path: str
    """Path relative to the table."""
    bytes: int
    rows: int
    partition: Mapping[str, str | None]
    """Partition column to value, as text."""
    statistics: str
    """Delta's JSON of rows, bounds and null counts; empty for files read back from a log."""


def data_file(
    folder: Folder,
    path: str,
    schema: pa.Schema,
    partition_by: tuple[str, ...],
    without_bounds: Collection[str] = (),
) -> DataFile:
    """Describes a file just written, and checks that it holds what the table promises.

    Args:
        folder: The table's.
        path: The file's path relative to it.
        schema: The table's schema, partition columns included.
        partition_by: The table's partition columns.
        without_bounds: Columns whose minimum and maximum stay out of the table's log.

    Raises:
        CommitRefusedError: The file is not readable Parquet or lies outside the partitions.
        SchemaError: Its columns are not the table's.
    """
    where = f"file {path}"
    try:
        with folder.open(path) as file:
            footer, size = pq.read_metadata(file), file.size()
    except (OSError, pa.ArrowException) as error:
        raise CommitRefusedError(
            where, f"cannot be read back: {error}", "Run the stage again; nothing was committed."
        ) from error
    require_same(footer.schema.to_arrow_schema(), without(schema, partition_by), where)
    return DataFile(
        path=path,
        bytes=size,
        rows=footer.num_rows,
        partition=partition_of(path, partition_by),
        statistics=delta_statistics(footer, without_bounds),
    )


def is_data(entry: Entry) -> bool:
    """Whether it is a Parquet file that is finished, and none of Spark's own."""
    hidden = any(part.startswith(("_", ".")) for part in entry.path.split("/"))
    return entry.is_file and entry.path.endswith(".parquet") and not hidden


def partition_of(path: str, partition_by: tuple[str, ...]) -> dict[str, str | None]:
    """Partition values spelled in a path, such as `a1b2/split=train/period=2013-01/x.parquet`.

    Raises:
        CommitRefusedError: The path does not name each partition column once.
    """
    spelled = [part.partition("=") for part in path.split("/")[:-1] if "=" in part]
    if tuple(name for name, _, _ in spelled) != partition_by:
        raise CommitRefusedError(
            f"file {path}",
            f"does not lie in a folder for each of the partition columns {list(partition_by)}",
            "Write it below one `column=value` folder per partition column, in this order.",
        )
    return {name: None if value == NULL_PARTITION else unquote(value) for name, _, value in spelled}


def partition_folder(partition: Mapping[str, str | None]) -> str:
    """The folder of a partition, such as `split=train/period=2013-01`; empty without any."""
    return "/".join(
        f"{name}={NULL_PARTITION if value is None else quote(value, safe=' ')}"
        for name, value in partition.items()
    )
