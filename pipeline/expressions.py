"""Spark SQL written by users: checked before any data is read, and null in place of an error."""

from __future__ import annotations

from typing import Any, NamedTuple

from pyspark.errors import AnalysisException, ParseException, PySparkException
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F
from pyspark.sql.types import DataType

from pipeline.errors import LakestormError

# What makes an expression more than a function of its row. The names are Spark's.
# Source: org.apache.spark.sql.catalyst.trees.TreePattern.
REFUSED = {"PLAN_EXPRESSION": "holds a subquery", "CURRENT_LIKE": "asks for the present time"}


class Checked(NamedTuple):
    """An expression that may be used."""

    column: Column
    """Null where evaluating it is an error, such as a division by zero."""
    type: DataType


def checked(frame: DataFrame, text: str, where: str, error: type[LakestormError]) -> Checked:
    """Resolves an expression against a frame's columns and nothing else.

    The column stays bound to what it was resolved against. It can be used on this frame, and on
    one that has further columns beside these: `*` in it does not grow with them.

    Args:
        frame: The columns that the expression may use.
        text: Spark SQL.
        where: The setting it comes from, for the message.
        error: The error to raise.

    Raises:
        LakestormError: It does not parse, names an unknown column, is not deterministic, or is
            more than a function of one row: an aggregate, a window, a generator, a subquery.
    """
    remedy = f"Write Spark SQL over {', '.join(frame.columns)}."
    try:
        selected = frame.select(F.expr(text))
        plan = selected._jdf.queryExecution().analyzed()  # noqa: SLF001
        beneath = frame._jdf.queryExecution().analyzed()  # noqa: SLF001
    except (ParseException, AnalysisException) as fault:
        raise error(where, f"{text!r}: {spark_reason(fault)}", remedy) from fault
    # Anything but one expression over each row needs a node of its own between the two.
    if plan.nodeName() != "Project" or not plan.child().equals(beneath):
        raise error(where, f"{text!r} is not a function of one row", remedy)
    if plan.expressions().length() != 1:
        raise error(where, f"{text!r} is not one column but several", remedy)
    resolved = plan.expressions().head()
    if not resolved.deterministic():
        raise error(
            where,
            f"{text!r} is not deterministic",
            "Use no random functions: the same row must give the same answer each time.",
        )
    patterns = _jvm(frame).org.apache.spark.sql.catalyst.trees.TreePattern
    for pattern, problem in REFUSED.items():
        if resolved.containsPattern(getattr(patterns, pattern)()):
            raise error(where, f"{text!r} {problem}", remedy)
    return Checked(_tried(frame, resolved), selected.schema[0].dataType)


def is_taken(name: str, frame: DataFrame) -> bool:
    """Whether a new column of this name would take the place of one of the frame's.

    To Spark, `Late` and `late` are one name: `withColumn` replaces the one by the other.
    """
    return name.lower() in {each.lower() for each in frame.columns}


def _tried(frame: DataFrame, resolved: Any) -> Column:
    """The expression with null in place of an error.

    Spark has `try_divide`, `try_cast` and so on, but no general `try`; `TryEval` is what they are
    made of. Source: org.apache.spark.sql.catalyst.expressions.TryEval.
    """
    if resolved.nodeName() == "Alias":
        resolved = resolved.child()
    sql = _jvm(frame).org.apache.spark.sql
    safe = sql.catalyst.expressions.TryEval(resolved)
    return Column(sql.classic.ExpressionUtils.column(safe))


def _jvm(frame: DataFrame) -> Any:
    jvm = frame.sparkSession._jvm  # noqa: SLF001
    if jvm is None:
        raise RuntimeError("no JVM: lakestorm needs a classic Spark session, not Spark Connect")
    return jvm


def spark_reason(error: PySparkException) -> str:
    """Spark's message in one line, less its error class, SQL state and plan."""
    text = " ".join(str(error).split("SQLSTATE")[0].split())
    return (text.partition("] ")[2] or text).rstrip("(. ")
