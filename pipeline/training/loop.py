"""The training loop: epochs over a stream, early stopping, and resuming to the same curve.

Every rank runs it, over its part of each global batch. All that decides how a run goes on is in its
checkpoint: weights, optimiser, schedule, each rank's random generator, the stream's position and
the run's own `Position`. So a run that was killed and started again does, on the CPU with the same
ranks and threads, bit for bit what it would have done.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils import clip_grad_norm_

from pipeline.config import Train
from pipeline.errors import StoppedError, TrainingError, WorkerLostError
from pipeline.stream import Batch, Stream
from pipeline.training.checkpoint import CheckpointFolder
from pipeline.training.guard import StopRequest, Watch
from pipeline.training.metrics import Meter, Metrics, is_better
from pipeline.training.networks import weights_type
from pipeline.training.objective import Objective, evaluating
from pipeline.training.optimiser import optimiser_of
from pipeline.training.progress import ProgressReport
from pipeline.training.ranks import Ranks
from pipeline.training.schedule import schedule_of
from pipeline.training.splits import Rows, rows_of

log = logging.getLogger(__name__)

Weights = dict[str, Tensor]


@dataclass(frozen=True, kw_only=True)
class EpochRecord:
    """What one epoch came to."""

    epoch: int
    """Counted from 0."""
    train_loss: float
    """Mean over the epoch's rows of all ranks, each with the weights of its step, dropout on."""
    validation: Metrics
    """After the epoch's last step."""
    steps_skipped: int = 0
    """Whose loss was no number."""


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

    metric: str
    """What decides which epoch is best."""
    epoch: int = 0
    """The epoch in work."""
    step: int = 0
    """Steps since the run began."""
    steps_in_epoch: int = 0
    steps_skipped: int = 0
    """Of this epoch."""
    loss_sum: float = 0.0
    """Of this epoch's rows so far."""
    loss_rows: float = 0
    """How many these rows are; or what they weigh together, where they have weights."""
    history: list[EpochRecord] = field(default_factory=list)

    @property
    def best(self) -> EpochRecord:
        """The record of the best validation metric; of equal ones the earliest."""
        best = self.history[0]
        for record in self.history[1:]:
            values = [one.validation.values[self.metric] for one in (record, best)]
            best = record if is_better(self.metric, *values) else best
        return best

    def finished(self, settings: Train) -> bool:
        """Whether all epochs are done, or too many have passed without a better one."""
        if not self.history:
            return False
        since_best = self.epoch - 1 - self.best.epoch
        return self.epoch >= settings.epochs or since_best >= settings.patience_epochs

    def to_dict(self) -> dict[str, Any]:
        """Plain values; `from_dict` takes them back."""
        history = [
            {**asdict(record), "validation": record.validation.to_dict()} for record in self.history
        ]
        return {**asdict(replace(self, history=[])), "history": history}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Position:
        """The position that `to_dict` was called on."""
        history = [
            EpochRecord(**{**record, "validation": Metrics.from_dict(record["validation"])})
            for record in values["history"]
        ]
        return cls(**{**values, "history": history})


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What a run needs beside the network and the rows."""

    settings: Train
    objective: Objective
    seed: int
    """Of dropout and sampling; torch's own generator is left as it was."""
    checkpoints: CheckpointFolder
    """Of this run alone."""
    progress: ProgressReport
    """Told of every step and epoch."""
    ranks: Ranks = Ranks()  # noqa: RUF009 - immutable
    stop: StopRequest = field(default_factory=StopRequest)
    on_history: Callable[[Sequence[EpochRecord]], None] = lambda _: None
    """On the first rank given all epochs so far, at the start and after each epoch."""


def fit(module: nn.Module, train: Stream, validation: Stream, setting: Setting) -> Fitted:
    """Trains until the last epoch or until the validation metric has stopped getting better.

    Goes on from the newest checkpoint where there is one. Every rank calls it.

    Args:
        module: The network with its initial weights; changed in place.
        train: This rank's shuffled batches of the train split.
        validation: This rank's batches of the validation split, in any order.
        setting: All else.

    Raises:
        TrainingError: The loss is not a number, the validation split allows no metric, or no batch
            is full and the last is to be dropped.
        StoppedError: The process was asked to stop; a checkpoint is written.
        CheckpointError: A checkpoint cannot be written, or none of those there can be read.
    """
    if not train.steps_per_epoch:
        raise TrainingError(
            "train.last_batch",
            f"drops all of an epoch: {train.rows} train rows do not fill a batch of "
            f"{setting.settings.rows_per_batch}",
            "Lower train.rows_per_batch, or set last_batch: keep.",
        )
    device = setting.ranks.device
    watch = Watch(setting.settings.hang_seconds)
    with (
        torch.random.fork_rng(devices=[device] if device.type == "cuda" else []),
        setting.stop.listening(),
        watch.watching(),
    ):
        # Each rank drops other units and draws other samples.
        torch.manual_seed(setting.seed + setting.ranks.rank)
        run = _Run(module.to(device), train, setting, watch)
        run.resume()
        run.tell_history()
        while not run.position.finished(setting.settings):
            run.train_epoch()
            run.end_epoch(run.evaluate(validation))
            run.tell_history()
        history = tuple(run.position.history)
        return Fitted(weights=run.best_weights, best=run.position.best, history=history)


def fitted_of(checkpoints: CheckpointFolder) -> Fitted:
    """What a run that has ended gave, by its newest checkpoint.

    Raises:
        TrainingError: There is none.
    """
    state = checkpoints.load()
    position = None if state is None else Position.from_dict(state["position"])
    if state is None or position is None or not position.history:
        raise TrainingError(
            str(checkpoints.folder), "holds no checkpoint of a finished epoch", "Train again."
        )
    return Fitted(
        weights=state["best_weights"], best=position.best, history=tuple(position.history)
    )


def predict(
    module: nn.Module, stream: Stream, ranks: Ranks, objective: Objective, seed: int = 0
) -> Iterator[Tensor]:
    """Yields the evidence of each of this rank's batches, float64 [rows, k].

    The network is left in evaluation mode.
    """
    dtype = weights_type(module)
    with evaluating(module, seed + ranks.rank):
        for batch in stream.epoch(0):
            rows = rows_of(batch, ranks.device, dtype)
            with torch.inference_mode():
                yield objective.evidence(module(rows.inputs), rows)


def evaluate(
    module: nn.Module, stream: Stream, ranks: Ranks, objective: Objective, seed: int = 0
) -> Metrics:
    """Measures a network over all rows of a stream; leaves it in evaluation mode."""
    meter = Meter(objective.task, ranks)
    for evidence in predict(module, stream, ranks, objective, seed):
        meter.update(evidence)
    return meter.compute()


class _Run:
    """The live parts of a run, which a checkpoint freezes together."""

    def __init__(self, module: nn.Module, stream: Stream, setting: Setting, watch: Watch) -> None:
        self._setting, self._settings, self._ranks = setting, setting.settings, setting.ranks
        self.module = module.double() if self._settings.precision == "float64" else module
        self.position = Position(metric=setting.objective.metric)
        self.best_weights: Weights = {}
        self._stream = stream
        self._watch = watch
        self._optimiser = optimiser_of(module, self._settings)
        steps = self._settings.epochs * stream.steps_per_epoch
        self._schedule = schedule_of(self._optimiser, self._settings, steps)
        self._parallel = self._in_parallel()
        self._network = torch.compile(self._parallel) if self._settings.compile else self._parallel
        self._saved_at = time.monotonic()

    def train_epoch(self) -> None:
        """Takes the steps that are left of the epoch in work."""
        here, progress = self.position, self._setting.progress
        self.module.train()
        progress.begin_epoch(here.epoch, self._stream.steps_per_epoch, here.steps_in_epoch)
        then = here.epoch + 1 if here.epoch + 1 < self._settings.epochs else None
        for batch in progress.waiting(self._stream.epoch(here.epoch, then=then)):
            loss_sum, weight, due = self._step(batch)
            here.step += 1
            here.steps_in_epoch += 1
            if math.isfinite(loss_sum):
                here.loss_sum += loss_sum
                here.loss_rows += weight
            else:
                here.steps_skipped += 1
            progress.step(batch.global_rows, loss_sum / weight if weight else 0.0)
            self._watch.progress()
            if due.stop:
                self._stop(self._stream.state_dict())
            if due.checkpoint or here.step % self._settings.checkpoint_every_steps == 0:
                self._checkpoint(self._stream.state_dict())

    def evaluate(self, validation: Stream) -> Metrics:
        """Measures the validation split; a request to stop is heard between its batches."""
        meter = Meter(self._setting.objective.task, self._ranks)
        objective, seed = self._setting.objective, self._setting.seed
        for evidence in predict(self.module, validation, self._ranks, objective, seed):
            meter.update(evidence)
            self._watch.progress()
            if self._ranks.any(self._setting.stop.is_set):
                self._stop(self._stream.state_dict())
        return meter.compute()

    def end_epoch(self, validation: Metrics) -> None:
        """Closes the epoch in work with its validation metrics, and keeps the best weights."""
        here, metric = self.position, self._setting.objective.metric
        if not math.isfinite(validation.values[metric]):
            raise TrainingError(
                f"validation split, epoch {here.epoch + 1}",
                f"{validation.rows} rows gave {validation}",
                "Choose features.splits.validation so that rows of every class meet it, and look "
                "for values in its features that are not finite.",
            )
        if not here.loss_rows:
            skipped = here.steps_skipped > 0
            raise TrainingError(
                f"epoch {here.epoch + 1}",
                f"the loss was no number in any of its {here.steps_in_epoch} steps"
                if skipped
                else "all its rows weigh 0",
                _NAN_REMEDY if skipped else "Let features.weight be above 0 for some train rows.",
            )
        record = EpochRecord(
            epoch=here.epoch,
            train_loss=here.loss_sum / here.loss_rows,
            validation=validation,
            steps_skipped=here.steps_skipped,
        )
        here.history.append(record)
        best = here.best is record
        if best:
            state = self.module.state_dict()
            self.best_weights = {name: tensor.cpu().clone() for name, tensor in state.items()}
        here.epoch += 1
        here.steps_in_epoch, here.steps_skipped, here.loss_sum, here.loss_rows = 0, 0, 0.0, 0
        self._checkpoint(None)
        self._setting.progress.end_epoch(record.epoch, record.train_loss, validation, best)

    def tell_history(self) -> None:
        """Tells of all epochs so far, once over all ranks."""
        if self._ranks.is_first:
            self._setting.on_history(self.position.history)
        self._watch.progress()

    def resume(self) -> None:
        """Takes everything from the newest checkpoint, if there is one."""
        state = self._setting.checkpoints.load()
        newest = -1 if state is None else state["position"]["step"]
        # A rank that reads another checkpoint, from a disk of its own, would train another run.
        if len(set(self._ranks.gather(newest))) > 1:
            raise TrainingError(
                str(self._setting.checkpoints.folder),
                "the ranks do not see the same checkpoints",
                "Put the lake where every worker sees it.",
            )
        if state is None:
            return
        self.module.load_state_dict(state["module"])
        self._optimiser.load_state_dict(state["optimiser"])
        self._schedule.load_state_dict(state["schedule"])
        self.best_weights = state["best_weights"]
        self.position = Position.from_dict(state["position"])
        if state["stream"] is not None:
            self._stream.load_state_dict(state["stream"])
        if len(state["rng"]) == self._ranks.world_size:
            self._take_rng(state["rng"][self._ranks.rank])

    def _in_parallel(self) -> nn.Module:
        if self._ranks.world_size == 1:
            return self.module
        cuda = self._ranks.device.type == "cuda"
        # Without `find_unused_parameters` the gradients' buckets are cut anew after the first step,
        # and a run that was started again would sum in another order (DESIGN, promises).
        return DistributedDataParallel(
            self.module,
            device_ids=[self._ranks.device] if cuda else None,
            find_unused_parameters=True,
        )

    def _step(self, batch: Batch) -> tuple[float, float, _Due]:
        """One step.

        Returns:
            The loss summed over the rows of all ranks, what these rows weigh, and what all ranks do
            next.
        """
        self._optimiser.zero_grad(set_to_none=True)
        rows = rows_of(batch, self._ranks.device, weights_type(self.module))
        weight = self._weight(rows, batch.global_rows)
        own = self._backward(rows, weight)
        total, *asked = self._ranks.sum([own, *self._asked()])
        if math.isfinite(total) and weight:  # rows that weigh nothing must not move a weight
            if self._settings.clip_norm is not None:
                clip_grad_norm_(self.module.parameters(), self._settings.clip_norm)
            self._optimiser.step()
            self._schedule.step()
        elif weight:
            self._refuse_nan(batch, own, total)
        return total, weight, _Due(*(wish > 0 for wish in asked))

    def _weight(self, rows: Rows, global_rows: int) -> float:
        """What the rows of the global batch weigh together: without weights, how many they are."""
        weights = self._setting.objective.weights(rows)
        if weights is None:
            return global_rows
        return self._ranks.sum([weights.double().sum().item()])[0]

    def _backward(self, rows: Rows, weight: float) -> float:
        """Adds up the gradients of the global batch's mean loss; returns this rank's sum.

        Args:
            rows: This rank's.
            weight: Of the rows of all ranks.
        """
        pieces = rows.pieces(self._settings.accumulate)
        total = 0.0
        for place, piece in enumerate(pieces):
            with self._exchanging(is_last=place == len(pieces) - 1), self._autocast():
                loss_sum = self._setting.objective.loss_sum(self._network(piece.inputs), piece)
                # DDP takes the mean over the ranks: this makes it the mean over all their rows.
                scale = self._ranks.world_size / weight if weight else 0.0
                (loss_sum * scale).backward()  # type: ignore[no-untyped-call]
            total += loss_sum.item()
        return total

    def _exchanging(self, *, is_last: bool) -> AbstractContextManager[None]:
        """Gradients go between the ranks once a step: with the last piece."""
        if is_last or not isinstance(self._parallel, DistributedDataParallel):
            return nullcontext()
        quiet: AbstractContextManager[None] = self._parallel.no_sync()
        return quiet

    def _autocast(self) -> AbstractContextManager[Any]:
        kind = self._ranks.device.type
        return torch.autocast(kind, torch.bfloat16, enabled=self._settings.precision == "bf16")

    def _asked(self) -> tuple[float, float]:
        """What this rank wishes all to do after this step: to stop, to write a checkpoint."""
        minutes = (time.monotonic() - self._saved_at) / 60
        late = self._ranks.is_first and minutes >= self._settings.checkpoint_every_minutes
        return float(self._setting.stop.is_set), float(late)

    def _refuse_nan(self, batch: Batch, own: float, total: float) -> None:
        here = self.position
        where = f"step {here.step + 1}, epoch {here.epoch + 1}"
        rank = self._ranks.rank if self._ranks.world_size > 1 else None
        if self._settings.on_nan == "skip":
            if self._ranks.is_first:
                log.warning("%s: the loss is %s; the step was left out", where, total)
            return
        if math.isfinite(own):
            raise WorkerLostError(where, f"the loss of another rank is {total}", _NAN_REMEDY)
        origins = self._stream.origins(here.epoch, batch.step)
        shown = ", ".join(f"{o.file} row group {o.row_group} ({o.rows} rows)" for o in origins[:20])
        more = f" and {len(origins) - 20} more" if len(origins) > 20 else ""
        raise TrainingError(
            where if rank is None else f"{where}, rank {rank}",
            f"the loss is {own}; the batch is of {shown}{more}",
            _NAN_REMEDY,
        )

    def _stop(self, stream: Mapping[str, Any]) -> None:
        self._checkpoint(stream)
        raise StoppedError(
            f"step {self.position.step}, epoch {self.position.epoch + 1}",
            "the run was asked to stop, and wrote a checkpoint",
            "Start it again: it goes on from there.",
        )

    def _checkpoint(self, stream: Mapping[str, Any] | None) -> None:
        """Freezes the run; `stream` is None between epochs, when no epoch has begun."""
        rng = self._ranks.gather(self._rng())
        if self._ranks.is_first:
            state = {
                "module": self.module.state_dict(),
                "optimiser": self._optimiser.state_dict(),
                "schedule": self._schedule.state_dict(),
                "best_weights": self.best_weights,
                "position": self.position.to_dict(),
                "stream": stream,
                "rng": rng,
            }
            self._setting.checkpoints.save(self.position.step, state)
        self._saved_at = time.monotonic()

    def _rng(self) -> dict[str, Tensor]:
        """This rank's random generators."""
        state = {"cpu": torch.get_rng_state()}
        if self._ranks.device.type == "cuda":
            state["cuda"] = torch.cuda.get_rng_state(self._ranks.device)
        return state

    def _take_rng(self, state: Mapping[str, Tensor]) -> None:
        torch.set_rng_state(state["cpu"])
        if self._ranks.device.type == "cuda" and "cuda" in state:
            torch.cuda.set_rng_state(state["cuda"], self._ranks.device)


@dataclass(frozen=True)
class _Due:
    """What all ranks do after a step, because one of them asked for it."""

    stop: bool
    checkpoint: bool


_NAN_REMEDY = (
    "Lower train.learning_rate or set train.clip_norm, look for values in the features that are "
    "not finite or far from all others, or set train.on_nan to skip."
)
