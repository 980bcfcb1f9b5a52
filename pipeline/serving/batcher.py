"""One thread that scores what all requests have brought meanwhile, in one batch.

While a batch is scored, further requests queue up and make the next one: no request waits for
others to come, and under load the batches grow by themselves.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import pyarrow as pa

from pipeline.errors import LakestormError


class FullError(LakestormError):
    """As many rows wait as may."""


class Batcher:
    """Scores tables in batches.

    Args:
        score: Maps a table [rows] to a table [rows].
        rows_per_batch: Rows of a batch, unless one request alone has more.
        waiting_rows: Rows that may wait.
    """

    def __init__(
        self, score: Callable[[pa.Table], pa.Table], rows_per_batch: int, waiting_rows: int
    ) -> None:
        self._score = score
        self._rows_per_batch = rows_per_batch
        self._waiting_rows = waiting_rows
        self._waiting: deque[tuple[pa.Table, Future[pa.Table]]] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="batcher", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """Rows that wait."""
        with self._changed:
            return sum(table.num_rows for table, _ in self._waiting)

    def submit(self, rows: pa.Table) -> Future[pa.Table]:
        """Queues a request.

        Raises:
            FullError: Too many rows wait.
        """
        future: Future[pa.Table] = Future()
        with self._changed:
            waiting = sum(table.num_rows for table, _ in self._waiting)
            if self._closed or waiting + rows.num_rows > self._waiting_rows:
                raise FullError(
                    "service", f"has {waiting} rows waiting", "Send the request again, later."
                )
            self._waiting.append((rows, future))
            self._changed.notify()
        return future

    def close(self) -> None:
        """Scores what waits, and ends the thread."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    def _run(self) -> None:
        while not (self._closed and not self._waiting):
            if batch := self._next():
                self._answer(batch)

    def _next(self) -> list[tuple[pa.Table, Future[pa.Table]]]:
        """The requests of the next batch, all of the same columns; may be none."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._closed)
            batch: list[tuple[pa.Table, Future[pa.Table]]] = []
            rows = 0
            while self._waiting:
                table, _ = self._waiting[0]
                if batch and (
                    rows + table.num_rows > self._rows_per_batch
                    or table.schema != batch[0][0].schema
                ):
                    break
                table, future = self._waiting.popleft()
                # One that nobody waits for any more is not scored; the others cannot be cancelled
                # from here on, so that their answers can be set.
                if future.set_running_or_notify_cancel():
                    rows += table.num_rows
                    batch.append((table, future))
            return batch

    def _answer(self, batch: list[tuple[pa.Table, Future[pa.Table]]]) -> None:
        first = 0
        try:
            scored = self._score(pa.concat_tables([table for table, _ in batch]))
        except BaseException as error:  # noqa: BLE001 - each request gets it
            self._fail(batch, error)
            return
        for table, future in batch:
            future.set_result(scored.slice(first, table.num_rows))
            first += table.num_rows

    def _fail(self, batch: list[tuple[pa.Table, Future[pa.Table]]], error: Any) -> None:
        """One request's bad row must not fail the others: each half is scored again."""
        if len(batch) == 1:
            batch[0][1].set_exception(error)
            return
        half = len(batch) // 2
        self._answer(batch[:half])
        self._answer(batch[half:])
