"""One epoch on one rank: Petastorm's reader fills the windows, batches come out of them."""

from __future__ import annotations

from collections.abc import Iterator

from pipeline.errors import StreamError
from pipeline.stream.batches import Batch, BatchAssembler
from pipeline.stream.fetch import SnapshotFiles
from pipeline.stream.plan import EpochPlan, PlanSettings
from pipeline.stream.pool import OrderedPool
from pipeline.stream.reader import PlanReader, Snapshot
from pipeline.stream.windows import Windows
from pipeline.stream.worker import Placed


class EpochReader:
    """Yields the batches of a plan; its threads start before the first and end with the last.

    While the batches of one window are given out, the next is being filled, and no more.

    Args:
        plan: What to read and deliver.
        settings: Sizes of windows and steps.
        files: What is read.
        workers_count: Threads that decode.
    """

    def __init__(
        self,
        plan: EpochPlan,
        *,
        settings: PlanSettings,
        files: SnapshotFiles,
        workers_count: int,
    ) -> None:
        self.plan = plan
        self._settings = settings
        self._layout = files.layout
        self._windows = Windows(plan, settings, files.layout)
        self._snapshot = Snapshot(files, self._windows)
        self._first_window = plan.items[0].window if plan.items else 0
        self._pool = OrderedPool(
            workers_count,
            [item.window for item in plan.items],
            last_open_window=self._first_window,
            on_start=self._snapshot.ahead.begin,
        )
        self._reader: PlanReader | None = None
        self._placed = 0

    @property
    def is_read(self) -> bool:
        """Whether nothing is left to read: the last window is full, and being given out."""
        return self._placed == len(self.plan.items)

    def start(self, windows: int = 2) -> None:
        """Starts to fill the first windows, or goes on to more of them.

        Args:
            windows: How many; two are as many as an epoch that is read alone fills.
        """
        self._pool.open_windows(self._first_window + windows - 1)
        if self.plan.items and self._reader is None:
            self._reader = PlanReader(self._snapshot, self.plan.items, self._pool)

    def __iter__(self) -> Iterator[Batch]:
        """Yields the batches of the steps `plan.first_step` to `plan.steps` - 1.

        Raises:
            RowGroupError: A row group cannot be read.
            NullValueError: A dense column holds a null.
            StreamError: The reader ended before the plan did.
        """
        self.start()
        yield from BatchAssembler(
            self.plan, self._settings, self._layout, self._windows, self._fill
        )

    def close(self) -> None:
        """Ends all threads, wherever they are."""
        reader, self._reader = self._reader, None
        if reader is not None:
            reader.stop()
            # Before the join: a worker may be waiting for what is being fetched.
            self._snapshot.ahead.close()
            reader.join()

    def _fill(self, window: int) -> None:
        """Waits until every row of a window is in its place."""
        self._pool.open_windows(window + 1)
        items = self.plan.items
        while self._placed < len(items) and items[self._placed].window <= window:
            item = items[self._placed]
            placed: Placed | None = None if self._reader is None else next(self._reader, None)
            rows = 0 if placed is None else placed.rows
            if rows != item.stop - item.start:
                raise StreamError(
                    f"epoch {self.plan.epoch}",
                    f"item {self._placed} of {len(items)} came with {rows} rows "
                    f"instead of {item.stop - item.start}",
                    "This is a fault of the reader; please report it.",
                )
            self._placed += 1
