"""The plan of an epoch: which rows every rank delivers in which step. No file is touched here.

    row groups, permuted by (seed, epoch)   | 4 |   9   |  1  |     7      |  0  |
    cut into C canonical shards             |--- shard 0 ---|--- shard 1 ----|      equal rows
    cut into shuffle windows                | w0  | w1  |w2 | w0  | w1  | w2 |      permuted inside
    cut into steps                          step k takes rows_per_batch / C rows of every shard

Rank r of N delivers the shards r*C/N to (r+1)*C/N - 1. C depends on the global batch, not on N, so
step k holds the same rows for every N that divides C.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.errors import PlanError

# First words of the seeds, so that no two uses of (seed, epoch, ...) draw the same numbers.
_ROW_GROUP_ORDER = 1
_WINDOW_ORDER = 2


@dataclass(frozen=True, kw_only=True)
class PlanSettings:
    """What the order of rows depends on, beside the snapshot and the epoch."""

    rows_per_batch: int
    """Rows of a global step, over all ranks."""

    canonical_shards: int
    """C, the number of equal parts the epoch's rows are cut into."""

    seed: int = 0

    shuffle: bool = True
    """False: each shard is a run of rows in the order of the files."""

    shuffle_window_rows: int = 2_097_152
    """W, over all shards; a shard's window is W / C, in whole steps."""

    drop_last: bool = False
    """Whether to leave out the rows that do not fill a whole global step."""

    def __post_init__(self) -> None:
        for name in ("rows_per_batch", "canonical_shards", "shuffle_window_rows"):
            if getattr(self, name) < 1:
                raise PlanError(name, f"{getattr(self, name)} is less than 1", "Set 1 or more.")
        if self.seed < 0:
            raise PlanError("seed", f"{self.seed} is negative", "Set 0 or more.")
        if self.rows_per_batch % self.canonical_shards:
            raise PlanError(
                "canonical_shards",
                f"{self.canonical_shards} does not divide rows_per_batch {self.rows_per_batch}",
                f"Set one of {divisors(self.rows_per_batch)}.",
            )

    @property
    def rows_per_shard_step(self) -> int:
        """Rows that every shard contributes to a step."""
        return self.rows_per_batch // self.canonical_shards

    @property
    def steps_per_window(self) -> int:
        """Steps that a shuffle window lasts; all shards begin their windows in the same step."""
        if not self.shuffle:
            return 1
        return _ceil_div(self.shuffle_window_rows, self.rows_per_batch)

    @property
    def rows_per_shard_window(self) -> int:
        """Rows of a full shuffle window of one shard."""
        return self.steps_per_window * self.rows_per_shard_step

    def rows_of_step(self, shard_rows: int, step: int) -> int:
        """Returns the rows that a shard of so many rows contributes to a step of the epoch."""
        left = shard_rows - step * self.rows_per_shard_step
        return max(0, min(self.rows_per_shard_step, left))


@dataclass(frozen=True, slots=True)
class Item:
    """Rows `start` to `stop` of a row group, which come at `first_row` of a canonical shard."""

    shard: int
    first_row: int
    row_group: int
    """Index among all row groups of the snapshot."""

    start: int
    stop: int
    window: int
    """The shuffle window that the first of the rows belongs to."""


@dataclass(frozen=True, slots=True)
class EpochPlan:
    """What one rank reads and delivers in one epoch, from `first_step` on."""

    epoch: int
    shards: tuple[int, ...]
    """The canonical shards of this rank, in the order in which a batch holds them."""

    shard_rows: tuple[int, ...]
    """Rows of each of them."""

    all_shard_rows: tuple[int, ...]
    """Rows of every canonical shard, those of other ranks too."""

    first_step: int
    steps: int
    """The step to stop before; the same on every rank."""

    items: tuple[Item, ...]
    """What to read, in the order in which it is needed."""


def divisors(number: int) -> list[int]:
    """Returns the divisors of a number up to 64, for the remedy of an error."""
    return [candidate for candidate in range(1, min(number, 64) + 1) if number % candidate == 0]


def bounded_window_rows(
    window_rows: int, window_bytes: int, row_bytes: int, rows_per_batch: int
) -> int:
    """Returns the rows of a shuffle window of at most so many bytes, but one step at least.

    Args:
        window_rows: Rows that are asked for, over all shards.
        window_bytes: Bytes that they may take, over all shards; so it does not depend on the ranks.
        row_bytes: Bytes of one row.
        rows_per_batch: Rows of a global step; a window lasts whole steps.
    """
    steps = window_bytes // max(1, row_bytes * rows_per_batch)
    return min(window_rows, max(1, steps) * rows_per_batch)


def default_canonical_shards(rows_per_batch: int) -> int:
    """Returns the largest of 8, 4, 2, 1 that divides the global batch."""
    return next(shards for shards in (8, 4, 2, 1) if rows_per_batch % shards == 0)


def check_ranks(settings: PlanSettings, rank: int, world_size: int) -> None:
    """Checks that the ranks can share the canonical shards evenly.

    Raises:
        PlanError: World size does not divide the canonical shards, or there is no such rank.
    """
    if world_size < 1 or settings.canonical_shards % world_size:
        raise PlanError(
            "world_size",
            f"{world_size} does not divide the {settings.canonical_shards} canonical shards",
            f"Run with one of {divisors(settings.canonical_shards)} ranks, or set "
            "canonical_shards and rows_per_batch to multiples of the ranks.",
        )
    if not 0 <= rank < world_size:
        raise PlanError("rank", f"{rank} of {world_size} ranks", f"Set 0 to {world_size - 1}.")


def shard_bounds(total_rows: int, settings: PlanSettings, shard: int) -> tuple[int, int]:
    """Returns where a shard begins and ends in the epoch's sequence of rows."""
    shards = settings.canonical_shards
    begin, end = shard * total_rows // shards, (shard + 1) * total_rows // shards
    if settings.drop_last:
        steps = steps_per_epoch(total_rows, settings)
        end = begin + steps * settings.rows_per_shard_step
    return begin, end


def steps_per_epoch(total_rows: int, settings: PlanSettings) -> int:
    """Returns the steps every rank takes in an epoch.

    Shards differ by one row at most. The longest decides, or with `drop_last` the shortest.
    """
    shards = settings.canonical_shards
    if settings.drop_last:
        return (total_rows // shards) // settings.rows_per_shard_step
    return _ceil_div(_ceil_div(total_rows, shards), settings.rows_per_shard_step)


def plan_epoch(
    row_counts: npt.NDArray[np.int64],
    settings: PlanSettings,
    *,
    epoch: int,
    rank: int,
    world_size: int,
    first_step: int = 0,
) -> EpochPlan:
    """Plans an epoch for one rank.

    Args:
        row_counts: Rows of each row group of the snapshot, int64 [row groups].
        settings: What the order depends on.
        epoch: Which epoch; each has an order of its own.
        rank: Which of the ranks.
        world_size: Number of ranks; divides `settings.canonical_shards`.
        first_step: Steps already taken; windows that they used up are not read again.

    Returns:
        The rank's items, ordered by window, then shard, then row, so that every window is complete
        before the next is begun.
    """
    sequence = _Sequence.of(row_counts, settings, epoch)
    total_rows = int(row_counts.sum())
    steps = steps_per_epoch(total_rows, settings)
    window_rows = settings.rows_per_shard_window
    skipped_rows = first_step // settings.steps_per_window * window_rows
    per_rank = settings.canonical_shards // world_size
    shards = tuple(range(rank * per_rank, (rank + 1) * per_rank))
    bounds = [
        shard_bounds(total_rows, settings, shard) for shard in range(settings.canonical_shards)
    ]
    items = [
        item
        for shard in shards
        for item in sequence.items(shard, *bounds[shard], skipped_rows, window_rows)
    ]
    items.sort(key=lambda item: (item.window, item.shard, item.first_row))
    lengths = tuple(end - begin for begin, end in bounds)
    return EpochPlan(
        epoch=epoch,
        shards=shards,
        shard_rows=tuple(lengths[shard] for shard in shards),
        all_shard_rows=lengths,
        first_step=first_step,
        steps=steps,
        items=tuple(items),
    )


def window_order(
    settings: PlanSettings, epoch: int, shard: int, window: int, rows: int
) -> npt.NDArray[np.int64]:
    """Returns the order in which a shard's window gives its rows, int64 [rows]."""
    if not settings.shuffle:
        return np.arange(rows)
    return _generator(_WINDOW_ORDER, settings.seed, epoch, shard, window).permutation(rows)


@dataclass(frozen=True, slots=True)
class _Sequence:
    """The row groups in an epoch's order, and the rows at which each starts and stops."""

    order: npt.NDArray[np.int64]
    starts: npt.NDArray[np.int64]
    stops: npt.NDArray[np.int64]

    @classmethod
    def of(cls, row_counts: npt.NDArray[np.int64], settings: PlanSettings, epoch: int) -> _Sequence:
        order = np.arange(len(row_counts))
        if settings.shuffle:
            order = _spread(
                row_counts, settings, _generator(_ROW_GROUP_ORDER, settings.seed, epoch)
            )
        stops = np.cumsum(row_counts[order])
        return cls(order, stops - row_counts[order], stops)

    def items(
        self, shard: int, begin: int, end: int, skipped_rows: int, window_rows: int
    ) -> list[Item]:
        """Cuts the row groups to the rows `begin + skipped_rows` to `end` of the sequence."""
        wanted = begin + skipped_rows
        if wanted >= end:
            return []
        first = int(np.searchsorted(self.stops, wanted, side="right"))
        last = int(np.searchsorted(self.starts, end, side="left"))
        starts = self.starts[first:last]
        lows = np.maximum(starts, wanted)
        highs = np.minimum(self.stops[first:last], end)
        columns = (self.order[first:last], lows - begin, lows - starts, highs - starts)
        return [
            Item(shard, first_row, row_group, start, stop, first_row // window_rows)
            for row_group, first_row, start, stop in zip(
                *map(np.ndarray.tolist, columns), strict=True
            )
            if stop > start
        ]


def _spread(
    row_counts: npt.NDArray[np.int64], settings: PlanSettings, random: np.random.Generator
) -> npt.NDArray[np.int64]:
    """Permutes the row groups so that every shuffle window has some of everywhere.

    Tables lie sorted, by time or by label, and of a few row groups drawn freely too many often come
    from one end. So each window draws one row group out of each of as many equal parts of the table
    as it has places: stratified sampling, within which all is random.

    Returns:
        The row groups in the order of the epoch's sequence, int64 [row groups].
    """
    groups, total_rows = len(row_counts), int(row_counts.sum())
    if total_rows == 0:
        return random.permutation(groups)
    # Where a place begins depends on what lies before it: first as if all were equally long.
    order = _dealt(_deals(np.full(groups, total_rows / groups), settings), random)
    # Then those of the usual length are dealt again, which moves nothing: the odd ones, mostly the
    # last of their files, keep their places.
    lengths, counts = np.unique(row_counts, return_counts=True)
    usual = np.flatnonzero(row_counts[order] == lengths[np.argmax(counts)])
    deals = _deals(row_counts[order], settings)[usual]
    order[usual] = np.sort(order[usual])[_dealt(deals, random)]
    return order


def _deals(rows: npt.NDArray[Any], settings: PlanSettings) -> npt.NDArray[np.int64]:
    """Numbers the windows that places of so many rows belong to, over all shards.

    Places that reach into the next window count in both: they are a deal of their own.
    """
    stops = np.cumsum(rows)
    shard_rows = max(1.0, stops[-1] / settings.canonical_shards)
    window, row = np.divmod((stops - rows) % shard_rows, settings.rows_per_shard_window)
    reaches_over = row + rows > settings.rows_per_shard_window
    deals: npt.NDArray[np.int64] = (2 * window + reaches_over).astype(np.int64)
    return deals


def _dealt(deals: npt.NDArray[np.int64], random: np.random.Generator) -> npt.NDArray[np.int64]:
    """Deals the numbers 0, 1, ... out to places, so that each deal has some of everywhere."""
    _, deal, sizes = np.unique(deals, return_inverse=True, return_counts=True)
    # The places of a deal in random order: 0, 1, ...
    by_deal = np.lexsort((random.random(len(deal)), deal))
    nth = np.empty(len(deal), np.int64)
    nth[by_deal] = np.arange(len(deal)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    # The part of the whole that each place draws from, in [0, 1); its draw within it.
    drawn = (nth + random.random(len(deal))) / sizes[deal]
    dealt = np.empty(len(deal), np.int64)
    dealt[np.argsort(drawn)] = np.arange(len(deal))
    return dealt


def _generator(*words: int) -> np.random.Generator:
    return np.random.default_rng(words)


def _ceil_div(dividend: int, divisor: int) -> int:
    return (dividend + divisor - 1) // divisor
