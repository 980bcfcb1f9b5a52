"""Rules: Spark SQL conditions, checked before any data is read, failed unless they are true."""

from __future__ import annotations

from collections.abc import Mapping

from pyspark.errors import AnalysisException, ParseException, PySparkException
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F
from pyspark.sql.types import BooleanType

from pipeline.config import Rule
from pipeline.errors import RuleError


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
        _require_sound(frame, name, rule)
    return frame.withColumns(
        {
            fails_column(name): ~F.coalesce(_tried(frame, rule.check), F.lit(False))
            for name, rule in rules.items()
        }
    )


def _require_sound(frame: DataFrame, name: str, rule: Rule) -> None:
    where = f"clean.rules.{name}.check"
    try:
        checked = frame.withColumn("_checked", F.expr(rule.check))
    except (ParseException, AnalysisException) as error:
        raise RuleError(
            where,
            f"{rule.check!r}: {spark_reason(error)}",
            f"Write a Spark SQL condition over {', '.join(_visible(frame))}.",
        ) from error
    if not isinstance(checked.schema["_checked"].dataType, BooleanType):
        kind = checked.schema["_checked"].dataType.simpleString()
        raise RuleError(where, f"{rule.check!r} is {kind}, not boolean", "Write a condition.")
    if not checked._jdf.queryExecution().analyzed().deterministic():  # type: ignore[operator]
        raise RuleError(
            where,
            f"{rule.check!r} is not deterministic",
            "Use no random functions: a row must be rejected each time or never.",
        )


def _tried(frame: DataFrame, check: str) -> Column:
    """The condition with null in place of an error, such as a division by zero.

    Spark has `try_divide`, `try_cast` and so on, but no general `try`; `TryEval` is what they are
    made of. See: org.apache.spark.sql.catalyst.expressions.TryEval.
    """
    jvm = frame.sparkSession._jvm
    if jvm is None:
        raise RuntimeError("no JVM: rules need a classic Spark session, not Spark Connect")
    between = jvm.org.apache.spark.sql.classic.ExpressionUtils
    parsed = between.expression(F.expr(check)._jc)  # type: ignore[attr-defined]
    tried = jvm.org.apache.spark.sql.catalyst.expressions.TryEval(parsed)
    return Column(between.column(tried))  # type: ignore[abstract]


def spark_reason(error: PySparkException) -> str:
    """Spark's message less its plan, error class and SQL state."""
    text = " ".join(str(error).split("SQLSTATE")[0].split())
    return text.partition("] ")[2].rstrip(". ") or text


def _visible(frame: DataFrame) -> list[str]:
    return [name for name in frame.columns if not name.startswith("_")]
