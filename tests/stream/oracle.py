"""What an epoch must be, told by the ids that came and the sizes of the row groups alone.

Nothing here is shared with `pipeline.stream.plan`, neither code nor method: the plan goes from row
groups to rows; this goes from the rows that were delivered back to the order of the row groups that
must have been read, whichever it was, and says what cannot be.

    what a shard delivered   | 7 5 6 | 9 8 2 | ...    cut into cells, the shuffle windows
    sorted, by row group     | 5-7   | 2 8-9 | ...    each must be a run of rows, the next go on
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

# By chance an order repeats, or comes out sorted, less often than once in 2 to the power of this.
_SURE_BITS = 40


@dataclass(frozen=True)
class Run:
    """Rows of one row group in one cell: all from `first` to `last`."""

    cell: int
    shard: int
    first: int
    last: int


class Oracle:
    """Judges an epoch that was read with one rank for each canonical shard.

    Args:
        sizes: For each file the rows of its row groups; the ids count on from 0.
        rows_per_shard_step: Rows of a batch of such a rank.
        steps_per_window: Steps that a shuffle window lasts.
        drop_last: Whether rows that fill no global step are left out.
    """

    def __init__(
        self,
        sizes: Sequence[Sequence[int]],
        *,
        rows_per_shard_step: int,
        steps_per_window: int,
        drop_last: bool,
    ) -> None:
        self._sizes = [rows for file in sizes for rows in file if rows]
        self._starts = [0, *accumulate(self._sizes)][: len(self._sizes)]
        self.rows = sum(self._sizes)
        self._batch_rows = rows_per_shard_step
        self._steps_per_window = steps_per_window
        self._drop_last = drop_last

    def check(self, ranks: Sequence[Sequence[Sequence[int]]], *, shuffled: bool) -> None:
        """Checks an epoch.

        Args:
            ranks: The ids of each batch of each rank.
            shuffled: Whether rows were permuted; if not, they come as the files have them.
        """
        self.check_every_id_once([i for batches in ranks for ids in batches for i in ids])
        self.check_steps(ranks)
        cells = [self.cells(batches) for batches in ranks]
        self.check_row_groups_stay_together(cells)
        ids = [i for shard in cells for cell in shard for i in cell]
        if not shuffled:
            assert ids == sorted(ids), "not in the order of the files"
        elif self.permutes(cells):
            as_read = [i for shard in cells for cell in shard for i in self._unshuffled(cell)]
            assert ids != as_read, "not shuffled within the windows"

    def check_every_id_once(self, ids: Sequence[int]) -> None:
        delivered, there = Counter(ids), Counter(range(self.rows))
        assert not delivered - there, f"twice, or of no row: {delivered - there}"
        if not self._drop_last:
            assert not there - delivered, f"missing: {there - delivered}"

    def check_steps(self, ranks: Sequence[Sequence[Sequence[int]]]) -> None:
        """All take the same steps, as few as there must be; a batch is full if rows are left."""
        steps, shards = len(ranks[0]), len(ranks)
        assert all(len(batches) == steps for batches in ranks)
        lengths = [sum(map(len, batches)) for batches in ranks]
        if self._drop_last:
            assert lengths == [steps * self._batch_rows] * shards
            assert self.rows // shards < (steps + 1) * self._batch_rows, "dropped a whole step"
        else:
            assert max(lengths) - min(lengths) <= 1
            longest = max(lengths)
            assert (steps - 1) * self._batch_rows < longest <= steps * self._batch_rows
        for batches, length in zip(ranks, lengths, strict=True):
            left = length
            for ids in batches:
                assert len(ids) == min(left, self._batch_rows)
                left -= len(ids)

    def cells(self, batches: Sequence[Sequence[int]]) -> list[list[int]]:
        """Joins the batches of each shuffle window; leaves out windows without a row."""
        starts = range(0, len(batches), self._steps_per_window)
        joined = [
            [i for ids in batches[start : start + self._steps_per_window] for i in ids]
            for start in starts
        ]
        return [cell for cell in joined if cell]

    def check_row_groups_stay_together(self, shards: Sequence[Sequence[Sequence[int]]]) -> None:
        """Checks that some order of whole row groups, cut into these cells, gives these rows.

        It also bounds how far a row can be from its place in that order: less than a window. With
        `drop_last` rows may be missing, but only where one shard ends and the next begins.
        """
        cells = [(shard, cell) for shard, cells in enumerate(shards) for cell in cells]
        runs: dict[int, list[Run]] = {}
        held: list[set[int]] = []
        for number, (shard, cell) in enumerate(cells):
            by_group = self._by_group(cell)
            held.append(set(by_group))
            for group, ids in by_group.items():
                assert max(ids) - min(ids) + 1 == len(ids), f"torn apart in window {number}: {ids}"
                runs.setdefault(group, []).append(Run(number, shard, min(ids), max(ids)))
        for before, after in pairwise(held):
            assert len(before & after) <= 1, "one row group at most is cut where a window ends"
        for group, of_group in runs.items():
            self._check_run(group, of_group, held, [shard for shard, _ in cells])

    def permutes(self, shards: Sequence[Sequence[Sequence[int]]]) -> bool:
        """Whether the windows have so many orders that no two come out alike."""
        bits = sum(math.lgamma(len(cell) + 1) for cells in shards for cell in cells) / math.log(2)
        return bits > _SURE_BITS

    def _unshuffled(self, cell: Sequence[int]) -> list[int]:
        """The rows as their row groups have them, which come in the order they are met."""
        return [i for ids in self._by_group(cell).values() for i in sorted(ids)]

    def _by_group(self, ids: Sequence[int]) -> dict[int, list[int]]:
        groups: dict[int, list[int]] = {}
        for i in ids:
            groups.setdefault(bisect_right(self._starts, i) - 1, []).append(i)
        return groups

    def _check_run(
        self, group: int, runs: Sequence[Run], held: Sequence[set[int]], shards: Sequence[int]
    ) -> None:
        """Checks that a row group's rows go on from cell to cell, with nothing in between."""
        for before, after in pairwise(runs):
            assert after.cell == before.cell + 1, f"row group {group} is scattered"
            follows = after.first > before.last
            if not (self._drop_last and after.shard > before.shard):
                follows = after.first == before.last + 1
            assert follows, f"row group {group} does not go on where it was cut"
        for run in runs[1:-1]:
            assert held[run.cell] == {group}, f"row group {group} is interrupted"
        begin, end = self._starts[group], self._starts[group] + self._sizes[group] - 1
        first, last = runs[0], runs[-1]
        if first.first != begin:  # the rows before fell at the end of the shard before
            assert first.shard > 0
            assert first.cell == shards.index(first.shard)
        if last.last != end:  # the rows behind fell at the end of this shard
            assert last.cell == len(shards) - 1 or shards[last.cell + 1] > last.shard
