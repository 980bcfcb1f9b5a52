"""What a feature may be made of: the columns of `clean` less those known only afterwards."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pyspark.sql import DataFrame

from pipeline.errors import LeakageError, SpecError
from pipeline.expressions import checked_type, tried


def with_derived(frame: DataFrame, derive: Mapping[str, str], leakage: Sequence[str]) -> DataFrame:
    """Adds the derived columns and takes the leakage columns away.

    The expressions see a frame without the leakage columns, and each other's results: whatever a
    feature is made of, it cannot follow from them.

    Args:
        frame: Rows of `clean`.
        derive: New column to Spark SQL, in order.
        leakage: Columns known only after the moment of prediction.

    Raises:
        LeakageError: An expression uses a leakage column.
        SpecError: An expression is wrong in another way, or names a column that exists.
    """
    everything, known = frame, frame.drop(*leakage)
    for name, text in derive.items():
        where = f"features.derive.{name}"
        if name in frame.columns:
            raise SpecError(where, "is a column of clean already", "Choose another name.")
        _require_known(known, everything, text, where, leakage)
        known = known.withColumn(name, tried(known, text))
        everything = everything.withColumn(name, tried(everything, text))
    return known


def _require_known(
    known: DataFrame, everything: DataFrame, text: str, where: str, leakage: Sequence[str]
) -> None:
    try:
        checked_type(known, text, where, SpecError)
        return
    except SpecError as error:
        reason = error
    try:
        checked_type(everything, text, where, SpecError)
    except SpecError:
        raise reason from reason.__cause__
    # It is right only with the leakage columns: they are what it used.
    raise LeakageError(
        where,
        f"{text!r} uses a column listed under features.leakage ({', '.join(leakage)})",
        "Leave it out: at the moment of prediction it is not known yet.",
    ) from reason
