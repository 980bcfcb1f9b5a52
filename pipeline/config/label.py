"""The label: what is predicted, and how it follows from `clean`."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import model_validator

from pipeline.settings import Name, Settings

Task = Literal["binary", "multiclass", "multilabel", "regression", "reconstruction"]


class Label(Settings):
    """What is predicted."""

    task: Task = "binary"
    """`binary`: true or false. `multiclass`: one of `classes`. `multilabel`: each of `expressions`,
    true or false. `regression`: a number. `reconstruction`: the features themselves, no label."""
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
        wanted = {
            "expression": self.task in ("binary", "multiclass", "regression"),
            "classes": self.task == "multiclass",
            "expressions": self.task == "multilabel",
        }
        for setting, needed in wanted.items():
            if bool(getattr(self, setting)) != needed:
                raise ValueError(
                    f"{setting} {'is missing for' if needed else 'says nothing to'} the task "
                    f"{self.task}"
                )
        if self.task == "multiclass" and len({*self.classes}) < max(2, len(self.classes)):
            raise ValueError(f"classes: {list(self.classes)} are not at least two different ones")
        return self

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns of `features` that hold the label: none, one, or one for each expression."""
        if self.task == "reconstruction":
            return ()
        return tuple(f"{self.name}_{key}" for key in self.expressions) or (self.name,)

    @property
    def outputs(self) -> int:
        """Numbers that a network predicts for a row; 0 where it predicts its own features."""
        return len(self.classes) or len(self.columns)
