"""Labels that are true or false, which tasks share: what they are made of, and bad ones."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pyspark.sql import Column

REMEDY = "Write a condition, or a number that is 0 or 1."
BAD = "is neither 0 nor 1"


def is_no_flag(value: Column) -> Column:
    """Whether a number is neither 0 nor 1."""
    return ~value.isin(0.0, 1.0)
