"""Rows of `clean`, a description of features, and the fitted values by NumPy."""

from __future__ import annotations

from typing import Any

from pyspark.sql import DataFrame, SparkSession

from pipeline.config import Features

CLEAN = "id int, month int, amount double, delay double, place string, period string"
DESCRIBED: dict[str, Any] = {
    "keys": ["id"],
    "label": {
        "name": "late",
        "expression": "delay > 15",
        "absent": {"lost": "place = 'lost'", "unmeasured": "delay IS NULL"},
    },
    "splits": {"train": "month <= 2", "validation": "month = 3", "test": "month = 4"},
    "leakage": ["delay"],
    "derive": {"day": "id % 7", "twice": "amount * 2"},
    "numeric": {"amount": {"indicator": True}},
    "categorical": {"place": {"minimum_count": 2}},
    "cyclic": {"day": {"period": 7}},
}


def described(**changes: Any) -> Features:
    """The description with some sections replaced."""
    return Features.model_validate({**DESCRIBED, **changes})


def clean_row(number: int, **changes: Any) -> dict[str, Any]:
    month = number % 5 + 1
    row = {
        "id": number,
        "month": month,
        "amount": None if number % 6 == 5 else number / 3,
        "delay": float(number * 7 % 40),
        "place": ("a", "b", None, "rare" if number == 10 else "a")[number % 4],
        "period": f"2013-{month:02d}",
    }
    return {**row, **changes}


def frame(spark: SparkSession, rows: list[dict[str, Any]]) -> DataFrame:
    names = [part.split()[0] for part in CLEAN.split(", ")]
    return spark.createDataFrame([tuple(row[name] for name in names) for row in rows], CLEAN)
