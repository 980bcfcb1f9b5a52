"""Which row groups a step's rows are from; no data is touched to tell.

The plan's items go through the windows and into a batch as data does, each row standing for itself
by the number of its row group. So what is told follows whatever the windows and batches do.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pipeline.stream.batches import BatchAssembler
from pipeline.stream.fetch import SnapshotFiles
from pipeline.stream.layout import ResolvedLayout, TensorSpec
from pipeline.stream.plan import EpochPlan, PlanSettings
from pipeline.stream.windows import Windows

_NUMBER = TensorSpec("row group", ("row group",), np.dtype(np.int64), widths=(1,), row_shape=())
_NUMBERS_ONLY = ResolvedLayout(tensors=(_NUMBER,), sequences=(), strings=())


@dataclass(frozen=True, slots=True)
class Origin:
    """A row group that rows of a batch are from."""

    file: str
    row_group: int
    """Which row group of the file."""

    rows: int
    """How many rows of the batch are from it, 1 or more."""


def first_step_origins(
    plan: EpochPlan, settings: PlanSettings, files: SnapshotFiles
) -> list[Origin]:
    """Returns what the first step of a plan is made of, in the order of the files.

    Args:
        plan: It begins with the step that is asked for, and has that step.
        settings: Sizes of windows and steps.
        files: Where the row groups are.
    """
    windows = Windows(plan, settings, _NUMBERS_ONLY)

    def fill(window: int) -> None:
        for item in plan.items:
            if item.window > window:  # they come window by window, and this one is the first
                return
            rows = item.stop - item.start
            numbers = np.broadcast_to(np.int64(item.row_group), rows)
            windows.put(item.shard, item.first_row, rows, {_NUMBER.name: numbers})

    batch = next(iter(BatchAssembler(plan, settings, _NUMBERS_ONLY, windows, fill)))
    numbers, counts = np.unique(batch.tensors[_NUMBER.name].numpy(), return_counts=True)
    sources = [files.source(number) for number in numbers.tolist()]
    return [
        Origin(source.file, source.row_group, rows)
        for source, rows in zip(sources, counts.tolist(), strict=True)
    ]
