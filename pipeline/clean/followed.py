"""A Delta table as a source that `clean --incremental` follows, commit by commit."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.config import Pipeline
from pipeline.lake import Table, changes
from pipeline.sources.delta import open_table
from pipeline.stores.folder import folder_of


@dataclass(frozen=True)
class SourceTable:
    """The table at the version that is the newest now."""

    table: Table
    table_id: str
    version: int

    @classmethod
    def of(cls, pipeline: Pipeline) -> SourceTable:
        """The pipeline's source; raises as `open_table` does."""
        handle = open_table(pipeline.source, "source", pipeline.storage)
        folder = folder_of(pipeline.source.path[0], pipeline.source.storage or pipeline.storage)
        table = Table(pipeline.source.path[0], folder)
        return cls(table, str(handle.metadata().id), handle.version())

    def added_since(self, version: int) -> set[str] | None:
        """Names of files with rows that came after a version.

        Returns:
            None where rows were changed or removed since, or the log does not tell: then all rows
            are to be read again. A compaction changes none.

        Raises:
            UnsupportedTableError: Deletion vectors or column mapping hide which rows changed.
        """
        since = changes(self.table, version, self.version)
        if since is None or since.removed:
            return None
        return {file.path for file in since.added}
