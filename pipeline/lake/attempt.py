"""One write attempt: a new folder of the table that holds exactly this attempt's files.

Two Spark appends into one folder share `_temporary` and lose each other's rows without an error;
a folder of its own for every attempt makes that impossible.
"""

from __future__ import annotations

import uuid
from collections.abc import Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from types import TracebackType
from typing import Self

import pyarrow as pa
import pyarrow.parquet as pq
from py4j.protocol import Py4JJavaError
from pyspark.errors import PySparkException
from pyspark.sql import DataFrame

from pipeline.errors import LakeError, LakestormError
from pipeline.lake.faults import unreadable_file
from pipeline.lake.files import DataFile, data_file, is_data, partition_folder
from pipeline.lake.schema import from_spark, require_same, without
from pipeline.stores.folder import Folder

FOOTER_THREADS = 8


class Attempt:
    """A context: on an error its folder is removed; on success its files await the commit.

    Args:
        name: The table's, for messages.
        table: Its folder.
        schema: The table's schema, partition columns included.
        partition_by: The table's partition columns.
        without_bounds: Columns whose minimum and maximum stay out of the table's log.
    """

    def __init__(
        self,
        name: str,
        table: Folder,
        schema: pa.Schema,
        partition_by: tuple[str, ...],
        without_bounds: Collection[str] = (),
    ) -> None:
        self.name = name
        self.table = table
        self.schema = schema
        self.partition_by = partition_by
        self.without_bounds = frozenset(without_bounds)
        self.folder = uuid.uuid4().hex
        self.may_be_committed = False
        """Whether a commit may have made its files part of the table: then no error removes them.

        Set before the commit is written, as an interrupt may come at any moment after.
        """

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is not None and not self.may_be_committed:
            self.discard()

    def discard(self) -> None:
        """Removes the folder, when its files are not to be committed."""
        with suppress(LakeError):  # what is left is nobody's; vacuum takes it
            self.table.remove(self.folder)

    def write(self, frame: DataFrame, options: Mapping[str, str] | None = None) -> list[DataFile]:
        """Writes a Spark frame as Parquet, one folder a partition.

        Args:
            frame: Columns exactly as the table's schema, partition columns included.
            options: Options of Spark's Parquet writer, such as `parquet.enable.dictionary`.

        Returns:
            The files written, those without rows left out.

        Raises:
            SchemaError: The frame's columns are not the table's.
            LakeError: Spark could not write; the cause is attached.
        """
        require_same(from_spark(frame.schema), self.schema, f"table {self.name}")
        writer = frame.write.options(**(options or {}))
        if self.partition_by:
            writer = writer.partitionBy(*self.partition_by)
        try:
            writer.parquet(self.table.spark_path(self.folder))
        except (PySparkException, Py4JJavaError) as error:
            raise _translated(error, self.name) from error
        return self.files()

    def write_arrow(
        self, rows: pa.Table, partition: Mapping[str, str | None] | None = None
    ) -> list[DataFile]:
        """Writes a small table, or a partition of one, as one file.

        Args:
            rows: Columns exactly as the table's schema, partition columns left out.
            partition: Partition column to value, as text; None for a table without partitions.

        Raises:
            SchemaError: The columns are not the table's.
        """
        stored = without(self.schema, self.partition_by)
        require_same(rows.schema, stored, f"table {self.name}")
        folder = f"{self.folder}/{partition_folder(partition or {})}".rstrip("/")
        with self.table.create(f"{folder}/part-00000.parquet") as file:
            pq.write_table(rows, file)
        return self.files()

    def files(self) -> list[DataFile]:
        """All Parquet files with rows in this attempt's folder, by path."""
        paths = sorted(
            f"{self.folder}/{entry.path}"
            for entry in self.table.below(self.folder).entries()
            if is_data(entry)
        )
        with ThreadPoolExecutor(FOOTER_THREADS) as threads:
            found = threads.map(
                lambda path: data_file(
                    self.table, path, self.schema, self.partition_by, self.without_bounds
                ),
                paths,
            )
        return [file for file in found if file.rows]


def _translated(error: Exception, table: str) -> LakestormError:
    """Spark's failure as a fault of the file it could not read, or else of the table."""
    return unreadable_file(error) or LakeError(
        f"table {table}",
        f"could not be written: {str(error).strip().splitlines()[0]}",
        "Nothing was committed; mend the cause and run the stage again.",
    )
