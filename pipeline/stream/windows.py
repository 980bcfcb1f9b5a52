"""The shuffle windows: workers bring rows in, and give them the order in which they are delivered.

    window w    | shard 0: step 0, step 1, ... | shard 1: step 0, step 1, ... | ...

A cell is what one shard has in one window. Where a row goes follows from the plan alone, so workers
need not wait for each other: whoever brings the last rows of a cell shuffles it, column by column,
which keeps what is gathered from in the processor's cache. A batch is then a slice of each cell.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipeline.stream.block_format import Block
from pipeline.stream.layout import ResolvedLayout, TensorSpec
from pipeline.stream.plan import EpochPlan, PlanSettings, window_order


@dataclass(slots=True)
class _Cell:
    """Rows of one shard in one window, as they come in."""

    rows: int
    placed: int = 0
    parts: list[tuple[int, Block]] = field(default_factory=list)
    """Row of the cell where a part begins, and the part; in no order until the cell is full."""


@dataclass(slots=True)
class Window:
    """One shuffle window of this rank, in the order in which it is delivered."""

    dense: dict[str, npt.NDArray[Any]]
    """By column [columns, shards, rows of a cell], else [shards, rows of a cell, *row_shape]."""

    ragged: dict[str, dict[int, pa.Array]] = field(default_factory=dict)
    """Name -> place of the shard among the rank's -> rows of its cell."""


class Windows:
    """The windows of one epoch on one rank that are being filled or read.

    Memory comes back with `release` and is used again: new memory must be cleared by the system,
    which costs as much as a copy.

    Args:
        plan: Which shards this rank has, and how many rows each.
        settings: Sizes of windows and steps.
        layout: What is kept of a row.
    """

    def __init__(self, plan: EpochPlan, settings: PlanSettings, layout: ResolvedLayout) -> None:
        self._layout = layout
        self._plan = plan
        self._settings = settings
        self._places = {shard: place for place, shard in enumerate(plan.shards)}
        # Guards what is below; cells are shuffled outside of it.
        self._lock = threading.Lock()
        self._live: dict[int, Window] = {}
        self._free: list[dict[str, npt.NDArray[Any]]] = []
        self._cells: dict[tuple[int, int], _Cell] = {}

    def rows_of(self, window: int, shard: int) -> int:
        """Rows that a shard has in a window."""
        rows = self._settings.rows_per_shard_window
        return max(0, min(rows, self._plan.shard_rows[self._places[shard]] - window * rows))

    def put(self, shard: int, first_row: int, rows: int, block: Block) -> None:
        """Brings in rows `first_row` to `first_row + rows` of a shard.

        Args:
            shard: Canonical shard.
            first_row: Counted within the shard.
            rows: How many.
            block: They, as `TensorSpec` holds them; kept, not copied, until their cell is full.
        """
        window_rows = self._settings.rows_per_shard_window
        begin = 0
        while begin < rows:
            window, row = divmod(first_row + begin, window_rows)
            end = min(rows, begin + window_rows - row)
            part = self._layout.rows(block, begin, end)
            cell = self._add(window, shard, row, end - begin, part)
            if cell is not None:
                self._shuffle(window, shard, cell)
            begin = end

    def take(self, index: int) -> Window:
        """Returns a window whose cells are all full; `release` follows."""
        return self._get(index)

    def release(self, index: int) -> None:
        """Gives a window's memory back for one to come; nothing may refer to it any more."""
        with self._lock:
            self._free.append(self._live.pop(index).dense)

    def _add(self, window: int, shard: int, row: int, rows: int, part: Block) -> _Cell | None:
        """Adds a part to its cell; returns the cell if that made it full."""
        with self._lock:
            key = (window, shard)
            if key not in self._cells:
                self._cells[key] = _Cell(self.rows_of(window, shard))
            cell = self._cells[key]
            cell.parts.append((row, part))
            cell.placed += rows
            return self._cells.pop(key) if cell.placed == cell.rows else None

    def _shuffle(self, index: int, shard: int, cell: _Cell) -> None:
        """Writes a full cell's rows into the window, in the order of delivery."""
        window, place = self._get(index), self._places[shard]
        cell.parts.sort(key=lambda part: part[0])
        order = None
        if self._settings.shuffle:
            order = window_order(self._settings, self._plan.epoch, shard, index, cell.rows)
        for spec in self._layout.tensors:
            out = window.dense[spec.name]
            if spec.by_column:
                _shuffle_columns(out[:, place, : cell.rows], spec, cell, order)
            else:
                _shuffle_rows(out[place, : cell.rows], spec, cell, order)
        for name in self._layout.ragged:
            rows = pa.concat_arrays([block[name] for _, block in cell.parts])
            rows = rows if order is None else rows.take(pa.array(order))
            with self._lock:
                window.ragged.setdefault(name, {})[place] = rows

    def _get(self, index: int) -> Window:
        with self._lock:
            if index not in self._live:
                self._live[index] = Window(self._free.pop() if self._free else self._room(index))
            return self._live[index]

    def _room(self, index: int) -> dict[str, npt.NDArray[Any]]:
        """Returns new room for a window, and for those after it: only the last one is shorter."""
        rows = max(self.rows_of(index, shard) for shard in self._plan.shards)
        shape = (len(self._plan.shards), rows)
        return {
            spec.name: np.empty(
                (*spec.row_shape, *shape) if spec.by_column else (*shape, *spec.row_shape),
                spec.dtype,
            )
            for spec in self._layout.tensors
        }


def _shuffle_columns(
    out: npt.NDArray[Any], spec: TensorSpec, cell: _Cell, order: npt.NDArray[np.int64] | None
) -> None:
    """Writes a cell into [columns, rows], one column after the other."""
    parts = [block[spec.name] for _, block in cell.parts]
    gathered = np.empty(cell.rows, spec.dtype)
    for target, *pieces in zip(out, *parts, strict=True):
        if order is None:
            np.concatenate(pieces, out=target, casting="same_kind")
        else:
            np.concatenate(pieces, out=gathered, casting="same_kind")
            # mode: the order is a permutation, and without it NumPy would copy the result again
            np.take(gathered, order, out=target, mode="clip")


def _shuffle_rows(
    out: npt.NDArray[Any], spec: TensorSpec, cell: _Cell, order: npt.NDArray[np.int64] | None
) -> None:
    """Writes a cell into [rows, ...], part by part; one row is long enough to go by itself."""
    places = np.arange(cell.rows)
    if order is not None:
        # The row at order[i] is delivered as the i-th.
        places[order] = np.arange(cell.rows)
    for row, block in cell.parts:
        rows = block[spec.name]
        out[places[row : row + len(rows)]] = rows
