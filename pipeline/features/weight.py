"""The weight of a row: how much it counts in the training's loss; Spark SQL, like what is derived.

It is a column of `features` beside the label. No network is given it, and no metric looks at it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pyspark.sql import Column
from pyspark.sql import functions as F
from pyspark.sql.types import BooleanType, NumericType

from pipeline.errors import SpecError
from pipeline.expressions import Checked

WEIGHT = "_weight"
SETTING = "features.weight"
BAD_WEIGHTS = "bad weights"
_SUM = "sum of weights"
LARGEST_FLOAT = 3.4e38


def weight_value(found: Checked, text: str) -> Column:
    """The weight as `features` holds it: a float.

    Raises:
        SpecError: The expression is not a number.
    """
    if not isinstance(found.type, BooleanType | NumericType):
        raise SpecError(
            SETTING,
            f"{text!r} is {found.type.simpleString()}",
            "Write a number that is finite and not negative, or a condition.",
        )
    return found.column.cast("float")


def is_bad_weight() -> Column:
    """Whether a row's weight is missing, negative, or not finite."""
    # To Spark, NaN is above all numbers.
    sound = F.col(WEIGHT).between(0.0, LARGEST_FLOAT)
    return ~F.coalesce(sound, F.lit(False))


def weight_measures(text: str | None) -> list[Column]:
    """Aggregates of the train rows for `require_weights`; none without weights."""
    if text is None:
        return []
    return [F.count_if(is_bad_weight()).alias(BAD_WEIGHTS), F.sum(WEIGHT).alias(_SUM)]


def require_weights(text: str | None, measured: Mapping[str, Any]) -> None:
    """Checks what `weight_measures` measured.

    Raises:
        SpecError: A weight is bad, or all of them are 0.
    """
    if text is None:
        return
    if measured[BAD_WEIGHTS]:
        raise bad_weights(text, measured[BAD_WEIGHTS])
    if not measured[_SUM]:
        raise SpecError(
            SETTING,
            f"{text!r} is 0 in all rows of the train split",
            "Write what is above 0 for some of them.",
        )


def bad_weights(text: str | None, rows: object) -> SpecError:
    """The error for so many rows whose weight is no weight."""
    return SpecError(
        SETTING,
        f"{text!r} is null, negative or not finite in {rows} rows",
        "Nothing was committed; let the expression give each row a number from 0 on, such as "
        "coalesce(..., 0).",
    )
