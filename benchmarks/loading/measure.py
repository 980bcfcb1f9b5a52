"""One reading in a process of its own: rows, seconds, CPU seconds, peak memory."""

from __future__ import annotations

import contextlib
import io
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class Reading:
    """What one reading took."""

    rows: int
    seconds: float
    cpu_seconds: float
    """User and system time of the process and the children it has waited for."""

    peak_rss_mb: float
    """Highest resident memory of the process, plus that of its children, if it had any."""

    @property
    def rows_per_second(self) -> float:
        """The speed."""
        return self.rows / self.seconds


@dataclass(frozen=True, slots=True)
class Timed:
    """Rows, and the time they took."""

    rows: int
    seconds: float
    cpu_seconds: float


class Clock:
    """Runs from when it is made."""

    def __init__(self) -> None:
        self._cpu, self._started = _cpu_seconds(), time.perf_counter()

    def stop(self, rows: int) -> Timed:
        """Returns the time until now, for these rows."""
        seconds = time.perf_counter() - self._started
        return Timed(rows, seconds, _cpu_seconds() - self._cpu)


def measure(read: Callable[[], int | Timed], children: int = 0) -> Reading:
    """Measures a function that reads rows and returns how many, or the time it took itself.

    Args:
        read: What to measure.
        children: Processes it starts; the largest counts that many times (those it shares memory
            with are counted whole, so this is an upper bound).
    """
    clock = Clock()
    result = read()
    timed = result if isinstance(result, Timed) else clock.stop(result)
    return Reading(timed.rows, timed.seconds, timed.cpu_seconds, peak_rss_mb(children))


def peak_rss_mb(children: int = 0) -> float:
    """Returns the highest resident memory of this process so far, in MB of 2**20 bytes.

    On Linux a new process begins with the `ru_maxrss` of the one that started it, so the kernel's
    mark for this program alone is taken where there is one.
    """
    kilobytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    status = Path("/proc/self/status")
    if status.exists():
        marks = [line for line in status.read_text().splitlines() if line.startswith("VmHWM:")]
        kilobytes = int(marks[0].split()[1])
    elif sys.platform == "darwin":
        kilobytes //= 1024  # bytes there
    kilobytes += children * resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    return kilobytes / 1024


def in_own_process(script: str, *arguments: str) -> list[Reading]:
    """Runs a script that calls `report`, in a fresh process, and returns the readings it reports.

    Args:
        script: Path of the script.
        arguments: Its arguments.
    """
    return [Reading(**each) for each in told_by(script, *arguments)]


def told_by(script: str, *arguments: str) -> Any:
    """Runs a script in a fresh process; what it prints last, as JSON.

    Args:
        script: Path of the script.
        arguments: Its arguments.
    """
    done = subprocess.run(
        [sys.executable, script, *arguments], stdout=subprocess.PIPE, text=True, check=True
    )
    return json.loads(done.stdout.splitlines()[-1])


def report(read: Callable[[], Sequence[Reading]]) -> None:
    """Prints readings for `in_own_process`, and nothing that the loaders print."""
    with contextlib.redirect_stdout(io.StringIO()):
        readings = read()
    print(json.dumps([asdict(reading) for reading in readings]), flush=True)


def _cpu_seconds() -> float:
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system
