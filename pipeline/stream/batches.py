"""From blocks of rows to shuffled batches."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from pipeline.stream.layout import ResolvedLayout
from pipeline.stream.plan import EpochPlan, PlanSettings, window_order
from pipeline.stream.worker import Block


@dataclass(frozen=True, slots=True)
class Batch:
    """One rank's part of a global step."""

    tensors: dict[str, torch.Tensor]
    """Matrices [rows, width] and scalars [rows] of the layout."""

    strings: dict[str, npt.NDArray[np.object_]]
    """String columns of the layout, object [rows]."""

    rows: int
    """How many rows there are: fewer than usual, perhaps none, in an epoch's last step."""

    step: int
    """Which global step of the epoch, from 0."""


class BatchAssembler:
    """Collects a shuffle window of every shard, then gathers batches out of it.

    Args:
        plan: What comes, and in which order.
        settings: Sizes of windows and steps.
        layout: The tensors to make.
        blocks: One block for each of the plan's items, in their order.
    """

    def __init__(
        self,
        plan: EpochPlan,
        settings: PlanSettings,
        layout: ResolvedLayout,
        blocks: Iterator[Block],
    ) -> None:
        self._plan = plan
        self._settings = settings
        self._layout = layout
        self._blocks = blocks
        # Rows read beyond the end of a window, by shard: a row group may reach into the next.
        self._carried: dict[int, Block] = {}
        capacity = sum(min(settings.rows_per_shard_window, rows) for rows in plan.shard_rows)
        # Written anew for each window; batches are copies, so none of them is overwritten.
        self._window: Block = {
            spec.name: np.empty(spec.shape(capacity), spec.dtype) for spec in layout.tensors
        }
        self._window |= {name: np.empty(capacity, object) for name in layout.strings}

    def __iter__(self) -> Iterator[Batch]:
        """Yields the batches of the steps `plan.first_step` to `plan.steps` - 1."""
        steps_per_window = self._settings.steps_per_window
        rows_per_shard_step = self._settings.rows_per_shard_step
        orders: list[npt.NDArray[np.int64]] = []
        for step in range(self._plan.first_step, self._plan.steps):
            window, step_in_window = divmod(step, steps_per_window)
            if step_in_window == 0 or step == self._plan.first_step:
                orders = self._load(window)
            low = step_in_window * rows_per_shard_step
            index = np.concatenate([order[low : low + rows_per_shard_step] for order in orders])
            yield self._gather(index, step)

    def _load(self, window: int) -> list[npt.NDArray[np.int64]]:
        """Fills the window's arrays and returns for each shard where its rows are, in order."""
        window_rows = self._settings.rows_per_shard_window
        orders, base = [], 0
        for shard, shard_rows in zip(self._plan.shards, self._plan.shard_rows, strict=True):
            rows = max(0, min(window_rows, shard_rows - window * window_rows))
            self._fill(shard, base, rows)
            order = window_order(self._settings, self._plan.epoch, shard, window, rows)
            orders.append(order + base)
            base += rows
        return orders

    def _fill(self, shard: int, base: int, rows: int) -> None:
        """Puts the shard's next rows at `base`; what a block has beyond them is carried over."""
        filled = 0
        while filled < rows:
            block = self._carried.pop(shard, None) or next(self._blocks)
            count = len(next(iter(block.values())))
            taken = min(count, rows - filled)
            for name, array in block.items():
                low = base + filled
                self._window[name][low : low + taken] = array[:taken]
            if taken < count:
                self._carried[shard] = {name: array[taken:] for name, array in block.items()}
            filled += taken

    def _gather(self, index: npt.NDArray[np.int64], step: int) -> Batch:
        """Copies the rows at `index`, int64 [rows], out of the window."""
        # NumPy's take, not torch's index_select: that spreads 4,096 rows over threads which spin
        # against the decoding workers, and took 5 to 11 times the CPU time on two busy cores.
        tensors = {
            spec.name: torch.from_numpy(self._window[spec.name].take(index, axis=0))
            for spec in self._layout.tensors
        }
        strings = {name: self._window[name].take(index) for name in self._layout.strings}
        return Batch(tensors, strings, len(index), step)
