"""Rules: Spark SQL conditions, failed by every row for which they are not true."""

from __future__ import annotations

from collections.abc import Mapping

from pyspark.sql import DataFrame
from pyspark.sql import functions as F
from pyspark.sql.types import BooleanType

from pipeline.config import Rule
from pipeline.errors import RuleError
from pipeline.expressions import checked_type, tried


def fails_column(name: str) -> str:
    """The boolean column that tells whether a row fails a rule."""
    return f"_fails_{name}"


def with_rules(frame: DataFrame, rules: Mapping[str, Rule]) -> DataFrame:
    """Adds one boolean column a rule: true where the condition is false, null or an error.

    Raises:
        RuleError: A condition does not parse, names an unknown column, is not boolean, or would
            answer differently each time.
    """
    for name, rule in rules.items():
        where = f"clean.rules.{name}.check"
        kind = checked_type(frame, rule.check, where, RuleError)
        if not isinstance(kind, BooleanType):
            raise RuleError(
                where, f"{rule.check!r} is {kind.simpleString()}, not boolean", "Write a condition."
            )
    return frame.withColumns(
        {
            fails_column(name): ~F.coalesce(tried(frame, rule.check), F.lit(False))
            for name, rule in rules.items()
        }
    )
