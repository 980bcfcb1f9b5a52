"""The label: what is predicted, and how it follows from `clean`."""

from __future__ import annotations

import difflib
from typing import Annotated, Self

from pydantic import AfterValidator, model_validator

from pipeline.settings import Name, Settings
from pipeline.training.tasks import TASKS, Task

SPLIT = "split"
"""A column of `features` beside the label's."""


def _known(name: str) -> str:
    if name not in TASKS:
        close = difflib.get_close_matches(name, TASKS, n=1)
        hint = f"; did you mean {close[0]}?" if close else ""
        raise ValueError(f"there is no task {name!r}, only {', '.join(TASKS)}{hint}")
    return name


TaskName = Annotated[str, AfterValidator(_known)]
"""A key of `TASKS`."""


class Label(Settings):
    """What is predicted."""

    task: TaskName = "binary"
    """A key of `TASKS`, whose classes say what the label of each is."""
    name: Name = "label"
    expression: str = ""
    """Spark SQL over `clean`; null leaves the row out of training and metrics."""
    classes: tuple[str, ...] = ()
    """For `multiclass`: the values of the expression, as text, in the order of the outputs."""
    expressions: dict[Name, str] = {}
    """For `multilabel`: name to Spark SQL; a row where one is null has no label."""
    absent: dict[Name, str] = {}
    """Why a label may be null: reason to condition, tried in order, for the counts."""

    @model_validator(mode="after")
    def _fits_the_task(self) -> Self:
        for setting in dict.fromkeys(asked for task in TASKS.values() for asked in task.asks):
            needed = setting in self.definition.asks
            if bool(getattr(self, setting)) != needed:
                raise ValueError(
                    f"{setting} {'is missing for' if needed else 'says nothing to'} the task "
                    f"{self.task}"
                )
        self.definition.require_label(self)
        if SPLIT in self.columns:
            raise ValueError(f"name: {SPLIT!r} is the column that tells a row's split; rename it")
        return self

    @property
    def definition(self) -> Task:
        """All that is particular to the task."""
        return TASKS[self.task]

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns of `features` that hold the label: none, one, or one for each expression."""
        return self.definition.columns(self)

    @property
    def outputs(self) -> int:
        """Numbers that a network predicts for a row; 0 where it predicts its own features."""
        return self.definition.outputs(self)
