"""The label on Spark, by its task: its values, why a row has none, and which are no label."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F
from pyspark.sql.types import BooleanType

from pipeline.config import Label
from pipeline.errors import SpecError
from pipeline.expressions import checked


def label_values(clean: DataFrame, how: Label) -> dict[str, Column]:
    """The label's columns by name, over `clean`; null where an expression is null.

    Raises:
        SpecError: An expression is wrong, or of a type that the task cannot learn.
    """
    asked = how.definition.expressions(how)
    values = [_value(clean, how, text, f"features.label.{at}") for at, text in asked]
    return dict(zip(how.columns, values, strict=True))


def _value(clean: DataFrame, how: Label, text: str, where: str) -> Column:
    found, task = checked(clean, text, where, SpecError), how.definition
    if not task.accepts(found.type):
        raise SpecError(where, f"{text!r} is {found.type.simpleString()}", task.label_remedy)
    return task.label_value(found.column, how)


def absence(clean: DataFrame, how: Label, values: Sequence[Column]) -> Column:
    """Why a row has no label: the first reason that holds, or `unknown`; null where it has one.

    Args:
        clean: What the conditions are written over.
        how: The label.
        values: Its columns; a row has a label when none of them is null.

    Raises:
        SpecError: A condition is wrong.
    """
    reason = F.lit("unknown")
    for name, text in reversed(how.absent.items()):
        holds = condition(clean, text, f"features.label.absent.{name}")
        reason = F.when(holds, name).otherwise(reason)
    lacks = reduce(Column.__or__, (value.isNull() for value in values), F.lit(False))
    return F.when(lacks, reason)


def condition(frame: DataFrame, text: str, where: str) -> Column:
    """A condition over a frame's columns.

    Raises:
        SpecError: It is wrong, or is not boolean.
    """
    found = checked(frame, text, where, SpecError)
    if not isinstance(found.type, BooleanType):
        raise SpecError(
            where, f"{text!r} is {found.type.simpleString()}, not boolean", "Write a condition."
        )
    return found.column


def is_bad_label(how: Label) -> Column:
    """Whether a row has a label that its task cannot learn, over the label's columns."""
    bad = [how.definition.is_bad_label(F.col(name)) for name in how.columns]
    return reduce(Column.__or__, (F.coalesce(one, F.lit(False)) for one in bad), F.lit(False))


def bad_labels(how: Label, rows: object) -> SpecError:
    """The error for labels that the task cannot learn."""
    return how.definition.bad_labels(how, rows)
