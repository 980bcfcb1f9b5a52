"""What ends a rank from outside: a request to stop, and a watch over its progress."""

from __future__ import annotations

import faulthandler
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

_REARM_SECONDS = 0.5
_STDERR = 2


class StopRequest:
    """Whether this process was asked to leave; by SIGTERM, once `listening`."""

    def __init__(self) -> None:
        self.is_set = False

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Takes SIGTERM as a request while the block runs; only the main thread can."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def ask(_signal: int, _frame: FrameType | None) -> None:
            self.is_set = True

        before: Any = signal.signal(signal.SIGTERM, ask)
        try:
            yield
        finally:
            signal.signal(signal.SIGTERM, before)


class Watch:
    """Ends this process when it makes no progress, with the stacks of its threads in the log.

    Python's own watchdog waits on a thread that needs no interpreter, so that a rank is ended in
    whatever it hangs: an exchange with a rank that is gone, a read that never comes back, a lock.

    Args:
        seconds: Without a call of `progress`, after which the process ends with exit code 1.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._armed_at = 0.0

    def progress(self) -> None:
        """Tells that the rank is alive."""
        now = time.monotonic()
        if now - self._armed_at > min(_REARM_SECONDS, self._seconds / 10):
            self._armed_at = now
            faulthandler.dump_traceback_later(self._seconds, exit=True, file=_STDERR)

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Watches while the block runs."""
        self.progress()
        try:
            yield
        finally:
            faulthandler.cancel_dump_traceback_later()
