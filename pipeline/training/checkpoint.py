"""Checkpoints of one run: written so that a process killed at any moment leaves a usable one.

A checkpoint is written beside its final name, brought to the disk and renamed; the newest few are
kept. It names the run's fingerprint, and one of another run is refused. Loading runs no code of
the file (`weights_only=True`).
"""

from __future__ import annotations

import logging
import os
import pickle
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from pipeline.errors import CheckpointError, TrainingError
from pipeline.lake import alone

log = logging.getLogger(__name__)

FORMAT_VERSION = 1
_NAME = re.compile(r"step-(\d{10})\.ckpt")
_PARTIAL = ".partial"


class CheckpointFolder:
    """The checkpoints of one run.

    Args:
        folder: Created when it is needed; holds nothing else.
        fingerprint: What the run is made of; checkpoints of another fingerprint are refused.
        keep: How many of the newest stay.
    """

    def __init__(self, folder: Path, fingerprint: str, keep: int = 2) -> None:
        self.folder = folder
        self._fingerprint = fingerprint
        self._keep = keep

    def save(self, step: int, state: Mapping[str, Any]) -> None:
        """Writes a checkpoint, then removes those that are too old.

        Args:
            step: Optimiser steps since the run began; at a step already saved the later one stays.
            state: Tensors, numbers, texts, and lists, tuples and dicts of them.

        Raises:
            CheckpointError: The disk refuses; the checkpoints before it are untouched.
        """
        final = self.folder / f"step-{step:010d}.ckpt"
        partial = final.with_suffix(_PARTIAL)
        content = {"format": FORMAT_VERSION, "fingerprint": self._fingerprint, "state": state}
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with partial.open("wb") as file:
                torch.save(content, file)
                file.flush()
                os.fsync(file.fileno())
            partial.replace(final)
            _bring_to_disk(self.folder)
            for old in self._files()[self._keep :]:
                old.unlink()
        except (OSError, RuntimeError) as error:  # torch reports a full disk as a RuntimeError
            partial.unlink(missing_ok=True)
            raise CheckpointError(
                str(final),
                f"cannot be written: {' '.join(str(error).split())}",
                "Make room or the folder writable and start again: the run goes on from its "
                "newest checkpoint.",
            ) from error

    def load(self) -> dict[str, Any] | None:
        """The newest state that can be read, on the CPU; None where the run has none yet.

        A damaged checkpoint is passed over with a warning, for the one before it.

        Raises:
            CheckpointError: There are checkpoints, but all are damaged, or of another run.
        """
        files = self._files()
        for path in files:
            try:
                return self._read(path)
            except CheckpointError as error:
                if path == files[-1]:
                    raise
                log.warning("%s", error)
        return None

    def remove(self) -> None:
        """Removes the folder with all checkpoints: the run needs them no more."""
        shutil.rmtree(self.folder, ignore_errors=True)

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Keeps a second process from training the same run at the same time.

        The operating system ends the lock with the process, however it dies.

        Raises:
            TrainingError: Another process holds it.
        """
        other = TrainingError(
            str(self.folder),
            "another process is training this run",
            "Wait for it, or stop it and start again: the run goes on from its newest checkpoint.",
        )
        with alone(self.folder / "lock", other):
            for left_over in self.folder.glob(f"*{_PARTIAL}"):
                left_over.unlink()
            yield

    def _files(self) -> list[Path]:
        """Finished checkpoints, newest first."""
        found = self.folder.glob("step-*.ckpt")
        return sorted((path for path in found if _NAME.fullmatch(path.name)), reverse=True)

    def _read(self, path: Path) -> dict[str, Any]:
        try:
            content = torch.load(path, map_location="cpu", weights_only=True)
            whose, version, state = (content[k] for k in ("fingerprint", "format", "state"))
        # torch and pickle raise whatever the damaged bytes lead them to.
        except (OSError, RuntimeError, EOFError, LookupError, TypeError, ValueError) as error:
            raise self._refused(path, f"is damaged: {' '.join(str(error).split())}") from error
        except pickle.UnpicklingError as error:
            raise self._refused(path, "is damaged, or holds more than numbers") from error
        if whose != self._fingerprint or version != FORMAT_VERSION:
            raise self._refused(path, f"belongs to another run ({whose}, format {version})")
        loaded: dict[str, Any] = state
        return loaded

    def _refused(self, path: Path, problem: str) -> CheckpointError:
        return CheckpointError(
            str(path), problem, f"Remove {self.folder} to train this run from its beginning."
        )


def _bring_to_disk(folder: Path) -> None:
    """Makes a rename in the folder survive a loss of power."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
