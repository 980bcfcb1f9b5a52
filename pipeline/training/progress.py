"""What a person sees of a training run: a bar in a terminal, and a line per epoch everywhere."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from pipeline.training.metrics import Metrics


class ProgressReport:
    """Shows a run on standard error, whose bar would only litter a log file.

    Args:
        epochs: Epochs that the run has at most.
        console: Where it is shown; standard error by default.
    """

    def __init__(self, epochs: int, console: Console | None = None) -> None:
        self._epochs = epochs
        self._console = console or Console(stderr=True, highlight=False)
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("steps  {task.fields[rows_per_second]:,.0f} rows/s"),
            TextColumn("loss {task.fields[loss]:.4f}"),
            TimeRemainingColumn(),
            console=self._console,
            transient=True,
            disable=not self._console.is_terminal,
        )
        self._task = self._bar.add_task("", total=None, rows_per_second=0.0, loss=float("nan"))
        self._began = 0.0
        self._rows = 0

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bar.stop()

    def begin_epoch(self, epoch: int, steps: int, steps_done: int) -> None:
        """Sets the bar to an epoch, counted from 0, of which some steps may be done already."""
        self._began = time.monotonic()
        self._rows = 0
        self._bar.update(
            self._task,
            description=f"epoch {epoch + 1}/{self._epochs}",
            total=steps,
            completed=steps_done,
        )

    def step(self, rows: int, loss: float) -> None:
        """Counts one optimiser step over `rows` rows."""
        self._rows += rows
        seconds = max(time.monotonic() - self._began, 1e-9)
        self._bar.update(self._task, advance=1, rows_per_second=self._rows / seconds, loss=loss)

    def end_epoch(self, epoch: int, train_loss: float, validation: Metrics, best: bool) -> None:
        """Prints the epoch's line."""
        self._console.print(
            f"epoch {epoch + 1}/{self._epochs}  train loss {train_loss:.4f}  "
            f"validation AUROC {validation.auroc:.4f}  log-loss {validation.log_loss:.4f}  "
            f"accuracy {validation.accuracy:.4f}  {time.monotonic() - self._began:.1f} s"
            f"{'  best so far' if best else ''}",
            soft_wrap=True,
        )
