"""What is made once a run of the tests, whatever the number of pytest's processes."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest


def made_once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], object]) -> Path:
    """Returns a folder that the first process to ask for it fills; the others wait for that.

    Tests read it and do not change it: those that would take a copy.

    Args:
        factory: Of this process's temporary folders.
        name: Of the folder.
        make: Fills the folder, which is there and empty.
    """
    common = factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        common = common.parent  # which all processes of the run share
    folder, done = common / name, common / f"{name}.done"
    with (common / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # until the file is closed, even by a process that dies
        if not done.exists():
            shutil.rmtree(folder, ignore_errors=True)  # half of it, if a process failed before
            folder.mkdir()
            make(folder)
            done.touch()
    return folder
