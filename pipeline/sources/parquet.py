"""Raw Parquet: files in groups of equal layout, each read by the types it is stored in.

One month's file may hold a column as `int64`, the next one's as `double`: `clean.contract` brings
every group to the same columns.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from typing import ClassVar

import pyarrow as pa
import pyarrow.parquet as pq
from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F

from pipeline.config import Files, Storage
from pipeline.errors import SourceError, one_line
from pipeline.lake.schema import to_spark
from pipeline.sources.assembly import assembled
from pipeline.sources.format import Format
from pipeline.sources.matching import Match, match
from pipeline.sources.raw import (
    FILE,
    Found,
    RawFile,
    partition_value,
    quoted,
    shortened,
    with_origin,
)
from pipeline.sources.stored import CLOCKS, require_castable, stored_type
from pipeline.stores.reading import open_file

_FOOTER_THREADS = 8


@dataclass(frozen=True)
class Layout:
    """What files must share to be read as one frame."""

    schema: pa.Schema
    """Columns of the file that are read, by the types that Spark is told."""
    clocks: tuple[tuple[str, str], ...]
    """Columns that are numbers to Spark and times to Arrow, and which of `CLOCKS` they are."""
    match: tuple[tuple[str, tuple[str, ...]], ...]
    other: tuple[str, ...]
    """Columns outside of the contract that are kept."""
    partitions: tuple[str, ...]


@dataclass(frozen=True)
class ParquetFiles:
    """Parquet files of one source.

    Args:
        files: The contract, without patterns.
        found: The files.
        physical: Column to its name in the files, where a table's log says that they differ.
        optional: Columns that a file may lack whatever the policy says, being null there.
        partitions_by_log: Whether partition columns have the values that `found` has, not those
            in the names of folders.
    """

    knows_columns: ClassVar = True

    files: Files
    found: Found
    physical: Mapping[str, str] = field(default_factory=dict)
    optional: frozenset[str] = frozenset()
    partitions_by_log: bool = False

    def columns(self) -> list[str]:
        """Names of all columns that any of the files has."""
        return [
            name
            for file, footer in zip(self.found.files, self._footers, strict=True)
            for name in self._names(file, footer.schema.to_arrow_schema())
        ]

    def matches(self) -> list[Match]:
        """Of each file."""
        return [
            self._match(file, footer.schema.to_arrow_schema())
            for file, footer in zip(self.found.files, self._footers, strict=True)
        ]

    def frames(self, spark: SparkSession) -> list[DataFrame]:
        """The rows, a frame for each group of files with equal layout."""
        groups: dict[Layout, list[RawFile]] = {}
        for file, footer in zip(self.found.files, self._footers, strict=True):
            groups.setdefault(self._layout(file, footer), []).append(file)
        return [self._frame(spark, layout, group) for layout, group in groups.items()]

    def rows(self) -> int:
        """Rows of all files by their footers."""
        return sum(int(footer.num_rows) for footer in self._footers)

    @cached_property
    def _footers(self) -> list[pq.FileMetaData]:
        with ThreadPoolExecutor(_FOOTER_THREADS) as threads:
            return list(threads.map(footer_of, self.found.files))

    def _names(self, file: RawFile, schema: pa.Schema) -> list[str]:
        """Columns of a file, those that its folders name among them."""
        own = [name for name in self._logical(schema.names) if name not in file.partition]
        return [*own, *file.partition]

    def _match(self, file: RawFile, schema: pa.Schema) -> Match:
        names = self._names(file, schema)
        # What a table's schema has and an old file lacks is null there, by the table's format.
        names += [name for name in self.optional if name not in names]
        kinds = zip(self._logical(schema.names), schema.types, strict=True)
        nested = {name for name, kind in kinds if pa.types.is_struct(kind)}
        return match(self.files, names, f"file {file.path}", nested)

    def _layout(self, file: RawFile, footer: pq.FileMetaData) -> Layout:
        where = f"file {file.path}"
        schema = footer.schema.to_arrow_schema()
        stored = zip(self._logical(schema.names), schema.types, strict=True)
        kinds = {name: kind for name, kind in stored if name not in file.partition}
        matched = self._match(file, schema)
        other = matched.new if self.files.policies.new_column == "keep" else ()
        for name, path in matched.found.items():
            if path[0] in kinds:
                require_castable(kinds[path[0]], path, self.files, name, where)
        used = dict.fromkeys([*(path[0] for path in matched.found.values()), *other])
        read: dict[str, pa.DataType] = {}
        clocks: dict[str, str] = {}
        for name in used:
            if name not in kinds:
                continue
            physical = _physical_types(footer, self._stored(name))
            read[name], clock = stored_type(kinds[name], physical, f"{where}, column {name}")
            if clock is not None:
                clocks[name] = clock
        return Layout(
            pa.schema([pa.field(self._stored(name), kind) for name, kind in read.items()]),
            tuple(clocks.items()),
            tuple(matched.found.items()),
            other,
            tuple(file.partition),
        )

    def _frame(self, spark: SparkSession, layout: Layout, group: Sequence[RawFile]) -> DataFrame:
        reader = spark.read.options(**self.files.options).schema(to_spark(layout.schema))
        frame = reader.parquet(*(file.spark_path for file in group)).select("*", "_metadata")
        frame = with_origin(frame, self.found.root, F.col("_metadata.row_index"))
        if self.partitions_by_log and layout.partitions:
            frame = frame.join(
                F.broadcast(_logged(spark, group)), F.col(FILE) == F.col("_logged_file"), "left"
            )
        values = {name: self._value(layout, path) for name, path in layout.match}
        new = {name: self._value(layout, (name,)) for name in layout.other}
        return assembled(frame, self.files, values, new)

    def _value(self, layout: Layout, path: tuple[str, ...]) -> Column:
        top = path[0]
        if top in layout.partitions:
            return self._partition(layout, top)
        if self._stored(top) not in layout.schema.names:
            return F.lit(None).cast("string")
        clocks = dict(layout.clocks)
        if top in clocks:
            return CLOCKS[clocks[top]](quoted(self._stored(top)))
        return quoted(self._stored(top), *path[1:])

    def _partition(self, layout: Layout, name: str) -> Column:
        if self.partitions_by_log:
            return F.element_at("_logged_values", layout.partitions.index(name) + 1)
        return partition_value(name)

    def _logical(self, names: Sequence[str]) -> list[str]:
        logical = {stored: name for name, stored in self.physical.items()}
        return [logical.get(name, name) for name in names]

    def _stored(self, name: str) -> str:
        return self.physical.get(name, name)


def _logged(spark: SparkSession, group: Sequence[RawFile]) -> DataFrame:
    """The values of partition columns by file."""
    values = [list(file.partition.values()) for file in group]
    table = pa.table(
        {
            "_logged_file": pa.array([file.name for file in group], pa.string()),
            "_logged_values": pa.array(values, pa.list_(pa.string())),
        }
    )
    return spark.createDataFrame(table)


def footer_of(file: RawFile) -> pq.FileMetaData:
    """The footer of a Parquet file.

    Raises:
        SourceError: It has none, or one that cannot be read.
    """
    try:
        with open_file(file.path) as opened:
            footer = pq.read_metadata(opened)
            footer.schema.to_arrow_schema()
            problem = _contradiction(footer)
    except (OSError, pa.ArrowException, ValueError) as error:
        problem, cause = shortened(one_line(error)), error
    else:
        if problem is None:
            return footer
        cause = None
    raise SourceError(
        f"file {file.path}",
        f"is not readable Parquet: {problem}",
        "Deliver it again, or remove it.",
    ) from cause


def _contradiction(footer: pq.FileMetaData) -> str | None:
    """Where counts of rows disagree; Spark would go by one of them, and lose rows in silence."""
    groups = [footer.row_group(place) for place in range(footer.num_row_groups)]
    if sum(group.num_rows for group in groups) != footer.num_rows:
        return f"its footer tells {footer.num_rows} rows, and its row groups others"
    flat = [
        place
        for place in range(footer.num_columns)
        if footer.schema.column(place).max_repetition_level == 0
    ]
    for number, group in enumerate(groups):
        values = {group.column(place).num_values for place in flat}
        if values - {group.num_rows}:
            return f"row group {number} tells {group.num_rows} rows, and its columns others"
    return None


def _physical_types(footer: pq.FileMetaData, top: str) -> frozenset[str]:
    """How the leaves of a column are stored."""
    leaves = (footer.schema.column(place) for place in range(len(footer.schema.names)))
    return frozenset(
        leaf.physical_type for leaf in leaves if leaf.path == top or leaf.path.startswith(f"{top}.")
    )


class Parquet(Format):
    """Parquet files, each with its own types."""

    name: ClassVar = "parquet"
    endings: ClassVar = (".parquet", ".parq", ".pq")

    def open(self, _: SparkSession, files: Files, setting: str, storage: Storage) -> ParquetFiles:
        """Finds the Parquet files of a source."""
        return ParquetFiles(files, self.find(files, setting, storage))


FORMAT = Parquet()
