"""What a Spark application takes on this machine: memory by its processes, disk, processor time."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import psutil

ROLES = ("driver_jvm", "driver_python", "executor", "worker", "rank")
"""The driver's two processes, the JVMs of executors, the Python processes that serve those, and the
processes that train."""

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
        if "pipeline.training.worker" in words:
            return "rank"
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


@contextmanager
def reading(watch: Watch, found: dict[str, Any], step: str) -> Iterator[None]:
    """Notes the time of a step, the processor time of all processes, and their peaks."""
    started, busy = time.perf_counter(), _cpu_seconds()
    with watch.stage() as peaks:
        yield
        seconds = time.perf_counter() - started
    found[step] = {"seconds": seconds, "cpu_seconds": _cpu_seconds() - busy, **peaks}


def _cpu_seconds() -> float:
    """Of this process, those it started, the JVM above all, and those of them that have ended."""
    own = psutil.Process()
    times = [process.cpu_times() for process in (own, *own.children(recursive=True))]
    return float(
        sum(each.user + each.system + each.children_user + each.children_system for each in times)
    )
