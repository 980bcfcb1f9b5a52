"""Training on a stream in a process of its own, which says where it is and so can be killed there.

The log has a line for each step, and is what proves which rows the optimiser saw:

    resumed 12          a process begins behind step 12, as its checkpoint says
    step 13 0 7 4 1     step 13 is about to be taken, in epoch 0, with the rows 7, 4 and 1

A step is logged before it is taken. A step that was taken but not logged would be a row seen in
secret if a checkpoint kept it; one that was logged but not taken lies behind the last checkpoint,
as the process that would have written the next is dead, and is void like all that lie there. What
was written is with the system and outlives the process, so nothing is brought to the disk.
"""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

import torch
import torch._dynamo  # the first optimiser would import it, in over a second
from torch import nn

from pipeline.stream import BatchLayout, Stream
from pipeline.stream.cache import CacheSettings
from pipeline.training.checkpoint import CheckpointFolder

LAYOUT = BatchLayout(
    matrices={"numeric": ("num_a", "num_b")}, scalars={"id": "id", "label": "late"}
)


@dataclass(frozen=True, kw_only=True)
class Training:
    """What is trained, and where its log and checkpoints are."""

    files: list[str]
    folder: Path
    epochs: int
    checkpoint_every_steps: int
    cached: bool

    @property
    def log(self) -> Path:
        return self.folder / "steps.log"

    @property
    def checkpoints(self) -> CheckpointFolder:
        return CheckpointFolder(self.folder / "checkpoints", "killed")

    def stream(self) -> Stream:
        cache = CacheSettings(folder=str(self.folder / "cache"), max_bytes=1 << 20)
        return Stream(
            self.files,
            LAYOUT,
            rows_per_batch=12,
            seed=5,
            shuffle_window_rows=96,
            workers_count=2,
            cache=cache if self.cached else None,
        )


def train(training: Training, to: Connection, most_steps: int | None) -> None:
    """Trains from the newest checkpoint on, and sends a word at each point of each step.

    Args:
        training: What to train.
        to: Where to send the words; "done" is the last.
        most_steps: After so many steps, wait to be killed; else whoever kills could come too late.
    """
    torch.set_num_threads(1)
    log = os.open(training.log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    with training.stream() as stream:
        run = _Run(training, stream)
        # The line of the process before may have been cut short.
        os.write(log, f"\nresumed {run.step}\n".encode())
        to.send("resumed")
        first_step = run.step
        while run.epoch < training.epochs:
            for batch in stream.epoch(run.epoch):
                if run.step - first_step == most_steps:
                    signal.pause()
                ids = " ".join(map(str, batch.tensors["id"].tolist()))
                os.write(log, f"step {run.step + 1} {run.epoch} {ids}\n".encode())
                to.send("logged")
                run.take(batch.tensors["numeric"] / 1_000, batch.tensors["label"])
                to.send("taken")
                if run.step % training.checkpoint_every_steps == 0:
                    run.save()
                    to.send("saved")
            run.epoch += 1
            run.save()
    to.send("done")


class _Run:
    """What a checkpoint freezes."""

    def __init__(self, training: Training, stream: Stream) -> None:
        torch.manual_seed(0)
        self.step = 0
        self.epoch = 0
        self._stream = stream
        self._checkpoints = training.checkpoints
        self._module = nn.Linear(2, 1)
        self._optimiser = torch.optim.SGD(self._module.parameters(), lr=0.01, momentum=0.9)
        state = self._checkpoints.load()
        if state is not None:
            self._module.load_state_dict(state["module"])
            self._optimiser.load_state_dict(state["optimiser"])
            self._stream.load_state_dict(state["stream"])
            self.step, self.epoch = state["step"], state["epoch"]

    def take(self, numeric: torch.Tensor, label: torch.Tensor) -> None:
        self._optimiser.zero_grad()
        logits = self._module(numeric).squeeze(1)
        nn.functional.binary_cross_entropy_with_logits(logits, label).backward()
        self._optimiser.step()
        self.step += 1

    def save(self) -> None:
        state = {
            "module": self._module.state_dict(),
            "optimiser": self._optimiser.state_dict(),
            "stream": self._stream.state_dict(),
            "step": self.step,
            "epoch": self.epoch,
        }
        self._checkpoints.save(self.step, state)
