"""A lock on a file that one process has at a time, and that is gone with it however it ends."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipeline.errors import LakestormError


@contextmanager
def alone(lock: Path, taken: LakestormError) -> Iterator[None]:
    """Holds a lock while the block runs; does not wait for it.

    Args:
        lock: The file, created with its folder where it is missing.
        taken: Raised where another process holds it.
    """
    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise taken from error
        yield
