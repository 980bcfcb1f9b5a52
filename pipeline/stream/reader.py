"""Petastorm's reader, fed by the plan instead of by its own listing of files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
from fsspec.implementations.local import LocalFileSystem
from petastorm.reader import Reader

from pipeline.stream.fetch import Ahead, SnapshotFiles
from pipeline.stream.legacy.dataset import Dataset
from pipeline.stream.plan import Item
from pipeline.stream.pool import OrderedPool, PlanVentilator
from pipeline.stream.windows import Windows
from pipeline.stream.worker import RowGroupWorker


@dataclass(frozen=True, slots=True)
class SnapshotPiece:
    """What Petastorm is told of the snapshot: one file, of one row group, of these columns."""

    path: str
    arrow_schema: pa.Schema
    num_row_groups: int = 1
    partition_keys: tuple[tuple[str, int], ...] = ()

    def get_metadata(self) -> SnapshotPiece:
        """Returns what stands for the footer."""
        return self

    @property
    def schema(self) -> SnapshotPiece:
        """What stands for the footer's schema."""
        return self

    def to_arrow_schema(self) -> pa.Schema:
        """Returns the types of the columns that are read."""
        return self.arrow_schema


class Snapshot(Dataset):
    """The files of a snapshot as the data set that Petastorm's reader works on.

    Args:
        files: What is read.
        windows: Where the workers put rows.
    """

    def __init__(self, files: SnapshotFiles, windows: Windows) -> None:
        self.files = files
        self.windows = windows
        self.ahead = Ahead(files)
        self.fs = LocalFileSystem()
        self.paths = [footer.file for footer in files.footers]
        # Petastorm wants to know that there is something and what it is called. What is read, and
        # as what, say the plan and the layout; a list of all row groups would only take time.
        named = pa.schema([(column, pa.binary()) for column in files.layout.columns])
        self.pieces = [SnapshotPiece(footer.file, named) for footer in files.footers[:1]]


class PlanReader(Reader):  # type: ignore[misc]
    """Petastorm's reader over the items of a plan; reports each when its rows are in the windows.

    Args:
        snapshot: The files.
        items: What to read.
        pool: Where to read; must expect as many items.
    """

    def __init__(self, snapshot: Snapshot, items: Sequence[Item], pool: OrderedPool) -> None:
        self._items = items
        super().__init__(
            snapshot.fs,
            snapshot,
            reader_pool=pool,
            worker_class=RowGroupWorker,
            shuffle_row_groups=False,
            is_batched_reader=True,
        )

    def _create_ventilator(self, *_args: Any) -> PlanVentilator:
        """Replaces Petastorm's choice of row groups by the plan's; the pool bounds the queue."""
        items = [{"item": item} for item in self._items]
        return PlanVentilator(self._workers_pool.ventilate, items, iterations=1)
