"""Petastorm's reader, fed by the plan instead of by its own listing of files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
from fsspec.implementations.local import LocalFileSystem
from petastorm.reader import Reader

from pipeline.stream.footers import Footer, is_list
from pipeline.stream.layout import ResolvedLayout
from pipeline.stream.legacy.dataset import Dataset
from pipeline.stream.plan import Item
from pipeline.stream.pool import OrderedPool, PlanVentilator
from pipeline.stream.worker import RowGroupWorker


@dataclass(frozen=True, slots=True)
class SnapshotPiece:
    """One file as Petastorm asks about it; answered from the footer that was read once."""

    path: str
    num_row_groups: int
    arrow_schema: pa.Schema
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
    """The files of a snapshot as the data set that Petastorm's reader works on."""

    def __init__(self, footers: Sequence[Footer], layout: ResolvedLayout) -> None:
        self.layout = layout
        self.fs = LocalFileSystem()
        self.paths = [footer.file for footer in footers]
        self.pieces = [
            SnapshotPiece(footer.file, len(footer.row_group_rows), _schema(footer, layout))
            for footer in footers
        ]


class PlanReader(Reader):  # type: ignore[misc]
    """Petastorm's reader over the items of a plan; gives one block an item, in their order.

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
        items = [
            {"piece_index": item.row_group, "start": item.start, "stop": item.stop}
            for item in self._items
        ]
        return PlanVentilator(self._workers_pool.ventilate, items, iterations=1)


def _schema(footer: Footer, layout: ResolvedLayout) -> pa.Schema:
    """Returns the columns in types that Petastorm can name; the worker goes by the layout."""
    fields = []
    for column in layout.columns:
        found = footer.types[column]
        if is_list(found):
            found = pa.list_(found.value_type)
        elif column in layout.strings:
            found = pa.string()
        fields.append((column, found))
    return pa.schema(fields)
