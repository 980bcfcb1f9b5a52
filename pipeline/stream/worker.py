"""The worker: a run of rows of one row group, from Parquet into the shuffle windows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from petastorm.workers_pool import EmptyResultError
from petastorm.workers_pool.worker_base import WorkerBase

from pipeline.errors import LakestormError
from pipeline.stream.fetch import RowGroups, unreadable
from pipeline.stream.plan import Item
from pipeline.stream.windows import Windows


@dataclass(frozen=True, slots=True)
class Placed:
    """What a worker reports: the rows are in their windows."""

    rows: int


class PlacedReader:
    """Hands reports from the pool to the reader; Petastorm's `results queue reader`."""

    batched_output = True

    def read_next(self, pool: Any, _schema: Any, _ngram: Any) -> Placed:
        """Returns the next report; part of Petastorm's protocol."""
        try:
            placed: Placed = pool.get_results()
        except EmptyResultError:
            raise StopIteration from None
        return placed


class RowGroupWorker(WorkerBase):  # type: ignore[misc]
    """Reads runs of rows out of row groups and puts them where the windows have room for them."""

    def __init__(self, worker_id: int, publish: Callable[[Placed], None], args: Any) -> None:
        super().__init__(worker_id, publish, args)
        # The order of these arguments is Petastorm's: file system, data set, ...
        snapshot = args[1]
        self._windows: Windows = snapshot.windows
        self._row_groups = RowGroups(snapshot.files, snapshot.ahead)

    @staticmethod
    def new_results_queue_reader() -> PlacedReader:
        """Returns what the reader takes reports with; part of Petastorm's protocol."""
        return PlacedReader()

    def process(self, item: Item) -> None:
        """Reads rows `start` to `stop` of a row group; they come at `first_row` of a shard.

        Raises:
            RowGroupError: The row group cannot be read, or has fewer rows than planned.
            NullValueError: A dense column holds a null.
            SchemaError: The lists of a column are not of the length or shape that is asked for.
        """
        try:
            block = self._row_groups.block(item)
            self._windows.put(item.shard, item.first_row, item.stop - item.start, block)
        except LakestormError:
            raise
        except Exception as error:
            raise unreadable(self._row_groups.source(item), error) from error
        self.publish_func(Placed(item.stop - item.start))

    def shutdown(self) -> None:
        """Closes the files that are still open."""
        self._row_groups.close()
