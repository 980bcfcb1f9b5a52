"""The label: what each task learns from, why a row has none, and which values are no label."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import reduce

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F
from pyspark.sql.types import AtomicType, BinaryType, BooleanType, NumericType

from pipeline.config import Label
from pipeline.errors import SpecError
from pipeline.expressions import checked

NO_CLASS = -1


def label_values(clean: DataFrame, how: Label) -> dict[str, Column]:
    """The label's columns by name, over `clean`; null where an expression is null.

    Raises:
        SpecError: An expression is wrong, or of a type that the task cannot learn.
    """
    if how.task == "multilabel":
        settings = [(f"expressions.{key}", text) for key, text in how.expressions.items()]
    else:
        settings = [("expression", how.expression)] if how.columns else []
    values = [_value(clean, how, text, f"features.label.{at}") for at, text in settings]
    return dict(zip(how.columns, values, strict=True))


def _value(clean: DataFrame, how: Label, text: str, where: str) -> Column:
    label = checked(clean, text, where, SpecError)
    told, remedy = f"{text!r} is {label.type.simpleString()}", _REMEDIES[how.task]
    if how.task == "multiclass":
        if not isinstance(label.type, AtomicType) or isinstance(label.type, BinaryType):
            raise SpecError(where, told, remedy)
        classes = F.array(*(F.lit(name) for name in how.classes))
        place = F.array_position(classes, label.column.cast("string"))
        # Spark counts from 1, and 0 means that it is not there: NO_CLASS.
        return (place - 1).cast("int")
    if not isinstance(label.type, BooleanType | NumericType):
        raise SpecError(where, told, remedy)
    return label.column.cast("float")


_REMEDIES = {
    "binary": "Write a condition, or a number that is 0 or 1.",
    "multilabel": "Write a condition, or a number that is 0 or 1.",
    "multiclass": "Write what gives one of features.label.classes as text, or null.",
    "regression": "Write a finite number that a float can hold, or null.",
}


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
    values = [F.col(name) for name in how.columns]
    if how.task == "multiclass":
        bad = [value == NO_CLASS for value in values]
    elif how.task == "regression":
        bad = [F.isnan(value) | (F.abs(value) == math.inf) for value in values]
    else:
        bad = [~value.isin(0.0, 1.0) for value in values]
    return reduce(Column.__or__, (F.coalesce(one, F.lit(False)) for one in bad), F.lit(False))


def bad_labels(how: Label, rows: object) -> SpecError:
    """The error for labels that the task cannot learn."""
    setting, told, remedy = "expression", "is neither 0 nor 1", _REMEDIES[how.task]
    if how.task == "multiclass":
        setting, told = "classes", f"is none of the {len(how.classes)} classes"
        remedy = "List all values of the expression, as text, or make it null where it has none."
    elif how.task == "regression":
        told = "is not finite, or too large for a float,"
    elif how.task == "multilabel":
        setting, told = "expressions", "is neither 0 nor 1"
    text = how.expression or " | ".join(how.expressions.values())
    return SpecError(f"features.label.{setting}", f"{text!r} {told} in {rows} rows", remedy)
