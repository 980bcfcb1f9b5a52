from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from pipeline.clean.joins import joined, require_joinable, right_side
from pipeline.config import Join
from pipeline.errors import JoinError

JOIN = Join.model_validate(
    {
        "path": "raw",
        "on": {"place": "name", "day": "at"},
        "columns": {
            "name": {"type": "string", "required": True},
            "at": {"type": "int"},
            "rain": {"type": "double"},
        },
        "select": {"rain": "rain", "where_it_rained": "name"},
    }
)
LEFT = [
    (1, "a", 1),
    (1, "a", 1),
    (2, "a", 2),
    (3, None, 1),
    (4, "a", None),
    (5, None, None),
    (6, "z", 1),
]


def right(spark: SparkSession, rows: list[tuple[Any, ...]]) -> DataFrame:
    stored = spark.createDataFrame(rows, "name string, at string, rain string").withColumns(
        {
            "_source_file": F.lit("f"),
            "_source_position": F.lit(0),
            "_malformed": F.lit(None).cast("string"),
        }
    )
    return right_side([stored], JOIN)


def test_every_left_row_stays_once(spark: SparkSession) -> None:
    left = spark.createDataFrame(LEFT, "id int, place string, day int")
    side = right(
        spark,
        [
            ("a", "1", "0.5"),
            ("a", "2", "much"),  # does not cast: missing, as if it were null
            (None, "1", "9"),
            (None, "1", "9"),  # no key: never matches, and so is no double
            ("a", None, "9"),
            ("b", "tomorrow", "9"),
            ("b", "1", "2"),
        ],
    )
    require_joinable(left, side, JOIN, "weather")
    rows = joined(left, side, JOIN)
    assert rows.columns == ["id", "place", "day", "rain", "where_it_rained"]
    assert Counter(map(tuple, rows.collect())) == Counter(
        {
            (1, "a", 1, 0.5, "a"): 2,
            (2, "a", 2, None, "a"): 1,
            (3, None, 1, None, None): 1,
            (4, "a", None, None, None): 1,
            (5, None, None, None, None): 1,
            (6, "z", 1, None, None): 1,
        }
    )


def test_a_key_that_is_not_unique_is_shown(spark: SparkSession) -> None:
    left = spark.createDataFrame(LEFT, "id int, place string, day int")
    side = right(spark, [("a", "1", "0"), ("b", "7", "1"), ("b", "7", "2"), ("a", "1", "3")] * 2)
    with pytest.raises(JoinError, match=r"^clean\.joins\.weather\.on: .* 4 rows with name=a, at=1"):
        require_joinable(left, side, JOIN, "weather")


def test_keys_of_other_types_are_refused(spark: SparkSession) -> None:
    left = spark.createDataFrame([], "id int, place string, day string")
    with pytest.raises(JoinError, match="day and at are string and int"):
        require_joinable(left, right(spark, [("a", "1", "0")]), JOIN, "weather")
