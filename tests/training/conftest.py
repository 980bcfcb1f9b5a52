from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from pipeline.lake import Lake

PROGRAM = """
import sys
from pipeline.training.tracking import open_client, tracking_uri
open_client(tracking_uri(sys.argv[1]), sys.argv[1])
"""


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    """Small networks gain nothing by more, and on a busy machine lose much."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@dataclass(frozen=True)
class NewMlflow:
    """What opening MLflow for the first time did, in a process of its own."""

    database: Path
    shown: str
    left_in_working_directory: list[str]


@pytest.fixture(scope="session")
def new_mlflow(tmp_path_factory: pytest.TempPathFactory) -> NewMlflow:
    """A database without runs: making one takes seconds, copying it none."""
    lake, work = tmp_path_factory.mktemp("a new lake"), tmp_path_factory.mktemp("work")
    environment = {k: v for k, v in os.environ.items() if k != "MLFLOW_TRACKING_URI"}
    done = subprocess.run(
        [sys.executable, "-W", "default", "-c", PROGRAM, str(lake)],
        cwd=work,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=True,
    )
    left = [path.name for path in work.iterdir()]
    return NewMlflow(lake / "mlflow.db", done.stdout, left)


@pytest.fixture
def lake(tmp_path: Path, new_mlflow: NewMlflow, monkeypatch: pytest.MonkeyPatch) -> Lake:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    folder = tmp_path / "a lake"
    folder.mkdir()
    shutil.copy(new_mlflow.database, folder)
    return Lake(folder)
