"""The upkeep of a lake: fewer files, no orphans, and a table taken back to an older version."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

from pipeline.errors import ConfigError, LakeError, TableNotFoundError
from pipeline.features.catalogue import stored_vocabularies
from pipeline.lake import TARGET_BYTES, Lake, Table, compact, sweep
from pipeline.lake import restore as restore_table
from pipeline.training.registry import trained_versions

SHORTEST_RETENTION_HOURS = 1


@dataclass(frozen=True, kw_only=True)
class Maintained:
    """What was done to one table."""

    table: str
    version: int
    """Version now."""
    files_merged: int
    """Small files that were merged."""
    files_written: int
    """Files that hold their rows now."""
    files_deleted: int
    """Orphans and files of versions older than the retention."""
    versions_kept: list[int]
    """Versions that a registered model was trained on, or whose words a feature spec needs."""


def maintain(
    lake: Lake,
    retention_hours: int,
    *,
    target_bytes: int = TARGET_BYTES,
    force: bool = False,
) -> list[Maintained]:
    """Compacts and vacuums every table of a lake.

    Args:
        lake: The lake.
        retention_hours: Versions and orphans younger than this stay; it must exceed the longest
            run, whose files await their commit and whose pinned version is being read.
        target_bytes: Smaller files are merged.
        force: Allows less than an hour, for a lake that nothing reads or writes meanwhile.

    Raises:
        ConfigError: The retention is too short.
        ModelError: The registry cannot be read, so that nobody knows what models need.
        LakeError: A version that a model was trained on cannot be opened; its table is untouched.
    """
    if retention_hours < SHORTEST_RETENTION_HOURS and not force:
        raise ConfigError(
            "--retention-hours",
            f"is {retention_hours}: files of a run under way could be deleted",
            f"Give {SHORTEST_RETENTION_HOURS} or more, or --force while nothing else runs.",
        )
    # Before anything is deleted: without the registry nothing is.
    needed = trained_versions(lake) | stored_vocabularies(lake)
    done = []
    for table in lake.tables():
        kept = _to_keep(table, {version for name, version in needed if name == table.name})
        compacted = compact(table, target_bytes)
        deleted = sweep(table, retention_hours, kept)
        done.append(
            Maintained(
                table=table.name,
                version=table.open().version(),
                files_merged=compacted.merged,
                files_written=compacted.into,
                files_deleted=len(deleted),
                versions_kept=kept,
            )
        )
    return done


def _to_keep(table: Table, needed: set[int]) -> list[int]:
    newest = table.open().version()
    # A registry may serve several lakes: a later version is not of this one.
    kept = sorted(version for version in needed if version <= newest)
    for version in kept:
        try:
            table.open(version)
        except TableNotFoundError as error:
            raise LakeError(
                f"table {table.name}, version {version}",
                "was a registered model's training data, or holds the words of a feature spec, and "
                "cannot be opened, so its files cannot be told from those to delete",
                "Delete that model version in MLflow, or bring the table's log back.",
            ) from error
    return kept


def line(done: Maintained) -> str:
    """One line for people."""
    kept = ", ".join(map(str, done.versions_kept))
    return (
        f"{done.table}: version {done.version}, {done.files_merged} files merged into "
        f"{done.files_written}, {done.files_deleted} deleted"
        + (f", kept for models: version {kept}" if kept else "")
    )


def as_json(done: list[Maintained]) -> str:
    """All tables as one JSON object, by name."""
    return json.dumps({each.table: asdict(each) for each in done})


def take_back(lake: Lake, name: str, version: int) -> str:
    """Restores a table of the lake, and says so in a line.

    Raises:
        TableNotFoundError: There is no such table or version, or vacuum took files of it.
        LakeError: It cannot be restored.
    """
    names = [table.name for table in lake.tables()]
    if name not in names:
        raise TableNotFoundError(
            f"table {name}",
            f"is not in the lake {lake.root}; tables: {', '.join(names) or 'none'}",
            "Name one of these, or another --lake.",
        )
    done = restore_table(lake.table(name), version)
    if not done.landed:
        return f"{name} held that already: it is at version {done.version}"
    return f"{name} is as it was at version {version}; this is version {done.version}"
