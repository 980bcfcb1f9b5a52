"""What a network is trained for: its task, with a loss, a metric and weights of the classes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pipeline.config import TaskName
from pipeline.training.bundle import Bundle
from pipeline.training.networks import NetworkModule, rebuilt_from
from pipeline.training.splits import Rows
from pipeline.training.tasks import LOSSES, METRICS, TASKS, Task


@dataclass(frozen=True, kw_only=True)
class Objective:
    """The task of a pipeline, with what was chosen for it."""

    task: TaskName
    loss: str
    """One of the task's `losses`."""
    metric: str
    """One of the task's `metrics`: decides which epoch and which model is better."""
    class_weights: tuple[float, ...] = ()
    """What the rows of each class count in the loss; none where all count the same."""

    @classmethod
    def of(
        cls,
        task: TaskName,
        loss: str | None,
        metric: str | None,
        class_weights: tuple[float, ...] = (),
    ) -> Objective:
        """The task with what was chosen, or its defaults."""
        return cls(
            task=task,
            loss=loss or LOSSES[task][0],
            metric=metric or METRICS[task][0],
            class_weights=class_weights,
        )

    def weights(self, rows: Rows) -> Tensor | None:
        """What each row counts in the loss: its own weight times its class's.

        Returns:
            Float32 [rows]; None where all rows count the same.
        """
        if not self.class_weights or rows.labels is None:
            return rows.weights
        classes = torch.tensor(self.class_weights, device=rows.labels.device)
        by_class = classes[rows.labels.long()]
        return by_class if rows.weights is None else by_class * rows.weights

    def loss_sum(self, outputs: Tensor, rows: Rows) -> Tensor:
        """The sum over rows of weight times loss; 0 with zero gradients where there is no row.

        Args:
            outputs: Float [rows, outputs] of the network.
            rows: What the outputs were computed from, with labels and weights.

        Returns:
            A scalar.
        """
        loss = self._definition.losses[self.loss]
        return loss(outputs, self._target(rows, outputs.dtype), self.weights(rows))

    def evidence(self, outputs: Tensor, rows: Rows) -> Tensor:
        """What the metrics need of each row, float64 [rows, k]; weights are not looked at."""
        exact = outputs.detach().double()
        return self._definition.evidence(self.loss, exact, self._target(rows, exact.dtype))

    def predictions(self, outputs: Tensor, rows: Rows) -> dict[str, Tensor]:
        """What is told of each row, by name, see `Task.predictions`.

        Args:
            outputs: Float [rows, outputs] of the network in evaluation mode.
            rows: What they were computed from; labels are not looked at.
        """
        task = self._definition
        target = rebuilt_from(rows.inputs, outputs.dtype) if task.rebuilds else None
        return task.predictions(self.loss, outputs, target)

    @property
    def _definition(self) -> Task:
        return TASKS[self.task]

    def _target(self, rows: Rows, dtype: torch.dtype) -> Tensor:
        """The labels, or what is rebuilt."""
        if self._definition.rebuilds:
            return rebuilt_from(rows.inputs, dtype)
        if rows.labels is None:
            raise TypeError(f"rows of the task {self.task} have labels where they are learned from")
        return rows.labels


def objective_of(bundle: Bundle) -> Objective:
    """What a finished model was trained for, with the task's usual metric."""
    return Objective.of(bundle.facts.task, bundle.facts.loss, None)


@contextmanager
def evaluating(module: nn.Module, seed: int) -> Iterator[None]:
    """The network in evaluation mode; an autoencoder samples, by `seed`, as its loss asks for.

    With the latent mean instead of a sample, the loss would come out lower than the bound that a
    variational autoencoder is compared by.
    """
    module.eval()
    if not isinstance(module, NetworkModule) or not module.samples:
        yield
        return
    module.sampling = True
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            yield
    finally:
        module.sampling = False
