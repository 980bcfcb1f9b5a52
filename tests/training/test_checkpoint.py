from __future__ import annotations

import errno
import logging
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline.errors import CheckpointError, TrainingError
from pipeline.training.checkpoint import CheckpointFolder


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_the_newest_few_are_kept_and_the_newest_is_loaded(tmp_path: Path) -> None:
    checkpoints = CheckpointFolder(tmp_path / "run", "f", keep=2)
    assert checkpoints.load() is None
    for step in (9, 10, 100):
        checkpoints.save(step, {"step": step, "tensor": torch.full((3,), float(step))})
    assert names(tmp_path / "run") == ["step-0000000010.ckpt", "step-0000000100.ckpt"]
    state = checkpoints.load()
    assert state is not None
    assert state["step"] == 100
    assert torch.equal(state["tensor"], torch.full((3,), 100.0))


def test_what_a_kill_left_half_written_is_never_loaded(tmp_path: Path) -> None:
    checkpoints = CheckpointFolder(tmp_path, "f")
    checkpoints.save(1, {"step": 1})
    (tmp_path / "step-0000000002.partial").write_bytes(b"half")
    with checkpoints.alone():
        assert checkpoints.load() == {"step": 1}
        assert "step-0000000002.partial" not in names(tmp_path)


@pytest.mark.parametrize("keep_bytes", [0, 10, 500, -1])
def test_a_damaged_one_is_passed_over_with_a_warning(
    tmp_path: Path, keep_bytes: int, caplog: pytest.LogCaptureFixture
) -> None:
    checkpoints = CheckpointFolder(tmp_path, "f")
    for step in (1, 2):
        checkpoints.save(step, {"step": step})
    newest = tmp_path / "step-0000000002.ckpt"
    newest.write_bytes(newest.read_bytes()[:keep_bytes])
    with caplog.at_level(logging.WARNING):
        assert checkpoints.load() == {"step": 1}
    assert newest.name in caplog.text


def test_if_all_are_damaged_the_run_does_not_silently_begin_again(tmp_path: Path) -> None:
    checkpoints = CheckpointFolder(tmp_path, "f")
    (tmp_path / "step-0000000002.ckpt").write_bytes(b"damaged")
    with pytest.raises(CheckpointError, match="Remove"):
        checkpoints.load()


def test_one_of_another_run_is_refused(tmp_path: Path) -> None:
    CheckpointFolder(tmp_path, "one").save(1, {})
    with pytest.raises(CheckpointError, match="another run"):
        CheckpointFolder(tmp_path, "two").load()


def test_loading_runs_no_code_of_the_file(tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> Any:
            return (Path.touch, (tmp_path / "exploded",))

    path = tmp_path / "step-0000000001.ckpt"
    torch.save({"fingerprint": "f", "format": 1, "state": Bomb()}, path)
    with pytest.raises(CheckpointError):
        CheckpointFolder(tmp_path, "f").load()
    assert not (tmp_path / "exploded").exists()


def test_a_full_disk_leaves_the_checkpoint_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoints = CheckpointFolder(tmp_path, "f")
    checkpoints.save(1, {"step": 1})

    def full(_descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(CheckpointError, match="No space left"):
            checkpoints.save(2, {"step": 2})
    assert names(tmp_path) == ["step-0000000001.ckpt"]
    assert checkpoints.load() == {"step": 1}


def test_two_processes_do_not_train_the_same_run(tmp_path: Path) -> None:
    program = (
        "import sys, pathlib\n"
        "from pipeline.errors import TrainingError\n"
        "from pipeline.training.checkpoint import CheckpointFolder\n"
        "try:\n"
        "    with CheckpointFolder(pathlib.Path(sys.argv[1]), 'f').alone(): print('alone')\n"
        "except TrainingError: print('refused')\n"
    )

    command = [sys.executable, "-c", program, str(tmp_path)]
    checkpoints = CheckpointFolder(tmp_path, "f")
    with checkpoints.alone():
        other = subprocess.run(command, capture_output=True, text=True, check=True)
        assert other.stdout.strip() == "refused"
        with pytest.raises(TrainingError, match="another process"), checkpoints.alone():
            pass
    with checkpoints.alone():
        pass
