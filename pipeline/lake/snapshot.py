"""A table at one version: its files, its schema, and ways to read them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.parquet as pq
from deltalake import DeltaTable
from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F

from pipeline.errors import LakeError
from pipeline.lake.files import NULL_PARTITION, DataFile, partition_of
from pipeline.lake.schema import from_delta, to_spark, without
from pipeline.stores.folder import Folder


@dataclass(frozen=True)
class Between:
    """Values of a partition column from a first to a last one, both included; null is not."""

    first: object
    last: object


Wanted = str | Collection[str | None] | Between
"""What is wanted of a partition column: one value, some, or all from a first to a last one."""


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """What a table holds at a version; it stays so until vacuum takes that version away."""

    name: str
    folder: Folder
    """The table's."""
    table_id: str
    """Delta's: another one for a table that was removed and made again."""
    version: int
    schema: pa.Schema
    """All columns, partition columns included."""
    partition_by: tuple[str, ...]
    files: tuple[DataFile, ...]

    @classmethod
    def of(cls, name: str, folder: Folder, handle: DeltaTable) -> Snapshot:
        """The snapshot that a handle of delta-rs is at."""
        partition_by = tuple(handle.metadata().partition_columns)
        return cls(
            name=name,
            folder=folder,
            table_id=str(handle.metadata().id),
            version=handle.version(),
            schema=from_delta(handle.schema()),
            partition_by=partition_by,
            files=tuple(sorted(_files(handle), key=lambda file: file.path)),
        )

    @property
    def rows(self) -> int:
        """Rows in all files, from the log alone."""
        return sum(file.rows for file in self.files)

    @property
    def bytes(self) -> int:
        """Of all files, from the log alone."""
        return sum(file.bytes for file in self.files)

    def of_files(self, files: Iterable[DataFile]) -> Snapshot:
        """The same version with only these of its files."""
        return replace(self, files=tuple(sorted(files, key=lambda file: file.path)))

    def uris(self) -> list[str]:
        """The files, sorted, as the stream takes them: absolute paths, or URIs."""
        return [self.folder.uri(file.path) for file in self.files]

    def is_whole(self) -> bool:
        """Whether all files are still there."""
        return None not in self.folder.sizes([file.path for file in self.files])

    def partitions(self, column: str) -> list[str | None]:
        """The values of a partition column, sorted, null last."""
        self._require_partition_column(column)
        values = {file.partition[column] for file in self.files}
        return sorted(values, key=lambda value: (value is None, value or ""))

    def select(self, **partitions: Wanted) -> Snapshot:
        """The same version with only the files of some partitions.

        Args:
            partitions: Partition column to what is wanted of it: `split="train"`,
                `split={"train", "validation"}`, `period=Between("2013-01", "2013-06")`. Values are
                compared in the column's type, so that numbers are not compared as texts.

        Raises:
            LakeError: A column is not a partition column, so that files could not be pruned, or a
                value is not of its type.
        """
        kept = self.files
        for column, wanted in partitions.items():
            self._require_partition_column(column)
            matches = self._matcher(column, wanted)
            # Of very many files there are few values, and to compare types takes a while.
            matching = {text: matches(text) for text in {file.partition[column] for file in kept}}
            kept = tuple(file for file in kept if matching[file.partition[column]])
        return replace(self, files=kept)

    def _matcher(self, column: str, wanted: Wanted) -> Callable[[str | None], bool]:
        if isinstance(wanted, Between):
            first, last = self._typed(column, wanted.first), self._typed(column, wanted.last)
            return lambda text: text is not None and first <= self._typed(column, text) <= last
        wanted = [wanted] if isinstance(wanted, str) else wanted
        values = {self._typed(column, value) for value in wanted}
        return lambda text: self._typed(column, text) in values

    def _typed(self, column: str, value: object) -> Any:
        """A value in the type of a partition column, as Python has it."""
        wanted = self.schema.field(column).type
        if value is None:
            return None
        try:
            return pa.scalar(str(value)).cast(wanted).as_py()
        except pa.ArrowInvalid as error:
            raise LakeError(
                f"table {self.name}, column {column}",
                f"has the type {wanted}, which {value!r} is not",
                "Choose by values of that type.",
            ) from error

    def dataframe(self, spark: SparkSession) -> DataFrame:
        """The rows as a Spark frame, columns in the table's order."""
        if not self.files:
            return spark.createDataFrame([], to_spark(self.schema))
        stored = to_spark(without(self.schema, self.partition_by))
        paths = [self.folder.spark_path(file.path) for file in self.files]
        frame = spark.read.schema(stored).parquet(*paths)
        return frame.select(*(self._column(name) for name in self.schema.names))

    def arrow(self, columns: list[str]) -> pa.Table:
        """Some stored columns of all rows, in memory; for keys and scores, not for features."""
        stored = without(self.schema, self.partition_by)
        wanted = pa.schema([stored.field(name) for name in columns])
        pieces = [self.read(file, columns).cast(wanted) for file in self.files]
        return pa.concat_tables(pieces) if pieces else wanted.empty_table()

    def read(self, file: DataFile, columns: list[str]) -> pa.Table:
        """Some stored columns of one of the files, in this order."""
        with self.folder.open(file.path) as opened:
            return pq.ParquetFile(opened).read(columns=columns).select(columns)

    def head(self, rows: int) -> pa.Table:
        """The first rows of the last file, stored columns only, to show what a table is like."""
        if not self.files:
            return without(self.schema, self.partition_by).empty_table()
        with self.folder.open(self.files[-1].path) as file:
            return pa.Table.from_batches([next(pq.ParquetFile(file).iter_batches(rows))])

    def _column(self, name: str) -> Column:
        if name not in self.partition_by:
            return F.col(name)
        # Spark's own partition discovery needs one base folder, attempts are many: so the value is
        # read from the path, which Snapshot.of has checked against the log.
        below = F.substring_index(F.col("_metadata.file_path"), f"/{name}=", -1)
        spelled = F.substring_index(below, "/", 1)
        # file_path is a URI of a path that is itself escaped.
        text = unescaped(spelled, times=2)
        value = F.when(text != NULL_PARTITION, text)
        return value.cast(to_spark(self.schema)[name].dataType).alias(name)

    def _require_partition_column(self, column: str) -> None:
        if column not in self.partition_by:
            raise LakeError(
                f"table {self.name}, column {column}",
                "is not a partition column, so files cannot be chosen by it",
                f"Choose by {', '.join(self.partition_by) or 'nothing: it has no partitions'}; "
                "rows by other columns: in a rule of `clean`, or partition the table by it.",
            )


def unescaped(uri: Column, times: int = 1) -> Column:
    """A URI, or a part of one, as the path that it stands for; each plus is kept.

    Args:
        uri: Of a file, the same in many rows; what holds no escape is not looked at twice.
        times: How often it was escaped.
    """
    decoded = uri
    for _ in range(times):
        decoded = F.url_decode(F.replace(decoded, F.lit("+"), F.lit("%2B")))
    return F.when(F.contains(uri, F.lit("%")), decoded).otherwise(uri)


def _files(handle: DeltaTable) -> list[DataFile]:
    partition_by = tuple(handle.metadata().partition_columns)
    actions = pa.table(handle.get_add_actions(flatten=False))
    found = []
    for action in actions.select(_present(actions)).to_pylist():
        path = unquote(action["path"])  # the log holds URIs
        if action["num_records"] is None:
            raise LakeError(
                f"file {path}",
                "has no row count in the table's log",
                "Rewrite the table with a writer that keeps statistics.",
            )
        spelled = partition_of(path, partition_by)
        logged = action.get("partition") or {}
        if any(spelled[name] != _text(logged.get(name)) for name in partition_by):
            raise LakeError(
                f"file {path}",
                f"lies in another partition than its log entry says: {logged}",
                "Rewrite the table: its paths and its log disagree.",
            )
        found.append(
            DataFile(
                path=path,
                bytes=action["size_bytes"],
                rows=action["num_records"],
                partition=spelled,
                statistics="",
            )
        )
    return found


def _present(actions: pa.Table) -> list[str]:
    wanted = ("path", "size_bytes", "num_records", "partition")
    return [name for name in wanted if name in actions.column_names]


def _text(value: object) -> str | None:
    return None if value is None else str(value)
