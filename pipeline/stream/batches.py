"""From shuffle windows to batches."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch

from pipeline.errors import SchemaError
from pipeline.stream.layout import ResolvedLayout, SequenceSpec, TensorSpec
from pipeline.stream.plan import EpochPlan, PlanSettings
from pipeline.stream.windows import Window, Windows


@dataclass(frozen=True, slots=True)
class Batch:
    """One rank's part of a global step."""

    tensors: dict[str, torch.Tensor]
    """Matrices [rows, width], scalars [rows], tensors [rows, *shape], sequences [rows, longest]."""

    strings: dict[str, npt.NDArray[np.object_]]
    """String columns of the layout, object [rows]."""

    rows: int
    """How many rows there are: fewer than usual, perhaps none, in an epoch's last step."""

    step: int
    """Which global step of the epoch, from 0."""

    global_rows: int
    """Rows of the step over all ranks: `rows_per_batch`, or fewer in an epoch's last step."""

    lengths: dict[str, torch.Tensor] = field(default_factory=dict)
    """For each sequence how many values of each row count, int64 [rows]."""

    def pin_memory(self) -> Batch:
        """Returns the batch in page-locked memory, from where a GPU copies while it computes.

        torch's DataLoader calls this when it is made with `pin_memory=True`.
        """
        return self._each(torch.Tensor.pin_memory)

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> Batch:
        """Returns the batch with its tensors on a device; strings stay where they are."""
        return self._each(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def _each(self, change: Callable[[torch.Tensor], torch.Tensor]) -> Batch:
        return replace(
            self,
            tensors={name: change(tensor) for name, tensor in self.tensors.items()},
            lengths={name: change(tensor) for name, tensor in self.lengths.items()},
        )


class BatchAssembler:
    """Cuts batches out of windows whose cells are all full.

    Args:
        plan: What comes, and in which order.
        settings: Sizes of windows and steps.
        layout: The tensors to make.
        windows: Where the rows are.
        fill: Called with a window's index; returns when all of its cells are full.
    """

    def __init__(
        self,
        plan: EpochPlan,
        settings: PlanSettings,
        layout: ResolvedLayout,
        windows: Windows,
        fill: Callable[[int], None],
    ) -> None:
        self._plan = plan
        self._settings = settings
        self._layout = layout
        self._windows = windows
        self._fill = fill

    def __iter__(self) -> Iterator[Batch]:
        """Yields the batches of the steps `plan.first_step` to `plan.steps` - 1."""
        steps_per_window = self._settings.steps_per_window
        first_window = self._plan.first_step // steps_per_window
        for index in range(first_window, -(-self._plan.steps // steps_per_window)):
            self._fill(index)
            window = self._windows.take(index)
            first_step = max(self._plan.first_step, index * steps_per_window)
            last_step = min(self._plan.steps, (index + 1) * steps_per_window)
            for step in range(first_step, last_step):
                yield self._cut(window, step)
            del window
            self._windows.release(index)

    def _cut(self, window: Window, step: int) -> Batch:
        """Copies a step's rows out of the window: the shards' one after the other."""
        settings = self._settings
        begin = step % settings.steps_per_window * settings.rows_per_shard_step
        counts = [settings.rows_of_step(rows, step) for rows in self._plan.shard_rows]
        global_rows = sum(settings.rows_of_step(rows, step) for rows in self._plan.all_shard_rows)
        tensors = {
            spec.name: _dense(window.dense[spec.name], spec, begin, counts)
            for spec in self._layout.tensors
        }
        lengths: dict[str, torch.Tensor] = {}
        for spec in self._layout.sequences:
            lists = _ragged(window, spec.name, begin, counts)
            tensors[spec.name], lengths[spec.name] = padded(lists, spec)
        strings = {
            name: np.array(_ragged(window, name, begin, counts).to_pylist(), dtype=object)
            for name in self._layout.strings
        }
        return Batch(tensors, strings, sum(counts), step, global_rows, lengths)


def _dense(held: npt.NDArray[Any], spec: TensorSpec, begin: int, counts: list[int]) -> torch.Tensor:
    """Returns a step's rows of a tensor, [rows, ...]; never memory that the window uses again."""
    # [shards, rows of a cell, ...], or [columns, shards, rows of a cell] by column
    axis = 1 if spec.by_column else 0
    every: tuple[Any, ...] = (slice(None),) * axis
    if min(counts) == max(counts):
        # One copy: for each, NumPy lets go of the interpreter, and waits to have it back.
        cut = held[(*every, slice(None), slice(begin, begin + counts[0]))].copy()
        rows = cut.reshape(*cut.shape[:axis], -1, *cut.shape[axis + 2 :])
    else:
        cells = [held[(*every, place, slice(begin, begin + n))] for place, n in enumerate(counts)]
        rows = np.concatenate(cells, axis=axis)
    return torch.from_numpy(rows.T if spec.by_column else rows)


def _ragged(window: Window, name: str, begin: int, counts: list[int]) -> pa.Array:
    """Returns a step's rows of an Arrow array."""
    cells = window.ragged.get(name, {})
    parts = [cells[place][begin : begin + count] for place, count in enumerate(counts) if count]
    return pa.concat_arrays(parts) if parts else pa.array([], pa.null())


def padded(lists: pa.Array, spec: SequenceSpec) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns lists as [rows, longest], padded behind, and their lengths, int64 [rows].

    With `width` above 1 it is [rows, longest, width], and lengths count steps.

    Raises:
        SchemaError: A list is not made of whole steps.
    """
    step = () if spec.width == 1 else (spec.width,)
    if not len(lists):
        return torch.from_numpy(np.empty((0, 0, *step), spec.dtype)), torch.empty(0).long()
    lengths, broken = np.divmod(np.diff(lists.offsets.to_numpy()), spec.width)
    if broken.any():
        raise SchemaError(
            f"column {spec.column!r}",
            f"a list's length is no multiple of {spec.width}, the values of a step",
            "Write whole steps.",
        )
    shape = (len(lists), lengths.max(), *step)
    filled: npt.NDArray[Any] = np.full(shape, spec.padding, spec.dtype)
    # [rows, 1] against [longest] -> [rows, longest], true where a step stands
    stands = np.arange(filled.shape[1]) < lengths[:, None]
    # [values] -> [steps] or [steps, width]
    filled[stands] = lists.flatten().to_numpy().reshape(-1, *step)
    return torch.from_numpy(filled), torch.from_numpy(lengths.astype(np.int64))
