"""A network of a user's own that does to its process, once it is asked to, what can befall one."""

from __future__ import annotations

import json
import os
import resource
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import torch
from torch import Tensor, nn

from pipeline.training.networks import Shapes


class Faulty(nn.Module):
    """A small perceptron; `plan` names a file that says what goes wrong, where and how often."""

    def __init__(self, shapes: Shapes, outputs: int, plan: str) -> None:
        super().__init__()
        width = shapes.numeric
        self.layers = nn.Sequential(nn.Linear(width, 8), nn.ReLU(), nn.Linear(8, outputs))
        self._plan = Path(plan)
        self._steps = 0

    def forward(self, inputs: dict[str, Tensor]) -> Tensor:
        outputs: Tensor = self.layers(inputs["numeric"])
        if self.training and len(outputs) != 2:  # lakestorm tries a network on two rows
            self._steps += 1
            how = self._due()
            if how == "nan":
                return outputs * torch.nan
            if how is not None:
                BEFALL[how]()
        return outputs

    def _due(self) -> str | None:
        if not self._plan.exists():
            return None
        plan: dict[str, Any] = json.loads(self._plan.read_text())
        here = plan["rank"] == int(os.environ.get("RANK", "0")) and self._steps == plan["step"]
        if not here or plan["times"] == 0:
            return None
        # Renamed into place: another rank may be reading it.
        partial = self._plan.with_suffix(".partial")
        partial.write_text(json.dumps({**plan, "times": plan["times"] - 1}))
        partial.replace(self._plan)
        return str(plan["how"])


def _hang() -> None:
    while True:
        time.sleep(1)


def _executor() -> int:
    """The JVM that Spark runs this process's task in."""
    for ancestor in psutil.Process().parents():
        if any("CoarseGrainedExecutorBackend" in word for word in ancestor.cmdline()):
            return int(ancestor.pid)
    raise ProcessLookupError("no executor above this process")


def _raise() -> None:
    raise KeyError("a bug of my own")


BEFALL: dict[str, Callable[[], object]] = {
    "executor": lambda: os.kill(_executor(), signal.SIGKILL),
    "kill": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "hang": _hang,
    "term": lambda: os.kill(os.getppid(), signal.SIGTERM),
    "freeze": lambda: os.kill(os.getpid(), signal.SIGSTOP),
    # What the system says to the next large write, whichever limit it is that is reached.
    "full": lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (1000, resource.RLIM_INFINITY)),
    "raise": _raise,
}
