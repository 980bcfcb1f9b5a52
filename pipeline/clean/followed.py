"""A Delta table as a source that `clean --incremental` follows, commit by commit."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.config import Pipeline
from pipeline.lake import Table, changes
from pipeline.sources.delta import open_table
from pipeline.sources.raw import Found, RawFile
from pipeline.stores.folder import folder_of


@dataclass(frozen=True)
class SourceTable:
    """The table at one of its versions."""

    table: Table
    table_id: str
    version: int

    @classmethod
    def of(cls, pipeline: Pipeline, version: int | None = None) -> SourceTable:
        """The pipeline's source at a version, the newest by default; raises as `open_table`."""
        source = pipeline.source.model_copy(update={"version": version})
        handle = open_table(source, "source", pipeline.storage)
        folder = folder_of(pipeline.source.path[0], pipeline.source.storage or pipeline.storage)
        table = Table(pipeline.source.path[0], folder)
        return cls(table, str(handle.metadata().id), handle.version())

    def added_since(self, version: int, found: Found) -> Found | None:
        """Files with rows that came after a version.

        Args:
            version: Whose rows are known.
            found: The table's files now. A compaction may have merged rows that are new with others
                that are not, so that a new file is no longer one of them.

        Returns:
            None where rows were changed or removed since, or the log does not tell: then all rows
            are to be read again. A compaction changes none.

        Raises:
            UnsupportedTableError: Deletion vectors or column mapping hide which rows changed.
        """
        since = changes(self.table, version, self.version)
        if since is None or since.removed:
            return None
        folder = self.table.folder
        files = [
            RawFile(
                path=folder.uri(file.path),
                name=file.path,
                bytes=file.bytes,
                modified_ns=0,
                spark_path=folder.spark_path(file.path),
                partition=file.partition,
            )
            for file in since.added
        ]
        return Found(tuple(files), found.root)
