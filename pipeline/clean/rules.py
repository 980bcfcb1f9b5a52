"""Rules: Spark SQL conditions, failed by every row for which they are not true."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F
from pyspark.sql.types import BooleanType

from pipeline.config import Rule
from pipeline.errors import RuleError
from pipeline.expressions import checked


def fails_column(name: str) -> str:
    """The boolean column that tells whether a row fails a rule."""
    return f"_fails_{name}"


def with_rules(frame: DataFrame, rules: Mapping[str, Rule], contract: Iterable[str]) -> DataFrame:
    """Adds one boolean column a rule: true where the condition is false, null or an error.

    Args:
        frame: Typed rows.
        rules: Name to rule.
        contract: The columns that rules may use.

    Raises:
        RuleError: A condition does not parse, names an unknown column, is not boolean, is not a
            function of its row alone, or would answer differently each time.
    """
    usable = frame.select(*contract)
    return frame.withColumns({fails_column(n): _fails(usable, n, rules[n]) for n in rules})


def _fails(usable: DataFrame, name: str, rule: Rule) -> Column:
    where = f"clean.rules.{name}.check"
    condition = checked(usable, rule.check, where, RuleError)
    if not isinstance(condition.type, BooleanType):
        raise RuleError(
            where,
            f"{rule.check!r} is {condition.type.simpleString()}, not boolean",
            "Write a condition.",
        )
    return ~F.coalesce(condition.column, F.lit(False))
