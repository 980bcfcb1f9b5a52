"""Spark SQL written by users: checked before any data is read, and null in place of an error."""

from __future__ import annotations

from pyspark.errors import AnalysisException, ParseException, PySparkException
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F
from pyspark.sql.types import DataType

from pipeline.errors import LakestormError


def checked_type(frame: DataFrame, text: str, where: str, error: type[LakestormError]) -> DataType:
    """The type of an expression over a frame's columns.

    Args:
        frame: What the expression may use.
        text: Spark SQL.
        where: The setting it comes from, for the message.
        error: The error to raise.

    Raises:
        LakestormError: It does not parse, names an unknown column, or is not deterministic.
    """
    try:
        with_it = frame.withColumn("_checked", F.expr(text))
        # Some faults, such as a wrong argument type, show only when the plan is analysed.
        deterministic = with_it._jdf.queryExecution().analyzed().deterministic()  # noqa: SLF001
    except (ParseException, AnalysisException) as fault:
        raise error(
            where,
            f"{text!r}: {spark_reason(fault)}",
            f"Write Spark SQL over {', '.join(visible(frame))}.",
        ) from fault
    if not deterministic:
        raise error(
            where,
            f"{text!r} is not deterministic",
            "Use no random functions: the same row must give the same answer each time.",
        )
    return with_it.schema["_checked"].dataType


def tried(frame: DataFrame, text: str) -> Column:
    """The expression with null in place of an error, such as a division by zero.

    Spark has `try_divide`, `try_cast` and so on, but no general `try`; `TryEval` is what they are
    made of. Source: org.apache.spark.sql.catalyst.expressions.TryEval.
    """
    jvm = frame.sparkSession._jvm  # noqa: SLF001
    if jvm is None:
        raise RuntimeError("no JVM: lakestorm needs a classic Spark session, not Spark Connect")
    between = jvm.org.apache.spark.sql.classic.ExpressionUtils
    parsed = between.expression(F.expr(text)._jc)  # noqa: SLF001
    safe = jvm.org.apache.spark.sql.catalyst.expressions.TryEval(parsed)
    return Column(between.column(safe))


def spark_reason(error: PySparkException) -> str:
    """Spark's message in one line, less its error class, SQL state and plan."""
    text = " ".join(str(error).split("SQLSTATE")[0].split())
    return (text.partition("] ")[2] or text).rstrip("(. ")


def visible(frame: DataFrame) -> list[str]:
    """The columns that a user knows: ours begin with an underscore."""
    return [name for name in frame.columns if not name.startswith("_")]
