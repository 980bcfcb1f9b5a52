"""Locks on files of the lake: held by processes, and gone with them however they end."""

from __future__ import annotations

import fcntl
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event

from pipeline.errors import ScheduleError
from pipeline.lake import Lake, alone

log = logging.getLogger(__name__)

_TRY_AGAIN_SECONDS = 0.5


@contextmanager
def only_service(lake: Lake, pipeline: str) -> Iterator[None]:
    """Holds the place of the one service that a pipeline has.

    Raises:
        ScheduleError: Another process has it.
    """
    other = ScheduleError(
        f"pipeline {pipeline}",
        f"is scheduled already: another service of it runs on the lake {lake.root}",
        "Stop that one first, by SIGTERM.",
    )
    with alone(_path(lake, f"{pipeline}.service"), other):
        yield


class RunLock:
    """One run of a pipeline at a time, whoever started it: the service or `--once`.

    Jobs of one pipeline write the same tables. Commits are atomic, so two at a time would do no
    harm; but each would plan on tables that the other changes under it, and work for nothing where
    the other commits first, and two Sparks rarely fit a machine that one was sized for.

    The child inherits the lock's descriptor: after its service was killed, it still holds the
    lock until it ends, and a restarted service waits for it instead of running beside it.

    Args:
        lake: The lake.
        pipeline: The pipeline's name.
    """

    def __init__(self, lake: Lake, pipeline: str) -> None:
        self._file = _path(lake, f"{pipeline}.run")

    @contextmanager
    def held(self, give_up: Event) -> Iterator[int | None]:
        """Waits for the lock.

        Args:
            give_up: Ends the wait when it is set.

        Yields:
            The descriptor that holds it, for a child to inherit; None after giving up.
        """
        with self._file.open("w") as file:
            got = _taken(file.fileno())
            if not got and not give_up.is_set():
                log.info("waiting: another run of this pipeline is going on")
            while not got and not give_up.wait(_TRY_AGAIN_SECONDS):
                got = _taken(file.fileno())
            try:
                yield file.fileno() if got else None
            finally:
                if got:
                    # Closing would not do: a grandchild that outlives its parent keeps a copy.
                    fcntl.flock(file, fcntl.LOCK_UN)


def _taken(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _path(lake: Lake, name: str) -> Path:
    folder = lake.work("schedule")
    folder.mkdir(parents=True, exist_ok=True)
    return folder / f"{name}.lock"
