"""What a person sees of a training run: a bar in a terminal, and a line per epoch everywhere."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from pipeline.stream import Batch
from pipeline.training.metrics import Metrics


class ProgressReport:
    """Shows a run on standard error, whose bar would only litter a log file.

    Args:
        epochs: Epochs that the run has at most.
        console: Where it is shown; standard error by default.
        quiet: Shows nothing: of several ranks one speaks for all.
    """

    def __init__(self, epochs: int, console: Console | None = None, *, quiet: bool = False) -> None:
        self._epochs = epochs
        self._console = console or Console(stderr=True, highlight=False, quiet=quiet)
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("steps  {task.fields[rows_per_second]:,.0f} rows/s"),
            TextColumn("loss {task.fields[loss]:.4f}"),
            TextColumn("waiting for data {task.fields[wait_share]:.0%}"),
            TimeRemainingColumn(),
            console=self._console,
            transient=True,
            disable=not self._console.is_terminal,
        )
        self._task = self._bar.add_task(
            "", total=None, rows_per_second=0.0, loss=float("nan"), wait_share=0.0
        )
        self._began = 0.0
        self._rows = 0
        self._waited = 0.0

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
        self._waited = 0.0
        self._bar.update(
            self._task,
            description=f"epoch {epoch + 1}/{self._epochs}",
            total=steps,
            completed=steps_done,
        )

    def waiting(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        """Yields the batches, and counts the time until each is there."""
        ready = iter(batches)
        while True:
            asked = time.monotonic()
            batch = next(ready, None)
            self._waited += time.monotonic() - asked
            if batch is None:
                return
            yield batch

    @property
    def rows_per_second(self) -> float:
        """Of the epoch in work, over all ranks."""
        return self._rows / self._seconds

    @property
    def wait_share(self) -> float:
        """Share of the epoch's time in which this rank waited for the stream, 0 to 1."""
        return self._waited / self._seconds

    def step(self, rows: int, loss: float) -> None:
        """Counts one step over `rows` rows of all ranks, of that mean loss."""
        self._rows += rows
        self._bar.update(
            self._task,
            advance=1,
            rows_per_second=self.rows_per_second,
            loss=loss,
            wait_share=self.wait_share,
        )

    @property
    def _seconds(self) -> float:
        return max(time.monotonic() - self._began, 1e-9)

    def end_epoch(self, epoch: int, train_loss: float, validation: Metrics, best: bool) -> None:
        """Prints the epoch's line."""
        self._console.print(
            f"epoch {epoch + 1}/{self._epochs}  train loss {train_loss:.4f}  "
            f"validation {validation}  {self._seconds:.1f} s, {self.wait_share:.0%} of it waiting "
            f"for data{'  best so far' if best else ''}",
            soft_wrap=True,
        )
