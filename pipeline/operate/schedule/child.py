"""The process of one attempt: started, listened to, and ended from outside if need be."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import IO

from pipeline.errors import one_line

LINES_KEPT = 50
LONGEST_ERROR = 500
# What a child wrote is read long before; only a grandchild that outlives it keeps the pipe open.
_DRAIN_SECONDS = 30
OURS = "lakestorm: "


@dataclass(frozen=True)
class Ended:
    """How a process ended and what it said last."""

    code: int
    """Exit code; minus the signal's number where one ended it."""
    output: str
    """Last line of standard output."""
    complaint: str
    """Our line of standard error, or else its last one."""

    @property
    def fault(self) -> str | None:
        """What went wrong in one line; None where nothing did."""
        if self.code == 0:
            return None
        if self.code > 0:
            return self.complaint or f"ended with exit code {self.code}"
        name = signal.Signals(-self.code).name
        return f"was ended by {name}" + (f"; last said: {self.complaint}" if self.complaint else "")


class Child:
    """A process in a session of its own: Ctrl-C in a terminal is the service's to handle.

    Args:
        command: Program and arguments.
        held: A descriptor that it inherits: the lock of the run.
        environment: Its environment.
    """

    def __init__(self, command: Sequence[str], held: int, environment: Mapping[str, str]) -> None:
        self._last: deque[str] = deque(maxlen=LINES_KEPT)
        self._output = tempfile.TemporaryFile()  # noqa: SIM115 (closed by `wait`)
        try:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=self._output,
                stderr=subprocess.PIPE,
                start_new_session=True,
                pass_fds=(held,),
                env=dict(environment),
            )
        except BaseException:
            self._output.close()
            raise
        self._listener = threading.Thread(
            target=self._listen, args=(self._process.stderr,), daemon=True
        )
        self._listener.start()

    def wait(self) -> Ended:
        """Waits until it has ended."""
        code = self._process.wait()
        if code < 0:
            # It could not tell its own children, such as Spark's JVM, to end.
            self._signal_all(signal.SIGKILL)
        self._listener.join(_DRAIN_SECONDS)
        with self._output:
            output = _last_line(self._output)
        return Ended(code, output, _complaint(list(self._last)))

    def terminate(self) -> None:
        """Asks it to end. Only the process itself: a training then writes its checkpoint."""
        self._process.terminate()

    def kill(self) -> None:
        """Ends it and all that it started."""
        if self._process.poll() is None:
            self._signal_all(signal.SIGKILL)

    def _signal_all(self, number: signal.Signals) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, number)

    def _listen(self, pipe: IO[bytes]) -> None:
        """Passes on what it says, and keeps the last of it."""
        with pipe:
            for line in pipe:
                text = line.decode(errors="replace")
                self._last.append(text)
                # Who reads our log may be gone, as Airflow is soon after it stopped us. The run
                # goes on, and would end at its next line if nobody read that here.
                with suppress(BrokenPipeError):
                    sys.stderr.write(text)
                    sys.stderr.flush()


def in_short(text: str) -> str:
    """A text as one line, not too long for logs and records."""
    shown = one_line(text)
    return shown if len(shown) <= LONGEST_ERROR else shown[: LONGEST_ERROR - 3] + "..."


def _complaint(lines: Sequence[str]) -> str:
    told = [in_short(line) for line in lines if line.strip()]
    ours = [line.removeprefix(OURS) for line in told if line.startswith(OURS)]
    return (ours or told or [""])[-1]


def _last_line(file: IO[bytes]) -> str:
    file.seek(0)
    last = b""
    for line in file:
        last = line.strip() or last
    return last.decode(errors="replace")
