"""Merging small files: fewer and larger ones, with the same rows in the same order.

Written with pyarrow, not with delta-rs's `optimize.compact`: that one chooses encoding,
compression and row groups by itself, and how `features` lies in Parquet is chosen for the stream
(`features/layout.py`). A merged file takes encoding and compression of each column from the files
it replaces; tables are merged in one way, whatever they hold. No more than a row group is in
memory.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.parquet as pq
from deltalake import DeltaTable
from deltalake.transaction import AddAction, RemoveAction

from pipeline.lake.attempt import Attempt
from pipeline.lake.files import DataFile, data_file, partition_folder
from pipeline.lake.schema import without
from pipeline.lake.snapshot import Snapshot
from pipeline.lake.table import WITHOUT_BOUNDS, Table
from pipeline.lake.transaction import Plan, add_action, remove_action, write
from pipeline.stores.folder import Folder

TARGET_BYTES = 128 * 2**20
# A commit notes under this key how many rows a row group of the table is to have.
ROWS_PER_ROW_GROUP = "lakestorm.rows_per_row_group"
# Where none is noted: pyarrow's own.
DEFAULT_ROWS_PER_ROW_GROUP = 2**20
_ARROW_SCHEMA = b"ARROW:schema"


@dataclass(frozen=True)
class Compacted:
    """What a compaction did."""

    merged: int
    """Small files that it took."""
    into: int
    """Files that now hold their rows."""


@dataclass(frozen=True)
class _Merge:
    """Files of one partition, in their order, and the file that holds their rows."""

    old: Sequence[DataFile]
    new: DataFile
    milliseconds: int


def compact(table: Table, target_bytes: int = TARGET_BYTES) -> Compacted:
    """Merges neighbouring small files of each partition, in one commit that changes no rows.

    Writers may commit meanwhile: a merge whose files they removed is left out.

    Args:
        table: The table; it must exist.
        target_bytes: Smaller files are merged into files of about this size.

    Raises:
        CommitConflictError: Other writers were faster again and again.
        LakeError: A file is not what the log says.
    """
    handle = table.open()
    times = commit_times(handle)
    bins = _bins(Snapshot.of(table.name, table.folder, handle).files, times, target_bytes)
    if not bins:
        return Compacted(0, 0)
    noted = table.last_note(ROWS_PER_ROW_GROUP)
    rows_per_row_group = DEFAULT_ROWS_PER_ROW_GROUP if noted is None else int(noted)
    without_bounds = json.loads(table.last_note(WITHOUT_BOUNDS) or "[]")
    with table.attempt(without_bounds) as attempt:
        merges = []
        for number, old in enumerate(bins):
            folder = f"{attempt.folder}/{partition_folder(old[0].partition)}".rstrip("/")
            path = f"{folder}/merged-{number:05d}.parquet"
            _merge(attempt, old, path, rows_per_row_group)
            new = data_file(
                table.folder, path, attempt.schema, attempt.partition_by, attempt.without_bounds
            )
            merges.append(_Merge(old, new, max(times[file.path] for file in old)))
        landed = _swap(table, merges, attempt)
        for merge in merges:
            if merge not in landed:
                table.folder.remove(merge.new.path)
    return Compacted(sum(len(merge.old) for merge in landed), len(landed))


def commit_times(handle: DeltaTable) -> dict[str, int]:
    """Path to when the file was committed, in ms: with the path, the order of the table's rows."""
    actions = pa.table(handle.get_add_actions(flatten=False))
    stamps = actions["modification_time"].cast(pa.int64()).to_pylist()
    return dict(zip(map(unquote, actions["path"].to_pylist()), stamps, strict=True))


def _bins(
    files: Sequence[DataFile], times: dict[str, int], target_bytes: int
) -> list[list[DataFile]]:
    """Two or more neighbouring small files of a partition each, of the target size together."""
    small: dict[tuple[str | None, ...], list[list[DataFile]]] = {}
    for file in sorted(files, key=lambda file: (times[file.path], file.path)):
        bins = small.setdefault(tuple(file.partition.values()), [[]])
        if file.bytes >= target_bytes:
            bins.append([])  # what comes before it and after it are no neighbours
        elif sum(other.bytes for other in bins[-1]) + file.bytes > target_bytes:
            bins.append([file])
        else:
            bins[-1].append(file)
    return [files for bins in small.values() for files in bins if len(files) > 1]


def _merge(attempt: Attempt, old: Sequence[DataFile], path: str, rows_per_row_group: int) -> None:
    table = attempt.table
    for file in old:  # checks that they hold what the table promises
        data_file(table, file.path, attempt.schema, attempt.partition_by)
    footers = [_footer(table, file.path) for file in old]
    stored = _stored_schema(without(attempt.schema, attempt.partition_by), footers)
    with (
        table.create(path) as merged,
        pq.ParquetWriter(merged, stored, **_layout(footers)) as out,
    ):
        for rows in _row_groups(table, old, stored, rows_per_row_group):
            out.write_table(rows, row_group_size=rows_per_row_group)


def _stored_schema(schema: pa.Schema, footers: Sequence[pq.FileMetaData]) -> pa.Schema:
    """A column is required where all files say so; Spark's own metadata stays."""
    found = [footer.schema.to_arrow_schema() for footer in footers]
    fields = [
        field.with_nullable(any(each.field(field.name).nullable for each in found))
        for field in schema
    ]
    metadata = {k: v for k, v in (footers[0].metadata or {}).items() if k != _ARROW_SCHEMA}
    return pa.schema(fields, metadata)


def _layout(footers: Sequence[pq.FileMetaData]) -> dict[str, Any]:
    """Encoding and compression of each column as the files have them."""
    chunks = [
        footer.row_group(group).column(column)
        for footer in footers
        for group in range(footer.num_row_groups)
        for column in range(footer.num_columns)
    ]
    return {
        "use_dictionary": sorted({c.path_in_schema for c in chunks if c.has_dictionary_page}),
        "compression": {
            c.path_in_schema: "NONE" if c.compression == "UNCOMPRESSED" else c.compression
            for c in chunks
        },
        "store_schema": any(_ARROW_SCHEMA in (footer.metadata or {}) for footer in footers),
    }


def _footer(table: Folder, path: str) -> pq.FileMetaData:
    with table.open(path) as file:
        return pq.read_metadata(file)


def _row_groups(
    table: Folder, files: Sequence[DataFile], schema: pa.Schema, rows: int
) -> Iterator[pa.Table]:
    """The rows of all files one after the other, cut into tables of so many rows."""
    waiting = schema.empty_table()
    for file in files:
        with table.open(file.path) as opened:
            for batch in pq.ParquetFile(opened).iter_batches(rows):
                read = pa.Table.from_batches([batch]).cast(schema)
                waiting = pa.concat_tables([waiting, read])
                while waiting.num_rows >= rows:
                    yield waiting.slice(0, rows)
                    waiting = waiting.slice(rows)
    if waiting.num_rows:
        yield waiting


def _swap(table: Table, merges: Sequence[_Merge], attempt: Attempt) -> list[_Merge]:
    """Commits the merges whose files are all still there, and says which."""
    landed: list[_Merge] = []

    def plan(handle: DeltaTable) -> Plan | None:
        live = {file.path for file in Snapshot.of(table.name, table.folder, handle).files}
        landed[:] = [each for each in merges if all(file.path in live for file in each.old)]
        actions: list[AddAction | RemoveAction] = [
            *(add_action(m.new, m.milliseconds, data_change=False) for m in landed),
            *(remove_action(file, data_change=False) for m in landed for file in m.old),
        ]
        return Plan(actions=actions) if landed else None

    write(table, plan, attempt)
    return landed
