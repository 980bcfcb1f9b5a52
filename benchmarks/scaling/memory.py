"""The memory of a Spark application on this machine, by what its processes are; and its disk."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

import psutil

ROLES = ("driver_jvm", "driver_python", "executor", "worker")
"""The driver's two processes, the JVMs of executors, and the Python processes that serve those."""

_INTERVAL_SECONDS = 0.25


class Watch:
    """Looks at this process and all below it, on a thread, until it is left.

    With a master of `local[...]` the driver's JVM is the executor too, and nothing counts as one.

    Args:
        folder: On the disk that is looked at.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._used_bytes = shutil.disk_usage(folder).used
        self.disk_bytes = 0
        """The most that was taken of the disk since, by anybody."""
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._look, name="memory", daemon=True)
        self._peaks = dict.fromkeys(ROLES, 0.0)
        self._driver = psutil.Process()
        self._roles: dict[psutil.Process, str] = {self._driver: "driver_python"}

    @contextmanager
    def stage(self) -> Iterator[dict[str, float]]:
        """Peaks of a stage by role, known when it is over: MB of 2**20 bytes, resident.

        Of several processes of one role the largest counts.
        """
        self._peaks = found = dict.fromkeys(ROLES, 0.0)
        yield found
        self._sample(found)

    def _look(self) -> None:
        while not self._ended.wait(_INTERVAL_SECONDS):
            self._sample(self._peaks)

    def _sample(self, peaks: dict[str, float]) -> None:
        used_bytes = shutil.disk_usage(self._folder).used - self._used_bytes
        self.disk_bytes = max(self.disk_bytes, used_bytes)
        for process in [self._driver, *self._driver.children(recursive=True)]:
            try:
                role = self._role(process)
                if role is not None:
                    peaks[role] = max(peaks[role], process.memory_info().rss / 2**20)
            except psutil.Error:  # it has just ended
                continue

    def _role(self, process: psutil.Process) -> str | None:
        found = self._roles.get(process)
        if found is None:
            # Asked again until it is known: a process begins as a copy of the one that started it.
            found = self._found_role(process)
            if found is not None:
                self._roles[process] = found
        return found

    def _found_role(self, process: psutil.Process) -> str | None:
        words = process.cmdline()
        if any("CoarseGrainedExecutorBackend" in word for word in words):
            return "executor"
        if any(word in ("pyspark.daemon", "pyspark.worker") for word in words):
            return "worker"
        is_below_driver = process.ppid() == self._driver.pid
        return "driver_jvm" if is_below_driver and process.name() == "java" else None

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        self._ended.set()
        self._thread.join()
