"""A pool of threads that loses nothing and delivers in the order of ventilation.

It follows the protocol of Petastorm's own pools (`petastorm.workers_pool`), which end an epoch
early when the ventilator is between two items at the wrong moment. This one knows how many items
the plan has, and ends when the last of them is delivered.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from petastorm.workers_pool import EmptyResultError
from petastorm.workers_pool.ventilator import ConcurrentVentilator

from pipeline.errors import StreamError

# How often a consumer that waits looks whether the ventilator is still alive.
_LIVENESS_SECONDS = 0.5


class PlanVentilator(ConcurrentVentilator):  # type: ignore[misc]
    """Petastorm's ventilator, which can be asked whether more items may come."""

    @property
    def running(self) -> bool:
        """Whether its thread is alive."""
        thread = self._ventilation_thread
        return thread is not None and thread.is_alive()


class OrderedPool:
    """Worker threads behind a bounded queue; results come in the order of ventilation.

    What is decoded ahead is bounded by shuffle windows: an item may start when the rows it begins
    with belong to a window that is open. So that no worker idles at small windows, a few items may
    always be in flight.

    Args:
        workers_count: Number of threads.
        windows: The window of each item, in the order of ventilation; results end after the last.
        last_open_window: Windows up to this one are open from the start.
        on_start: Called with each item just before it is queued, to begin fetching what it needs.
    """

    def __init__(
        self,
        workers_count: int,
        windows: Sequence[int],
        last_open_window: int,
        on_start: Callable[..., None] | None = None,
    ) -> None:
        self.workers_count = workers_count
        self._on_start = on_start
        self._least_in_flight = 2 * workers_count
        self._windows = windows
        self._items_planned = len(windows)
        self._last_open_window = last_open_window
        # Guards everything below; notified whenever any of it changes.
        self._changed = threading.Condition()
        self._queue: deque[tuple[int, dict[str, Any]]] = deque()
        self._finished: dict[int, list[Any] | BaseException] = {}
        self._results: deque[Any] = deque()
        self._ventilated = 0
        self._delivered = 0
        self._stopped = False
        self._threads: list[threading.Thread] = []
        self._ventilator: PlanVentilator | None = None

    def start(
        self, worker_class: Any, worker_args: Any = None, ventilator: PlanVentilator | None = None
    ) -> None:
        """Starts the workers, then the ventilator; part of Petastorm's pool protocol."""
        for worker_id in range(self.workers_count):
            published: list[Any] = []
            worker = worker_class(worker_id, published.append, worker_args)
            thread = threading.Thread(
                target=self._work, args=(worker, published), name=f"stream-{worker_id}", daemon=True
            )
            self._threads.append(thread)
            thread.start()
        self._ventilator = ventilator
        if ventilator is not None:
            ventilator.start()

    def open_windows(self, last: int) -> None:
        """Lets items of the windows up to `last` start."""
        with self._changed:
            self._last_open_window = last
            self._changed.notify_all()

    def ventilate(self, **item: Any) -> None:
        """Queues an item; blocks until it may start. Called by the ventilator."""
        with self._changed:
            self._changed.wait_for(lambda: self._stopped or self._may_start())
            if self._stopped:
                return
        error = self._prepare(item)
        with self._changed:
            if error is None:
                self._queue.append((self._ventilated, item))
            else:
                self._finished[self._ventilated] = error
            self._ventilated += 1
            self._changed.notify_all()

    def get_results(self) -> Any:
        """Returns the next result, in the order of ventilation.

        Raises:
            EmptyResultError: The last planned item was delivered.
            StreamError: The pool was stopped, or the ventilator ended before the plan did.
            Exception: What a worker raised, at the place of the item it was working on.
        """
        while not self._results:
            if self._delivered == self._items_planned:
                raise EmptyResultError
            outcome = self._next_outcome()
            if isinstance(outcome, BaseException):
                self.stop()
                self.join()
                raise outcome
            self._results.extend(outcome)
        return self._results.popleft()

    def stop(self) -> None:
        """Tells workers and ventilator to end."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()
        # Only now: a ventilator that waits for room in the queue could not be joined before.
        if self._ventilator is not None:
            self._ventilator.stop()

    def join(self) -> None:
        """Waits until all workers have ended."""
        for thread in self._threads:
            thread.join()

    @property
    def diagnostics(self) -> dict[str, int]:
        """Counts of items; part of Petastorm's pool protocol."""
        with self._changed:
            return {
                "items_planned": self._items_planned,
                "items_ventilated": self._ventilated,
                "items_delivered": self._delivered,
                "items_waiting": len(self._finished),
            }

    def _prepare(self, item: dict[str, Any]) -> BaseException | None:
        """Starts fetching; what goes wrong comes to the consumer at the item's place."""
        try:
            if self._on_start is not None:
                self._on_start(**item)
        except BaseException as error:  # noqa: BLE001 - the consumer raises it
            return error
        return None

    def _may_start(self) -> bool:
        in_flight = self._ventilated - self._delivered
        if in_flight < self._least_in_flight or self._ventilated >= self._items_planned:
            return True
        return self._windows[self._ventilated] <= self._last_open_window

    def _next_outcome(self) -> list[Any] | BaseException:
        """Waits for the item that is next in order and takes its results."""
        with self._changed:
            while self._delivered not in self._finished:
                if self._stopped:
                    raise self._ended("it was stopped")
                if not self._changed.wait(_LIVENESS_SECONDS):
                    self._check_ventilator()
            outcome = self._finished.pop(self._delivered)
            self._delivered += 1
            self._changed.notify_all()
        if self._ventilator is not None:
            self._ventilator.processed_item()
        return outcome

    def _check_ventilator(self) -> None:
        running = self._ventilator is not None and self._ventilator.running
        if not running and self._ventilated == self._delivered:
            raise self._ended("the ventilator ended")

    def _ended(self, reason: str) -> StreamError:
        return StreamError(
            "stream",
            f"{reason} after {self._delivered} of {self._items_planned} planned items",
            "Read the epoch again from the last state.",
        )

    def _work(self, worker: Any, published: list[Any]) -> None:
        """Runs one worker until the pool stops; `published` is where it puts its results."""
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._stopped or self._queue)
                if self._stopped:
                    break
                position, item = self._queue.popleft()
            outcome: list[Any] | BaseException
            try:
                worker.process(**item)
                outcome = list(published)
            except BaseException as error:  # noqa: BLE001 - the consumer raises it
                outcome = error
            published.clear()
            with self._changed:
                self._finished[position] = outcome
                self._changed.notify_all()
        worker.shutdown()
