"""A Delta table as raw data: the files of one of its versions, by its log and by nothing else.

Rows that a deletion vector takes away are left out; columns that the log maps to other names in the
files are read by these.

Source: Delta transaction log protocol, "Deletion Vectors", "Column Mapping", "Partition Values".
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from typing import Any, ClassVar
from urllib.parse import unquote

import pyarrow as pa
from deltalake import DeltaTable
from deltalake.exceptions import DeltaError
from deltalake.exceptions import TableNotFoundError as NoDeltaTable
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from pipeline.address import refuse_escapes
from pipeline.config import Files, Storage
from pipeline.errors import SourceError, TableNotFoundError, UnsupportedTableError
from pipeline.sources.format import Format
from pipeline.sources.matching import Match
from pipeline.sources.parquet import ParquetFiles
from pipeline.sources.raw import FILE, POSITION, Found, RawFile
from pipeline.stores.folder import Folder, folder_of, plain

READ = {
    "appendOnly",
    "catalogManaged",
    "checkConstraints",
    "columnMapping",
    "deletionVectors",
    "domainMetadata",
    "invariants",
    "timestampNtz",
    "typeWidening",
    "typeWidening-preview",
    "v2Checkpoint",
    "vacuumProtocolCheck",
}
"""Features of a table that are read right here; others are refused."""


@dataclass(frozen=True)
class DeltaFiles:
    """A Delta table at one of its versions.

    Args:
        files: The contract, without patterns.
        found: The version's files.
        handle: The table at that version.
    """

    knows_columns: ClassVar = True

    files: Files
    found: Found
    handle: DeltaTable

    def columns(self) -> list[str]:
        """Columns of the table at this version."""
        return [field.name for field in self.handle.schema().fields]

    def matches(self) -> list[Match]:
        """Of each file."""
        return self._parquet.matches()

    def frames(self, spark: SparkSession) -> list[DataFrame]:
        """The rows, less those that a deletion vector takes away."""
        frames = self._parquet.frames(spark)
        if not self._deleted.num_rows:
            return frames
        gone = F.broadcast(spark.createDataFrame(self._deleted))
        same = [F.col(FILE) == F.col("_gone_file"), F.col(POSITION) == F.col("_gone_position")]
        return [frame.join(gone, same, "left_anti") for frame in frames]

    def rows(self) -> int:
        """By the files' footers and the deletion vectors."""
        return self._parquet.rows() - int(self._deleted.num_rows)

    @cached_property
    def _parquet(self) -> ParquetFiles:
        if not self.found.files:
            return ParquetFiles(self.files, self.found)
        return ParquetFiles(
            self.files,
            self.found,
            physical=self._physical,
            optional=frozenset(self.columns()),
            partitions_by_log=True,
        )

    @cached_property
    def _physical(self) -> Mapping[str, str]:
        return physical_names(self.handle)

    @cached_property
    def _deleted(self) -> pa.Table:
        """File and position of each row that is deleted in it."""
        names, positions = [], []
        root = self.handle.table_uri.rstrip("/")
        for vector in pa.table(self.handle.deletion_vectors()).to_pylist():
            kept = pa.array(vector["selection_vector"], pa.bool_())
            gone = [place for place, is_kept in enumerate(kept.to_pylist()) if not is_kept]
            name = unquote(vector["filepath"].removeprefix(root).lstrip("/"))
            names += [name] * len(gone)
            positions += gone
        return pa.table(
            {
                "_gone_file": pa.array(names, pa.string()),
                "_gone_position": pa.array(positions, pa.int64()),
            }
        )


def is_delta(path: str, storage: Storage) -> bool:
    """Whether a folder holds a Delta table."""
    return "_delta_log" in folder_of(path, storage).subfolders()


def open_table(files: Files, setting: str, storage: Storage) -> DeltaTable:
    """The table at the version that is pinned, or the newest.

    Raises:
        TableNotFoundError: There is no such table or version.
        UnsupportedTableError: It has a feature under which our reading would be wrong.
        SourceError: Its log cannot be read.
    """
    if len(files.path) != 1:
        raise SourceError(f"{setting}.path", "names several places", "A Delta table is one folder.")
    folder = folder_of(files.path[0], files.storage or storage)
    refuse_escapes(folder.root, f"{setting}.path")
    where = f"{setting}.path, table {files.path[0]}"
    try:
        handle = DeltaTable(folder.root, files.version, storage_options=folder.delta_options)
        if files.as_of is not None:
            handle.load_as_version(files.as_of)
    except NoDeltaTable as error:
        raise TableNotFoundError(
            where, f"is no Delta table: {plain(error)}", "Correct the path or the format."
        ) from error
    except (DeltaError, OSError, ValueError) as error:
        pinned = f" at version {files.version}" if files.version is not None else ""
        raise SourceError(
            where,
            f"cannot be opened{pinned}: {plain(error)}",
            "Choose a version that its log still has, or mend the table.",
        ) from error
    if files.as_of is not None:
        _require_there_then(handle, folder, files.as_of, where)
    _refuse_unknown(handle, where)
    return handle


def _require_there_then(handle: DeltaTable, folder: Folder, as_of: datetime, where: str) -> None:
    """Refuses a time before the table's first version, for which delta-rs gives the first."""
    name = f"{handle.version():020d}.json"
    logs = {entry.path: entry for entry in folder.below("_delta_log").entries()}
    zoned = as_of if as_of.tzinfo else as_of.replace(tzinfo=UTC)
    if name in logs and logs[name].modified_seconds > zoned.timestamp():
        raise TableNotFoundError(
            where,
            f"has no version at {as_of.isoformat()}: the oldest in its log came later",
            "Name a later time, or a version.",
        )


def _refuse_unknown(handle: DeltaTable, where: str) -> None:
    unknown = sorted(set(handle.protocol().reader_features or ()) - READ)
    if unknown:
        raise UnsupportedTableError(
            where,
            f"has {', '.join(unknown)}, which are not read here",
            "Write it again without (ALTER TABLE ... DROP FEATURE), or export it as Parquet.",
        )


def find_delta(files: Files, setting: str, storage: Storage) -> tuple[Found, DeltaTable]:
    """The files of the table's version, and its handle there.

    Raises:
        LakestormError: As `open_table`; or a file that the log names is gone.
    """
    handle = open_table(files, setting, storage)
    folder = folder_of(files.path[0], files.storage or storage)
    logical = {stored: name for name, stored in physical_names(handle).items()}
    found = [_file(folder, action, logical, setting) for action in _actions(handle)]
    found.sort(key=lambda file: file.name)
    sizes = folder.sizes([file.name for file in found])
    for file, size in zip(found, sizes, strict=True):
        if size != file.bytes:
            problem = "is gone" if size is None else f"has {size} bytes, not {file.bytes}"
            raise SourceError(
                f"file {file.path}",
                f"{problem}, and version {handle.version()} of the table in {files.path[0]} has it",
                "Pin a version whose files are still there, or restore the file.",
            )
    root = folder.spark_path("").rstrip("/")
    uri = root if "://" in root else f"file://{root}"
    return Found(tuple(found), uri, _deletions(handle)), handle


def _deletions(handle: DeltaTable) -> str:
    """Tells deletion vectors apart: a file of which rows were deleted keeps name and bytes."""
    vectors = pa.table(handle.deletion_vectors())
    if not vectors.num_rows:
        return ""
    told = sorted(map(repr, vectors.to_pylist()))
    return hashlib.sha256("\n".join(told).encode()).hexdigest()


def physical_names(handle: DeltaTable) -> dict[str, str]:
    """Column to its name in the files, where the log maps it to another one.

    Raises:
        UnsupportedTableError: A field inside of a struct has another name in the files.
    """
    described: dict[str, Any] = json.loads(handle.schema().to_json())
    if handle.metadata().configuration.get("delta.columnMapping.mode", "none") == "none":
        return {}
    key = "delta.columnMapping.physicalName"
    names = {each["name"]: each["metadata"].get(key, each["name"]) for each in described["fields"]}
    for each in described["fields"]:
        if key in json.dumps(each["type"]):
            raise UnsupportedTableError(
                f"table {handle.table_uri}, column {each['name']}",
                "has fields that the table's column mapping names otherwise in the files",
                "Export the table as Parquet.",
            )
    return names


def _actions(handle: DeltaTable) -> list[dict[str, Any]]:
    actions = pa.table(handle.get_add_actions(flatten=False))
    wanted = ("path", "size_bytes", "modification_time", "partition", "partition_values")
    found: list[dict[str, Any]] = actions.select(
        [name for name in wanted if name in actions.column_names]
    ).to_pylist()
    return found


def _file(
    folder: Folder, action: Mapping[str, Any], logical: Mapping[str, str], setting: str
) -> RawFile:
    path = unquote(action["path"])  # the log holds URIs
    if "://" in path or path.startswith("/"):
        raise UnsupportedTableError(
            f"{setting}.path, file {path}",
            "lies outside of the table's folder: it is a shallow clone",
            "Read the table that it was cloned from, or write a deep clone.",
        )
    logged = action.get("partition") or action.get("partition_values") or {}
    partition = {logical.get(name, name): _text(value) for name, value in logged.items()}
    changed = action.get("modification_time")
    return RawFile(
        path=folder.uri(path),
        name=path,
        bytes=action["size_bytes"],
        modified_ns=int(getattr(changed, "value", changed) or 0),
        spark_path=folder.spark_path(path),
        partition=partition,
    )


def _text(value: object) -> str | None:
    if isinstance(value, bool):
        return str(value).lower()
    return None if value is None else str(value)


class Delta(Format):
    """A Delta table: the files of one of its versions."""

    name: ClassVar = "delta"
    by_log: ClassVar = True

    def open(self, _: SparkSession, files: Files, setting: str, storage: Storage) -> DeltaFiles:
        """Opens the version that is pinned, or the newest."""
        found, handle = find_delta(files, setting, storage)
        return DeltaFiles(files, found, handle)


FORMAT = Delta()
