"""A Delta table in the lake: created empty, read at a version, cleaned of orphans."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

import pyarrow as pa
from deltalake import DeltaTable, PostCommitHookProperties
from deltalake.exceptions import DeltaError
from deltalake.exceptions import TableNotFoundError as NoDeltaTable

from pipeline.errors import (
    LakeError,
    LakeNotWritableError,
    TableNotFoundError,
    UnsupportedTableError,
)
from pipeline.lake.attempt import Attempt
from pipeline.lake.schema import from_delta, require_same, to_delta
from pipeline.lake.snapshot import Snapshot
from pipeline.stores.folder import Folder, plain

# A restore notes under this key the version that it took the table back to.
RESTORED = "lakestorm.restored"
# A commit notes under this key columns whose bounds stay out of the log, as a list in JSON.
WITHOUT_BOUNDS = "lakestorm.without_bounds"
# What a restore gives an app that had committed nothing yet: a number below all others.
NO_TRANSACTION = -1

UNSUPPORTED = {"deletionVectors": "deletion vectors", "columnMapping": "column mapping"}


@dataclass(frozen=True)
class Table:
    """One table by its folder; nothing is opened until asked for."""

    name: str
    folder: Folder

    @property
    def root(self) -> str:
        """Absolute path of the folder, or its URI."""
        return self.folder.root

    @property
    def exists(self) -> bool:
        """Whether the folder holds a Delta log."""
        with self._reached():
            return DeltaTable.is_deltatable(self.root, self.folder.delta_options)

    def create(
        self,
        schema: pa.Schema,
        partition_by: Sequence[str] = (),
        description: str = "",
    ) -> None:
        """Creates the table empty; does nothing where it exists with this schema.

        Tables are never created with files: two racing creations would both land theirs.

        Raises:
            SchemaError: It exists with other columns or types.
            LakeError: It exists with other partition columns.
            LakeNotWritableError: The folder cannot be written.
        """
        try:
            DeltaTable.create(
                self.root,
                storage_options=self.folder.delta_options,
                schema=to_delta(schema),
                mode="ignore",
                partition_by=list(partition_by),
                name=self.name.replace("/", "_"),
                description=description,
                # A version that a model was trained on can be opened as long as its log is there.
                configuration={"delta.enableExpiredLogCleanup": "false"},
            )
        except (DeltaError, OSError) as error:
            raise LakeNotWritableError(
                f"table {self.name}",
                f"cannot be created: {plain(error)}",
                "Make its folder writable.",
            ) from error
        snapshot = self.snapshot()
        require_same(snapshot.schema, schema, f"table {self.name}")
        if snapshot.partition_by != tuple(partition_by):
            raise LakeError(
                f"table {self.name}",
                f"is partitioned by {list(snapshot.partition_by)}, not {list(partition_by)}",
                "Name another lake, or remove this table.",
            )

    def open(self, version: int | None = None) -> DeltaTable:
        """A handle of delta-rs at a version, the newest by default.

        Raises:
            TableNotFoundError: There is no such table or version.
            UnsupportedTableError: A plain Parquet read of it would be wrong.
        """
        if not self.exists:
            raise TableNotFoundError(
                f"table {self.name}",
                "is not in the lake",
                "Run the stage that writes it first, or correct the setting `lake`.",
            )
        try:
            handle = self._handle(version)
        except (NoDeltaTable, DeltaError, ValueError) as error:
            raise TableNotFoundError(
                f"table {self.name}, version {version}",
                f"cannot be opened: {plain(error)}",
                f"The newest version is {self._handle(None).version()}.",
            ) from error
        self._refuse_unsupported(handle)
        return handle

    def snapshot(self, version: int | None = None) -> Snapshot:
        """The table's files and schema at a version, the newest by default.

        Raises:
            TableNotFoundError: There is no such table or version.
            UnsupportedTableError: A plain Parquet read of it would be wrong.
        """
        return Snapshot.of(self.name, self.folder, self.open(version))

    def attempt(self, without_bounds: Collection[str] = ()) -> Attempt:
        """A new write attempt, to be used as a context.

        Args:
            without_bounds: Columns whose minimum and maximum stay out of the table's log. Its
                commit has to note them under `WITHOUT_BOUNDS`.
        """
        handle = self.open()
        partition_by = tuple(handle.metadata().partition_columns)
        schema = from_delta(handle.schema())
        return Attempt(self.name, self.folder, schema, partition_by, without_bounds)

    def transaction_version(self, app: str) -> int | None:
        """The last transaction number that `app` committed; None before its first."""
        return number_of(self.open(), app) if self.exists else None

    def history(self, limit: int | None = None) -> list[dict[str, Any]]:
        """The commits, newest first: version, time in ms, operation and what the writer noted."""
        return self.open().history(limit)

    def last_note(self, key: str) -> str | None:
        """What the newest commit that noted `key` noted; None where none did.

        After a restore it is what it was at the version restored.
        """
        newest: int | None = None
        for entry in self.history() if self.exists else []:
            if newest is not None and entry["version"] > newest:
                continue
            if key in entry:
                return str(entry[key])
            if RESTORED in entry:
                newest = int(entry[RESTORED])
        return None

    def vacuum(self, retention_hours: int, keep_versions: Sequence[int] = ()) -> list[str]:
        """Deletes files that no version in reach uses, never-committed ones included.

        Args:
            retention_hours: Younger files stay; must exceed the longest run, whose files await
                their commit.
            keep_versions: Versions whose files stay whatever their age.

        Returns:
            Paths of the files deleted, relative to the table.
        """
        handle = self.open()

        def run(*, dry_run: bool) -> list[str]:
            with self._reached():
                return handle.vacuum(
                    retention_hours=retention_hours,
                    dry_run=dry_run,
                    enforce_retention_duration=False,
                    full=True,
                    keep_versions=list(keep_versions) or None,
                    post_commithook_properties=PostCommitHookProperties(cleanup_expired_logs=False),
                )

        # Asked first: delta-rs makes two versions even where nothing is left to delete, and names
        # removed files again that are long gone.
        named = run(dry_run=True)
        there = {
            path: size is not None
            for spelled in (named, list(map(unquote, named)))
            for path, size in zip(spelled, self.folder.sizes(spelled), strict=True)
        }
        listed = [path for path in named if there[path] or there[unquote(path)]]
        if listed:
            run(dry_run=False)
        return listed

    def _handle(self, version: int | None) -> DeltaTable:
        with self._reached():
            return DeltaTable(self.root, version=version, storage_options=self.folder.delta_options)

    @contextmanager
    def _reached(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise self.folder.fault(error) from error

    def _refuse_unsupported(self, handle: DeltaTable) -> None:
        protocol = handle.protocol()
        features = {*(protocol.reader_features or ()), *(protocol.writer_features or ())}
        configuration: Mapping[str, str | None] = handle.metadata().configuration
        if configuration.get("delta.columnMapping.mode", "none") != "none":
            features.add("columnMapping")
        if configuration.get("delta.enableDeletionVectors", "false") == "true":
            features.add("deletionVectors")
        for feature in sorted(features & UNSUPPORTED.keys()):
            raise UnsupportedTableError(
                f"table {self.name} in {self.root}",
                f"uses {UNSUPPORTED[feature]}: its Parquet files alone do not tell its rows",
                "Rewrite it without this feature (Delta: ALTER TABLE ... DROP FEATURE).",
            )


def number_of(handle: DeltaTable, app: str) -> int | None:
    """The last transaction number of an app at a handle's version; None before its first."""
    number = handle.transaction_version(app)
    return None if number == NO_TRANSACTION else number
