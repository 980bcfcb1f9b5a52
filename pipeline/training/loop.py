"""The training loop: epochs over a stream, early stopping, and resuming to the same curve.

All that decides how a run goes on is in its checkpoint: weights, optimiser, random generators, the
stream's position and the run's own `Position`. So a run that was killed and started again does, on
the CPU with the same number of threads, bit for bit what it would have done.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from pipeline.config import Train
from pipeline.errors import TrainingError
from pipeline.stream import Stream
from pipeline.training.checkpoint import CheckpointFolder
from pipeline.training.metrics import Meter, Metrics
from pipeline.training.progress import ProgressReport
from pipeline.training.splits import Inputs, inputs

Weights = dict[str, Tensor]


@dataclass(frozen=True, kw_only=True)
class EpochRecord:
    """What one epoch came to."""

    epoch: int
    """Counted from 0."""
    train_loss: float
    """Mean over the epoch's rows, each with the weights of its step, dropout on."""
    validation: Metrics
    """After the epoch's last step."""


@dataclass(frozen=True, kw_only=True)
class Fitted:
    """What training gives."""

    weights: Weights
    """Of the best epoch, on the CPU."""
    best: EpochRecord
    history: tuple[EpochRecord, ...]


@dataclass(kw_only=True)
class Position:
    """How far a run has come."""

    epoch: int = 0
    """The epoch in work."""
    step: int = 0
    """Optimiser steps since the run began."""
    steps_in_epoch: int = 0
    loss_sum: float = 0.0
    """Of this epoch's rows so far."""
    loss_rows: int = 0
    history: list[EpochRecord] = field(default_factory=list)

    @property
    def best(self) -> EpochRecord:
        """The record of the highest validation AUROC; of equal ones the earliest."""
        return max(self.history, key=lambda record: record.validation.auroc)

    def finished(self, settings: Train) -> bool:
        """Whether all epochs are done, or too many have passed without a better one."""
        if not self.history:
            return False
        since_best = self.epoch - 1 - self.best.epoch
        return self.epoch >= settings.epochs or since_best >= settings.patience_epochs

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Position:
        """The position that `dataclasses.asdict` was called on."""
        history = [
            EpochRecord(**{**record, "validation": Metrics(**record["validation"])})
            for record in values["history"]
        ]
        return cls(**{**values, "history": history})


def fit(
    module: nn.Module,
    train: Stream,
    validation: Stream,
    settings: Train,
    *,
    seed: int,
    device: torch.device,
    checkpoints: CheckpointFolder,
    progress: ProgressReport,
    on_history: Callable[[Sequence[EpochRecord]], None],
) -> Fitted:
    """Trains until the last epoch or until validation AUROC has stopped rising.

    Goes on from the newest checkpoint where there is one.

    Args:
        module: The network with its initial weights; changed in place.
        train: Shuffled batches of the train split.
        validation: Batches of the validation split, in any order.
        settings: Section `train` of the pipeline.
        seed: Of dropout; torch's own generator is left as it was.
        device: Where to train.
        checkpoints: Of this run alone.
        progress: Told of every step and epoch.
        on_history: Given all epochs so far, at the start and after each epoch.

    Raises:
        TrainingError: The loss is not a number, or the validation split has not both classes.
        CheckpointError: A checkpoint cannot be written, or none of those there can be read.
    """
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        run = _Run(module.to(device), train, settings, device, checkpoints)
        run.resume()
        on_history(run.position.history)
        while not run.position.finished(settings):
            run.train_epoch(progress)
            run.end_epoch(evaluate(run.module, validation, device), progress)
            on_history(run.position.history)
        history = tuple(run.position.history)
        return Fitted(weights=run.best_weights, best=run.position.best, history=history)


def predict(
    module: nn.Module, stream: Stream, device: torch.device
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yields logits, float32 [rows], and labels, float32 [rows], of each batch of a stream.

    The network is left in evaluation mode.
    """
    module.eval()
    for batch in stream.epoch(0):
        rows = inputs(batch, device)
        with torch.inference_mode():
            logits = module(rows.numeric, rows.categorical)
        yield logits, rows.labels


def evaluate(module: nn.Module, stream: Stream, device: torch.device) -> Metrics:
    """Measures a network over all rows of a stream; leaves it in evaluation mode."""
    meter = Meter()
    for logits, labels in predict(module, stream, device):
        meter.update(logits, labels)
    return meter.compute()


class _Run:
    """The live parts of a run, which a checkpoint freezes together."""

    def __init__(
        self,
        module: nn.Module,
        stream: Stream,
        settings: Train,
        device: torch.device,
        checkpoints: CheckpointFolder,
    ) -> None:
        self.module = module
        self.position = Position()
        self.best_weights: Weights = {}
        self._stream = stream
        self._settings = settings
        self._device = device
        self._checkpoints = checkpoints
        # Without decay AdamW is Adam; with it, decay must not pass through the moments.
        # Source: Loshchilov and Hutter, https://arxiv.org/abs/1711.05101
        self._optimiser = torch.optim.AdamW(
            module.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay
        )

    def train_epoch(self, progress: ProgressReport) -> None:
        """Takes the steps that are left of the epoch in work."""
        here = self.position
        self.module.train()
        progress.begin_epoch(here.epoch, self._stream.steps_per_epoch, here.steps_in_epoch)
        for batch in self._stream.epoch(here.epoch):
            loss = self._step(inputs(batch, self._device))
            here.step += 1
            here.steps_in_epoch += 1
            here.loss_sum += loss * batch.rows
            here.loss_rows += batch.rows
            progress.step(batch.rows, loss)
            if here.step % self._settings.checkpoint_every_steps == 0:
                self._checkpoint(self._stream.state_dict())

    def end_epoch(self, validation: Metrics, progress: ProgressReport) -> None:
        """Closes the epoch in work with its validation metrics, and keeps the best weights."""
        here = self.position
        if math.isnan(validation.auroc) or not math.isfinite(validation.log_loss):
            raise TrainingError(
                f"validation split, epoch {here.epoch + 1}",
                f"{validation.rows} rows gave AUROC {validation.auroc} and log-loss "
                f"{validation.log_loss}",
                "Choose features.splits.validation so that both classes occur in it, and look for "
                "values in its features that are not finite.",
            )
        train_loss = here.loss_sum / here.loss_rows
        record = EpochRecord(epoch=here.epoch, train_loss=train_loss, validation=validation)
        here.history.append(record)
        best = here.best is record
        if best:
            state = self.module.state_dict()
            self.best_weights = {name: tensor.cpu().clone() for name, tensor in state.items()}
        here.epoch += 1
        here.steps_in_epoch, here.loss_sum, here.loss_rows = 0, 0.0, 0
        self._checkpoint(None)
        progress.end_epoch(record.epoch, train_loss, validation, best)

    def resume(self) -> None:
        """Takes everything from the newest checkpoint, if there is one."""
        state = self._checkpoints.load()
        if state is None:
            return
        self.module.load_state_dict(state["module"])
        self._optimiser.load_state_dict(state["optimiser"])
        self.best_weights = state["best_weights"]
        self.position = Position.from_dict(state["position"])
        if state["stream"] is not None:
            self._stream.load_state_dict(state["stream"])
        torch.set_rng_state(state["rng"]["cpu"])
        if self._device.type == "cuda" and "cuda" in state["rng"]:
            torch.cuda.set_rng_state(state["rng"]["cuda"], self._device)

    def _step(self, rows: Inputs) -> float:
        self._optimiser.zero_grad(set_to_none=True)
        logits = self.module(rows.numeric, rows.categorical)
        loss = functional.binary_cross_entropy_with_logits(logits, rows.labels)
        value = loss.item()
        if not math.isfinite(value):
            raise TrainingError(
                f"step {self.position.step + 1}, epoch {self.position.epoch + 1}",
                f"the loss is {value}",
                "Lower train.learning_rate, or look for values in the features that are not "
                "finite or far from all others.",
            )
        loss.backward()  # type: ignore[no-untyped-call]
        self._optimiser.step()
        return value

    def _checkpoint(self, stream: Mapping[str, Any] | None) -> None:
        """Freezes the run; `stream` is None between epochs, when no epoch has begun."""
        rng = {"cpu": torch.get_rng_state()}
        if self._device.type == "cuda":
            rng["cuda"] = torch.cuda.get_rng_state(self._device)
        state = {
            "module": self.module.state_dict(),
            "optimiser": self._optimiser.state_dict(),
            "best_weights": self.best_weights,
            "position": asdict(self.position),
            "stream": stream,
            "rng": rng,
        }
        self._checkpoints.save(self.position.step, state)
