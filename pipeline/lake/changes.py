"""What a table gained and lost between two of its versions, read from its log.

A compaction (`dataChange=false`) moves rows into other files and changes none, so each file is
followed back to the files of data whose rows it holds: those of the older version, and those that
were added since. An append stays an append although its file was merged with older ones meanwhile,
and what was merged and then restored is no change. Where a file that was added and merged has been
vacuumed, its partition is told by the difference of the two versions instead: files removed, and
the merged one added, which holds their rows and can be read.

Source: Delta transaction log protocol, "Add File and Remove File" and `dataChange`.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias
from urllib.parse import unquote

from deltalake import DeltaTable
from deltalake import Schema as DeltaSchema

from pipeline.errors import TableNotFoundError
from pipeline.lake.files import DataFile, partition_of
from pipeline.lake.snapshot import Snapshot
from pipeline.lake.table import Table

Sum: TypeAlias = Counter[str]
"""Path of a file to how often its rows count; negative where they are taken away."""

Partition: TypeAlias = tuple[str | None, ...]


@dataclass(frozen=True)
class Changes:
    """Rows now = rows then - rows of `removed` + rows of `added`, as multisets."""

    added: tuple[DataFile, ...]
    """All of them can be read; by path. Some may no longer be files of the newer version: a
    compaction has merged their rows with others."""
    removed: tuple[DataFile, ...]
    """By path. Vacuum may have deleted them: their partition and row count are what is sure."""


def data_version(table: Table, version: int | None = None) -> int:
    """The oldest version with the same rows as a version, the newest by default.

    Compaction and vacuum make new versions of a table and change no row of it: what is to be done
    once for some rows goes by this number. The files to read are those of the version itself.

    Raises:
        TableNotFoundError: There is no such table or version.
    """
    number = table.open(version).version()
    while number > 0 and _keeps_rows(table, number):
        number -= 1
    return number


def _keeps_rows(table: Table, version: int) -> bool:
    """Whether a commit is known to change nothing but where rows lie."""
    try:
        actions = list(_actions(table, version))
    except _UnclearError:
        return False
    moves = [action for kind, action in actions if kind in ("add", "remove")]
    told = all(kind in ("add", "remove", "commitInfo") for kind, _ in actions)
    return told and not any(action["dataChange"] for action in moves)


def transactions_since(table: Table, since: int, until: int) -> set[str] | None:
    """Apps that committed a transaction after a version; None where the log does not tell."""
    try:
        return {
            action["appId"]
            for version in range(since + 1, until + 1)
            for kind, action in _actions(table, version)
            if kind == "txn"
        }
    except _UnclearError:
        return None


class _UnclearError(Exception):
    """The log holds something that does not tell which rows changed."""


def changes(table: Table, since: int, until: int) -> Changes | None:
    """The net changes of data from one version to a later one.

    Args:
        table: The table.
        since: The version whose rows are known.
        until: The version whose rows are wanted; it must exist.

    Returns:
        Files added and removed, those that came and went in between left out; None where the log
        does not tell, so that everything is to be read anew: `since` is later than `until`, its
        log was cleaned away, or a commit changed the schema or is not understood.

    Raises:
        TableNotFoundError: There is no such table, or no version `until`.
    """
    now = table.snapshot(until)
    if not 0 <= since <= until:
        return None
    try:
        handle = table.open(since)
    except TableNotFoundError:
        return None
    replay = _Replay(table, handle)
    try:
        for version in range(since + 1, until + 1):
            replay.apply(version)
        return replay.net(now)
    except _UnclearError:
        return None


class _Replay:
    """Walks the commits after a version and keeps track of which rows lie where."""

    def __init__(self, table: Table, handle: DeltaTable) -> None:
        self.table = table
        self.start = Snapshot.of(table.name, table.folder, handle)
        self.schema = handle.schema()
        self.protocol = handle.protocol()
        self.known = {file.path: file for file in self.start.files}
        self.live = set(self.known)
        # What each file holds, in files of data.
        self.content: dict[str, Sum] = {path: Counter([path]) for path in self.known}

    def apply(self, version: int) -> None:
        merges: dict[Partition, dict[str, list[str]]] = {}
        for kind, action in _actions(self.table, version):
            if kind in ("add", "remove"):
                path = self._take(kind, action)
                if action["dataChange"]:
                    self.content.setdefault(path, Counter([path]))
                else:
                    merge = merges.setdefault(_place(self.known[path]), {"add": [], "remove": []})
                    merge[kind].append(path)
            elif kind not in ("commitInfo", "txn") and not self._says_nothing_new(kind, action):
                raise _UnclearError
        for merge in merges.values():
            self._merge(merge["remove"], merge["add"])

    def _merge(self, old: list[str], new: list[str]) -> None:
        rows = [sum(self.known[path].rows for path in paths) for paths in (old, new)]
        if rows[0] != rows[1] or not new or any(path in self.content for path in new):
            raise _UnclearError  # it says that it changes no rows, and does
        held: Sum = Counter()
        for path in old:
            held.update(self.content[path])
        # Of several new files none tells whose rows it holds; all of them together do.
        for path in new[:-1]:
            self.content[path] = Counter([path])
            held.subtract([path])
        self.content[new[-1]] = held

    def _take(self, kind: str, action: dict[str, Any]) -> str:
        """Keeps track of the files that are there; what cannot be is no history to go by."""
        path = unquote(action["path"])  # the log holds URIs
        if (path in self.live) == (kind == "add") or action.get("deletionVector"):
            raise _UnclearError
        if kind == "remove":
            self.live.remove(path)
            return path
        rows = json.loads(action.get("stats") or "{}").get("numRecords")
        if rows is None:
            raise _UnclearError
        self.live.add(path)
        self.known[path] = DataFile(
            path=path,
            bytes=action["size"],
            rows=rows,
            partition=partition_of(path, self.start.partition_by),
            statistics="",
        )
        return path

    def _says_nothing_new(self, kind: str, action: dict[str, Any]) -> bool:
        """Whether an action repeats what holds already; delta-rs's own restore writes such."""
        if kind == "metaData":
            same = tuple(action["partitionColumns"]) == self.start.partition_by
            return same and DeltaSchema.from_json(action["schemaString"]) == self.schema
        held = {
            "minReaderVersion": self.protocol.min_reader_version,
            "minWriterVersion": self.protocol.min_writer_version,
        }
        return kind == "protocol" and action == held

    def net(self, now: Snapshot) -> Changes:
        """What is left of it all in the end."""
        if self.live != {file.path for file in now.files}:
            raise _UnclearError
        followed: Sum = Counter()
        for path in self.live:
            followed.update(self.content[path])
        start = [file.path for file in self.start.files]
        followed.subtract(start)
        differing: Sum = Counter(self.live)
        differing.subtract(start)
        unusable = {_place(self.known[p]) for p, count in followed.items() if self._fails(p, count)}
        total = {
            path: count
            for sums, wanted in ((followed, False), (differing, True))
            for path, count in sums.items()
            if count and (_place(self.known[path]) in unusable) == wanted
        }
        return Changes(
            tuple(self.known[path] for path in sorted(total) if total[path] > 0),
            tuple(self.known[path] for path in sorted(total) if total[path] < 0),
        )

    def _fails(self, path: str, count: int) -> bool:
        """Whether a file to be added cannot be, or one counts more than once."""
        gone = count > 0 and self.table.folder.sizes([path]) == [None]
        return gone or abs(count) > 1


def _place(file: DataFile) -> Partition:
    return tuple(file.partition.values())


def _actions(table: Table, version: int) -> Iterator[tuple[str, dict[str, Any]]]:
    """Kind and content of each action of a commit."""
    try:
        with table.folder.open(f"_delta_log/{version:020d}.json") as log:
            lines = log.read().decode().splitlines()
    except FileNotFoundError as error:  # cleaned up after a checkpoint
        raise _UnclearError from error
    for line in lines:
        yield from json.loads(line).items()
