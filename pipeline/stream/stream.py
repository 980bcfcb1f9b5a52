"""The stream: batches of a snapshot, epoch by epoch, the same on every run."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, replace
from types import TracebackType
from typing import Any, Self

import numpy as np
import pyarrow as pa
from torch.utils.data import IterableDataset, get_worker_info

from pipeline.errors import PlanError
from pipeline.stream.batches import Batch
from pipeline.stream.blocks import ragged
from pipeline.stream.cache import BlockCache, CacheSettings
from pipeline.stream.epoch import EpochReader
from pipeline.stream.fetch import SnapshotFiles, unreadable
from pipeline.stream.footers import FooterCache, open_parquet, read_footers
from pipeline.stream.layout import BatchLayout, resolve
from pipeline.stream.origins import Origin, first_step_origins
from pipeline.stream.plan import (
    EpochPlan,
    PlanSettings,
    bounded_window_rows,
    check_ranks,
    default_canonical_shards,
    plan_epoch,
    steps_per_epoch,
)

_log = logging.getLogger(__name__)

# Below this many row groups a shard, those cut in two at its ends cost notable decoding.
_ROW_GROUPS_PER_SHARD = 16
_MOST_DEFAULT_WORKERS = 8


class Stream(IterableDataset[Batch]):
    """Reads a snapshot's rows into batches: each exactly once an epoch, over all ranks.

    The order depends on the snapshot, the seed, the epoch and the settings below, but neither on
    timing nor on `workers_count`; which rows a global step holds does not depend on `world_size`.
    Without `shuffle` each rank delivers its share of the rows in the order of the files.

    It is an `IterableDataset` whose every iteration is the next epoch; its batches are ready made,
    so a DataLoader takes it with `batch_size=None, num_workers=0`.

    Args:
        files: Absolute paths or URIs of the snapshot's Parquet files, in the same order everywhere.
        layout: Which columns become which tensors.
        rows_per_batch: Rows of a global step, over all ranks.
        rows_per_rank_batch: Instead of `rows_per_batch`, rows of a step on each rank.
        seed: What all shuffling derives from, beside the epoch.
        rank: This process among the ranks.
        world_size: Number of ranks.
        shuffle: Whether to permute row groups, and rows within windows.
        shuffle_window_rows: Rows permuted among each other, over all ranks.
        shuffle_window_bytes: Most bytes of a window, over all ranks; wide rows make it shorter.
        canonical_shards: Parts of equal rows that the ranks share out; by default the largest of
            8, 4, 2, 1 that divides `rows_per_batch`, without `shuffle` the world size.
        workers_count: Threads that decode; by default this rank's share of the cores, 2 to 8.
        drop_last: Whether to leave out rows that do not fill a global step.
        cache: Where to keep decoded row groups for the epochs and runs to come.

    Raises:
        PlanError: Batch, shards and ranks do not fit together.
        RowGroupError: A file is not there or its footer cannot be read.
        SchemaError: A file lacks a column of the layout, or has it in a type that does not fit.
        CacheError: The cache's folder cannot be used.
    """

    def __init__(
        self,
        files: Sequence[str],
        layout: BatchLayout,
        *,
        rows_per_batch: int | None = None,
        rows_per_rank_batch: int | None = None,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        shuffle: bool = True,
        shuffle_window_rows: int = 2_097_152,
        shuffle_window_bytes: int = 512 << 20,
        canonical_shards: int | None = None,
        workers_count: int | None = None,
        drop_last: bool = False,
        cache: CacheSettings | None = None,
    ) -> None:
        super().__init__()
        rows_per_batch = _global_batch(rows_per_batch, rows_per_rank_batch, world_size)
        if canonical_shards is None and rows_per_batch > 0:
            canonical_shards = default_canonical_shards(rows_per_batch) if shuffle else world_size
        asked = PlanSettings(
            rows_per_batch=rows_per_batch,
            canonical_shards=canonical_shards if canonical_shards is not None else 1,
            seed=seed,
            shuffle=shuffle,
            shuffle_window_rows=shuffle_window_rows,
            drop_last=drop_last,
        )
        check_ranks(asked, rank, world_size)
        self._rank, self._world_size = rank, world_size
        self._workers_count = _workers(workers_count)
        blocks = BlockCache(cache) if cache is not None else None
        parsed = FooterCache()
        footers = read_footers(files, parsed, blocks)
        self._files = SnapshotFiles(footers, resolve(layout, footers), parsed, blocks)
        self._settings = _bounded(asked, shuffle_window_bytes, self._files)
        self._snapshot_digest = _digest(files, self._files.row_counts)
        self._reader: EpochReader | None = None
        self._ahead: EpochReader | None = None  # of the epoch after that
        self._position: tuple[int, int] | None = None
        self._resume_at: tuple[int, int] | None = None
        self._warn_of_few_row_groups()

    @property
    def rows(self) -> int:
        """Rows of the snapshot."""
        return int(self._files.row_counts.sum())

    @property
    def row_groups(self) -> int:
        """Row groups of the snapshot."""
        return len(self._files.row_counts)

    @property
    def steps_per_epoch(self) -> int:
        """Steps of an epoch, the same on every rank."""
        return steps_per_epoch(self.rows, self._settings)

    @property
    def shuffle_window_rows(self) -> int:
        """Rows permuted among each other, over all ranks; fewer than asked for if they are wide."""
        return self._settings.shuffle_window_rows

    def epoch(self, epoch: int, *, then: int | None = None) -> Iterator[Batch]:
        """Yields this rank's batches of an epoch.

        After `load_state_dict` the epoch that the state is in begins with the first batch that was
        not delivered. Beginning an epoch closes the one before.

        Args:
            epoch: Which epoch, from 0.
            then: Which will be asked for after it: while the last window of this one is given out,
                the first of that one is read, and while nothing is asked for, its second.

        Raises:
            PlanError: A state was loaded that is in the middle of another epoch.
            RowGroupError: A row group cannot be read.
            NullValueError: A dense column holds a null.
        """
        first_step = self._take_resume_step(epoch)
        reader = self._ahead
        if reader is None or (reader.plan.epoch, reader.plan.first_step) != (epoch, first_step):
            reader = self._open(epoch, first_step)
        else:
            self._ahead = None
        self.close()
        self._position = (epoch, first_step)
        self._reader = reader
        return self._deliver(reader, then)

    def __iter__(self) -> Iterator[Batch]:
        """Yields the rest of the epoch that a loaded state is in, else the next epoch.

        Raises:
            PlanError: It runs in a worker process of a DataLoader: each would give every row.
        """
        if get_worker_info() is not None:
            raise PlanError(
                "DataLoader(num_workers=...)",
                "the stream decodes on threads of its own, and each process would give every row",
                "Set num_workers=0, and workers_count of the stream.",
            )
        yield from self.epoch(self._next_epoch())

    def origins(self, epoch: int, step: int) -> list[Origin]:
        """Returns which row groups this rank's batch of a step is made of, in the files' order.

        No data is read, and an epoch that is being read goes on undisturbed. It shuffles a whole
        window to tell, so it is meant for an error, not for every step.

        Args:
            epoch: Which epoch, from 0.
            step: Which global step of it, from 0: `Batch.step`.

        Raises:
            PlanError: An epoch has no such step.
        """
        if not 0 <= step < self.steps_per_epoch:
            raise PlanError(
                f"step {step}",
                f"an epoch has {self.steps_per_epoch} steps",
                "Ask for a step from 0 on that an epoch has, such as a batch's.",
            )
        return first_step_origins(self._plan(epoch, step), self._settings, self._files)

    def state_dict(self) -> dict[str, Any]:
        """Returns where the stream is: plain values, the same on every rank of a step."""
        epoch, step = self._resume_at or self._position or (0, 0)
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
        """Ends the epoch that is being read; no thread is left, and no file open."""
        reader, self._reader = self._reader, None
        if reader is not None:
            reader.close()
        self._close_ahead()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _open(self, epoch: int, first_step: int) -> EpochReader:
        return EpochReader(
            self._plan(epoch, first_step),
            settings=self._settings,
            files=self._files,
            workers_count=self._workers_count,
        )

    def _plan(self, epoch: int, first_step: int) -> EpochPlan:
        return plan_epoch(
            self._files.row_counts,
            self._settings,
            epoch=epoch,
            rank=self._rank,
            world_size=self._world_size,
            first_step=first_step,
        )

    def _next_epoch(self) -> int:
        if self._resume_at is not None:
            epoch, step = self._resume_at
            return epoch if step < self.steps_per_epoch else epoch + 1
        return 0 if self._position is None else self._position[0] + 1

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

    def _deliver(self, reader: EpochReader, then: int | None) -> Iterator[Batch]:
        """Yields the reader's batches, and knows after each how far the epoch is."""
        ended = False
        try:
            for batch in reader:
                if then is not None and reader.is_read:
                    self._read_ahead(reader, then)
                self._position = (reader.plan.epoch, batch.step + 1)
                yield batch
            ended = True
        finally:
            reader.close()
            if self._reader is reader and not ended:
                self._close_ahead()
        if self._reader is reader and self._ahead is not None:
            self._ahead.start()  # this epoch's windows are free for its second

    def _read_ahead(self, reader: EpochReader, epoch: int) -> None:
        """Starts to read the first window of the epoch after the reader's, unless that is begun."""
        if self._reader is reader and self._ahead is None:
            self._ahead = self._open(epoch, 0)
            self._ahead.start(windows=1)

    def _close_ahead(self) -> None:
        ahead, self._ahead = self._ahead, None
        if ahead is not None:
            ahead.close()

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


def _global_batch(total: int | None, per_rank: int | None, world_size: int) -> int:
    if (total is None) == (per_rank is None):
        raise PlanError(
            "rows_per_batch, rows_per_rank_batch",
            f"are {total} and {per_rank}",
            "Give one of them: rows of a step over all ranks, or on each rank.",
        )
    return total if total is not None else per_rank * world_size  # type: ignore[operator]


def _workers(asked: int | None) -> int:
    """Returns the threads to decode with; torchrun says how many ranks share this host."""
    if asked is None:
        ranks = max(1, int(os.environ.get("LOCAL_WORLD_SIZE", "1")))
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
        return min(_MOST_DEFAULT_WORKERS, max(2, (cores or 2) // ranks))
    if asked < 1:
        raise PlanError("workers_count", f"{asked} is less than 1", "Set 1 or more.")
    return asked


def _bounded(asked: PlanSettings, window_bytes: int, files: SnapshotFiles) -> PlanSettings:
    """Returns the settings with a window that fits its bytes; the same on every rank."""
    if window_bytes < 1:
        raise PlanError("shuffle_window_bytes", f"{window_bytes} is less than 1", "Set 1 or more.")
    bytes_a_row = _row_bytes(files)
    rows = bounded_window_rows(
        asked.shuffle_window_rows, window_bytes, bytes_a_row, asked.rows_per_batch
    )
    if rows < asked.shuffle_window_rows and asked.shuffle:
        _log.info(
            "a shuffle window has %d rows instead of %d: rows of %d bytes, at most %d bytes",
            rows,
            asked.shuffle_window_rows,
            bytes_a_row,
            window_bytes,
        )
    return replace(asked, shuffle_window_rows=rows)


def _row_bytes(files: SnapshotFiles) -> int:
    """Returns the bytes of a row; what has no fixed size is judged by the first row group.

    Sizes in the footer do not tell: a dictionary of a few strings stands for many long rows.
    """
    columns = list(files.layout.ragged_columns)
    if not columns or not files.row_counts.any():
        return files.layout.dense_row_bytes
    first = int(np.flatnonzero(files.row_counts)[0])
    source = files.source(first)
    key = files.key(source, "row bytes")
    known = None if files.cache is None else files.cache.get(key)
    if known is not None:
        return int(known["row_bytes"][0])
    try:
        with closing(open_parquet(source.file, files.parsed)) as parquet:
            table = parquet.read_row_group(source.row_group, columns=columns)
    except (OSError, pa.ArrowException) as error:
        raise unreadable(source, error) from error
    ragged_bytes = sum(held.nbytes for held in ragged(table, files.layout, str(source)).values())
    found = files.layout.dense_row_bytes + -(-ragged_bytes // int(files.row_counts[first]))
    if files.cache is not None:
        files.cache.put(key, {"row_bytes": np.array([found])})
    return found


def _digest(files: Sequence[str], row_counts: np.ndarray[Any, np.dtype[np.int64]]) -> str:
    """Identifies a snapshot by its files' names and row counts, wherever its folder is."""
    names = "\n".join(file.rsplit("/", 1)[-1] for file in files)
    return hashlib.sha256(names.encode() + row_counts.tobytes()).hexdigest()[:16]
