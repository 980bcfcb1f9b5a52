"""Fetches what workers will need next, so that they decode while the store is asked for more."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import CancelledError, Executor, Future
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.errors import StreamError
from pipeline.stores.reading import RangedFile, StoredObject, fetch, find

# A request costs about as long as it takes to read this much that nobody asked for.
_HOLE_BYTES = 1 << 20
# Longer ranges are fetched in parts, side by side.
_RANGE_BYTES = 32 << 20
# Opening asks the store for the size, so read-ahead keeps this many files open.
_OPEN_FILES = 64

_T = TypeVar("_T")


class ReadAhead:
    """Fetches the columns of row groups before a worker asks for them.

    It holds what was scheduled and not yet taken, however much: the caller bounds that.

    Args:
        io_threads: Requests under way at a time.
    """

    def __init__(self, io_threads: int) -> None:
        self._executor = _DaemonThreads(io_threads, "read-ahead")
        self._closing = threading.Event()
        # Guards the two below.
        self._lock = threading.Lock()
        self._scheduled: dict[Hashable, _Scheduled] = {}
        self._opened: OrderedDict[str, Future[StoredObject]] = OrderedDict()

    def schedule(
        self,
        key: Hashable,
        file: str,
        metadata: pq.FileMetaData,
        row_group: int,
        columns: Sequence[str],
    ) -> None:
        """Begins to fetch columns of a row group; does not wait.

        Args:
            key: What to take it by; may be used again once it was taken or discarded.
            file: A URI for which `is_remote` holds.
            metadata: The file's footer.
            row_group: Which row group of the file.
            columns: Top-level columns; lists and structs come with all their leaves.

        Raises:
            StreamError: It is closed, or the key is scheduled already.
        """
        ranges = ranges_of(metadata, row_group, columns)
        with self._lock:
            if self._closing.is_set():
                raise _closed()
            if key in self._scheduled:
                raise StreamError("read-ahead", f"{key!r} is scheduled already", "Take it first.")
            opened = self._open(file)
            # The queue is first in, first out: what opens the file is begun before what needs it.
            fetches = [
                self._executor.submit(self._fetch, opened, stop - start, start)
                for start, stop in ranges
            ]
            starts = [start for start, _ in ranges]
            self._scheduled[key] = _Scheduled(opened, starts, fetches)

    def take(self, key: Hashable) -> pa.NativeFile:
        """Waits for a row group and hands it over.

        Returns:
            A file for `pq.ParquetFile(source, metadata=metadata)`. Columns and row groups that were
            not scheduled can be read too; each read is then a request.

        Raises:
            StreamError: The key is not scheduled, or read-ahead was closed.
            StoreError: As for `open_file`.
            OSError: As for `open_file`.
        """
        with self._lock:
            scheduled = self._scheduled.pop(key, None)
        if scheduled is None:
            if self._closing.is_set():
                raise _closed()
            raise StreamError("read-ahead", f"{key!r} is not scheduled", "Schedule it first.")
        try:
            found = scheduled.opened.result()
            parts = [fetch.result() for fetch in scheduled.fetches]
        except CancelledError:
            raise _closed() from None
        finally:
            scheduled.cancel()
        reader = RangedFile(
            found.size,
            lambda length, start: fetch(found, length, start, self._closing),
            scheduled.starts,
            parts,
        )
        return pa.PythonFile(reader, mode="r")

    def discard(self, key: Hashable) -> None:
        """Gives up a row group, scheduled or not; does not wait."""
        with self._lock:
            scheduled = self._scheduled.pop(key, None)
        if scheduled is not None:
            scheduled.cancel()

    def close(self) -> None:
        """Cancels what was not begun, and waits until no request is under way.

        A request that is under way is not tried again; `take` raises from now on.
        """
        with self._lock:
            self._closing.set()
            self._scheduled.clear()
            self._opened.clear()
        self._executor.shutdown(wait=True, cancel_futures=True)

    def _open(self, file: str) -> Future[StoredObject]:
        """Returns what the file will be once found; asks the store only once for each file."""
        opened = self._opened.pop(file, None)
        if opened is None or (opened.done() and opened.exception() is not None):
            opened = self._executor.submit(find, file, self._closing)
        self._opened[file] = opened
        if len(self._opened) > _OPEN_FILES:
            self._opened.popitem(last=False)
        return opened

    def _fetch(self, opened: Future[StoredObject], length: int, start: int) -> bytes:
        found = opened.result()
        if self._closing.is_set():
            raise CancelledError
        return fetch(found, length, start, self._closing)


class _DaemonThreads(Executor):
    """Threads that the interpreter does not wait for when it ends.

    It would wait for those of a ThreadPoolExecutor, so that Ctrl-C in a program that holds on to
    its stream took as long as all requests and their retries.
    """

    def __init__(self, threads: int, name: str) -> None:
        self._tasks: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._futures: set[Future[Any]] = set()
        self._threads = [
            threading.Thread(target=self._work, name=f"{name}-{number}", daemon=True)
            for number in range(threads)
        ]
        for thread in self._threads:
            thread.start()

    def submit(self, task: Callable[..., _T], /, *args: Any, **kwargs: Any) -> Future[_T]:
        """Queues a task."""
        future: Future[_T] = Future()

        def run() -> None:
            if future.set_running_or_notify_cancel():
                try:
                    future.set_result(task(*args, **kwargs))
                except BaseException as error:  # noqa: BLE001 - whoever waits raises it
                    future.set_exception(error)

        self._futures.add(future)
        future.add_done_callback(self._futures.discard)
        self._tasks.put(run)
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Ends the threads after what is queued, or without it."""
        if cancel_futures:
            for future in self._futures.copy():
                future.cancel()
        for _ in self._threads:
            self._tasks.put(None)
        if wait:
            for thread in self._threads:
                thread.join()

    def _work(self) -> None:
        while (run := self._tasks.get()) is not None:
            run()


@dataclass(frozen=True, slots=True)
class _Scheduled:
    """What is on its way for one key."""

    opened: Future[StoredObject]
    starts: Sequence[int]
    """Where in the file each fetch begins; ascending."""

    fetches: Sequence[Future[bytes]]

    def cancel(self) -> None:
        """Cancels fetches that were not begun; others may need the opened file."""
        for begun in self.fetches:
            begun.cancel()


def ranges_of(
    metadata: pq.FileMetaData, row_group: int, columns: Sequence[str]
) -> list[tuple[int, int]]:
    """Returns the byte ranges [start, stop) that hold columns of a row group, ascending.

    Neighbours with a small hole between them are one range; a long range is cut into parts.
    """
    group = metadata.row_group(row_group)
    wanted = set(columns)
    chunks = []
    for index in range(group.num_columns):
        chunk = group.column(index)
        path = chunk.path_in_schema
        # `col.list.element` belongs to `col`; a flat column may have a dot in its own name.
        if path in wanted or any(path.startswith(f"{column}.") for column in wanted):
            offsets = (chunk.dictionary_page_offset, chunk.data_page_offset)
            start = min(offset for offset in offsets if offset)
            chunks.append((start, start + chunk.total_compressed_size))
    merged: list[tuple[int, int]] = []
    for start, stop in sorted(chunks):
        first, last = merged[-1] if merged else (start, start)
        if merged and start - last <= _HOLE_BYTES and stop - first <= _RANGE_BYTES:
            merged[-1] = (first, max(last, stop))
        else:
            merged.append((start, stop))
    return [
        (part, min(part + _RANGE_BYTES, stop))
        for start, stop in merged
        for part in range(start, stop, _RANGE_BYTES)
    ]


def _closed() -> StreamError:
    return StreamError("read-ahead", "it was closed", "Read the epoch again from the last state.")
