"""Training in a process of its own, which tells of each step and so can be killed at one."""

from __future__ import annotations

from multiprocessing.connection import Connection
from pathlib import Path

import torch

from pipeline.lake import Lake
from pipeline.training.progress import ProgressReport
from pipeline.training.stage import train
from tests.training import examples


def train_telling(root: Path, to: Connection) -> None:
    """Trains on the lake at `root`; sends one word a step and one at the end."""
    torch.set_num_threads(1)
    step = ProgressReport.step

    def telling(self: ProgressReport, rows: int, loss: float) -> None:
        step(self, rows, loss)
        to.send("step")

    ProgressReport.step = telling  # type: ignore[method-assign]
    lake, spec = Lake(root), examples.spec()
    train(
        examples.pipeline(lake), lake, spec, features_for=lambda of: lake.table(of.table).snapshot()
    )
    to.send("done")
