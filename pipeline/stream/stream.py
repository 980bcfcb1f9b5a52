"""The stream: batches of a snapshot, epoch by epoch, the same on every run."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from types import TracebackType
from typing import Any, Self

import numpy as np

from pipeline.errors import PlanError, StreamError
from pipeline.stream.batches import Batch, BatchAssembler
from pipeline.stream.footers import read_footers
from pipeline.stream.layout import BatchLayout, resolve
from pipeline.stream.plan import (
    EpochPlan,
    PlanSettings,
    check_ranks,
    default_canonical_shards,
    plan_epoch,
    steps_per_epoch,
)
from pipeline.stream.pool import OrderedPool
from pipeline.stream.reader import PlanReader, Snapshot
from pipeline.stream.worker import Block

_log = logging.getLogger(__name__)

# Below this many row groups a shard, those cut in two at its ends cost notable decoding.
_ROW_GROUPS_PER_SHARD = 16


class Stream:
    """Reads a snapshot's rows into batches: each exactly once an epoch, over all ranks.

    The order depends on the snapshot, the seed, the epoch and the settings below, but neither on
    timing nor on `workers_count`; which rows a global step holds does not depend on `world_size`.
    Without `shuffle` each rank delivers its share of the rows in the order of the files.

    Args:
        files: Absolute paths or URIs of the snapshot's Parquet files, in the same order everywhere.
        layout: Which columns become which tensors.
        rows_per_batch: Rows of a global step, over all ranks.
        seed: What all shuffling derives from, beside the epoch.
        rank: This process among the ranks.
        world_size: Number of ranks.
        shuffle: Whether to permute row groups, and rows within windows.
        shuffle_window_rows: Rows permuted among each other, over all ranks.
        canonical_shards: Parts of equal rows that the ranks share out; by default the largest of
            8, 4, 2, 1 that divides `rows_per_batch`, without `shuffle` the world size.
        workers_count: Threads that decode.
        drop_last: Whether to leave out rows that do not fill a global step.

    Raises:
        PlanError: Batch, shards and ranks do not fit together.
        RowGroupError: A file is not there or its footer cannot be read.
        SchemaError: A file lacks a column of the layout, or has it in a type that does not fit.
    """

    def __init__(
        self,
        files: Sequence[str],
        layout: BatchLayout,
        *,
        rows_per_batch: int,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        shuffle: bool = True,
        shuffle_window_rows: int = 262_144,
        canonical_shards: int | None = None,
        workers_count: int = 2,
        drop_last: bool = False,
    ) -> None:
        if canonical_shards is None and rows_per_batch > 0:
            canonical_shards = default_canonical_shards(rows_per_batch) if shuffle else world_size
        self._settings = PlanSettings(
            rows_per_batch=rows_per_batch,
            canonical_shards=canonical_shards if canonical_shards is not None else 1,
            seed=seed,
            shuffle=shuffle,
            shuffle_window_rows=shuffle_window_rows,
            drop_last=drop_last,
        )
        check_ranks(self._settings, rank, world_size)
        if workers_count < 1:
            raise PlanError("workers_count", f"{workers_count} is less than 1", "Set 1 or more.")
        self._rank, self._world_size, self._workers_count = rank, world_size, workers_count
        footers = read_footers(files)
        self._layout = resolve(layout, footers)
        self._snapshot = Snapshot(footers, self._layout)
        self._row_counts = np.array([n for f in footers for n in f.row_group_rows], np.int64)
        self._snapshot_digest = _digest(files, self._row_counts)
        self._reader: PlanReader | None = None
        self._position = (0, 0)
        self._resume_at: tuple[int, int] | None = None
        self._warn_of_few_row_groups()

    @property
    def rows(self) -> int:
        """Rows of the snapshot."""
        return int(self._row_counts.sum())

    @property
    def row_groups(self) -> int:
        """Row groups of the snapshot."""
        return len(self._row_counts)

    @property
    def steps_per_epoch(self) -> int:
        """Steps of an epoch, the same on every rank."""
        return steps_per_epoch(self.rows, self._settings)

    @property
    def items_in_flight(self) -> int:
        """Most row groups that are queued, decoded or waiting: a window ahead of the consumer."""
        filled = max(1, int(np.count_nonzero(self._row_counts)))
        rows_per_row_group = max(1, self.rows // filled)
        window_rows = self._settings.steps_per_window * self._settings.rows_per_batch
        rank_window_rows = window_rows // self._world_size
        return 2 * self._workers_count + rank_window_rows // rows_per_row_group

    def epoch(self, epoch: int) -> Iterator[Batch]:
        """Yields this rank's batches of an epoch.

        After `load_state_dict` the epoch that the state is in begins with the first batch that was
        not delivered. Beginning an epoch closes the one before.

        Args:
            epoch: Which epoch, from 0.

        Raises:
            PlanError: A state was loaded that is in the middle of another epoch.
            RowGroupError: A row group cannot be read.
            NullValueError: A dense column holds a null.
        """
        first_step = self._take_resume_step(epoch)
        self.close()
        self._position = (epoch, first_step)
        plan = plan_epoch(
            self._row_counts,
            self._settings,
            epoch=epoch,
            rank=self._rank,
            world_size=self._world_size,
            first_step=first_step,
        )
        return self._deliver(plan)

    def state_dict(self) -> dict[str, Any]:
        """Returns where the stream is: plain values, the same on every rank of a step."""
        epoch, step = self._resume_at or self._position
        return {"epoch": epoch, "step": step, **self._identity()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes to where a stream was, perhaps one of another world size.

        Args:
            state: What `state_dict` returned.

        Raises:
            PlanError: The state is of other data or settings, so its order would not continue.
        """
        for name, value in self._identity().items():
            if state.get(name) != value:
                raise PlanError(
                    f"state: {name}",
                    f"{state.get(name)!r}, but this stream has {value!r}",
                    "Open the stream with the data and settings the state was taken with.",
                )
        self.close()
        self._resume_at = (int(state["epoch"]), int(state["step"]))

    def close(self) -> None:
        """Ends the epoch that is being read; no thread is left."""
        reader, self._reader = self._reader, None
        if reader is not None:
            reader.stop()
            reader.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _take_resume_step(self, epoch: int) -> int:
        if self._resume_at is None:
            return 0
        resume_epoch, step = self._resume_at
        if epoch != resume_epoch and 0 < step < self.steps_per_epoch:
            raise PlanError(
                f"epoch {epoch}",
                f"the loaded state is in step {step} of epoch {resume_epoch}",
                f"Go on with epoch {resume_epoch}.",
            )
        self._resume_at = None
        return step if epoch == resume_epoch else 0

    def _deliver(self, plan: EpochPlan) -> Iterator[Batch]:
        """Opens a reader for the plan's items and yields batches until the plan is fulfilled."""
        reader = self._open_reader(plan)
        try:
            blocks = iter(()) if reader is None else self._counted(reader, plan)
            for batch in BatchAssembler(plan, self._settings, self._layout, blocks):
                self._position = (plan.epoch, batch.step + 1)
                yield batch
        finally:
            if reader is not None and reader is self._reader:
                self.close()

    def _open_reader(self, plan: EpochPlan) -> PlanReader | None:
        if not plan.items:
            return None
        pool = OrderedPool(self._workers_count, len(plan.items), self.items_in_flight)
        self._reader = PlanReader(self._snapshot, plan.items, pool)
        return self._reader

    def _counted(self, reader: PlanReader, plan: EpochPlan) -> Iterator[Block]:
        """Yields the reader's blocks; refuses to end before the plan does."""
        for delivered, item in enumerate(plan.items):
            block: Block | None = next(reader, None)
            rows = 0 if block is None else len(next(iter(block.values())))
            if block is None or rows != item.stop - item.start:
                raise StreamError(
                    f"epoch {plan.epoch}",
                    f"item {delivered} of {len(plan.items)} came with {rows} rows "
                    f"instead of {item.stop - item.start}",
                    "This is a fault of the reader; please report it.",
                )
            yield block

    def _identity(self) -> dict[str, Any]:
        """Returns what must be the same for a state to fit."""
        return {**asdict(self._settings), "snapshot": self._snapshot_digest}

    def _warn_of_few_row_groups(self) -> None:
        wanted = _ROW_GROUPS_PER_SHARD * self._settings.canonical_shards
        if self._settings.shuffle and 0 < self.row_groups < wanted:
            _log.warning(
                "%d row groups for %d canonical shards: below %d a shard, those cut at its ends "
                "are decoded twice; write smaller row groups or set fewer canonical shards",
                self.row_groups,
                self._settings.canonical_shards,
                _ROW_GROUPS_PER_SHARD,
            )


def _digest(files: Sequence[str], row_counts: np.ndarray[Any, np.dtype[np.int64]]) -> str:
    """Identifies a snapshot by its files' names and row counts, wherever its folder is."""
    names = "\n".join(file.rsplit("/", 1)[-1] for file in files)
    return hashlib.sha256(names.encode() + row_counts.tobytes()).hexdigest()[:16]
