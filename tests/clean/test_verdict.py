from __future__ import annotations

from typing import Any

import pytest
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from pipeline.clean.contract import REASONS
from pipeline.clean.rules import with_rules
from pipeline.clean.verdict import DROPPED_BY, VERDICT, with_verdict, without_superseded
from pipeline.config import ActionName, Dedupe, Rule

RULES: dict[str, tuple[str, ActionName]] = {
    "even": ("n % 2 = 0", "quarantine"),
    "small": ("n < 10", "quarantine"),
    "known": ("n >= 0", "drop"),
    "not_four": ("n <> 4", "drop"),
    "not_six": ("n <> 6", "warn"),
    "never": ("n <> 8", "fail"),
}


def test_each_row_gets_one_verdict_and_all_its_reasons(spark: SparkSession) -> None:
    frame = spark.createDataFrame(
        [
            (2, []),
            (3, []),
            (13, []),
            (-2, []),
            (4, []),
            (-3, []),
            (6, []),
            (8, []),
            (2, ["cast:m"]),
        ],
        f"n int, {REASONS} array<string>",
    )
    rules = {name: Rule(check=check, action=action) for name, (check, action) in RULES.items()}
    rows = with_verdict(with_rules(frame, rules, ["n"]), rules).collect()
    assert [(row["n"], row[VERDICT], row[REASONS], row[DROPPED_BY]) for row in rows] == [
        (2, "clean", [], None),
        (3, "quarantine", ["rule:even"], None),
        (13, "quarantine", ["rule:even", "rule:small"], None),
        (-2, "drop", ["rule:known"], "rule:known"),
        (4, "drop", ["rule:not_four"], "rule:not_four"),
        (-3, "quarantine", ["rule:even", "rule:known"], None),
        (6, "clean", [], None),
        (8, "clean", [], None),  # `fail` ends the run, after all rows are counted
        (2, "quarantine", ["cast:m"], None),
    ]


def test_without_rules_only_the_contract_rejects(spark: SparkSession) -> None:
    frame = spark.createDataFrame([(1, []), (2, ["malformed"])], f"n int, {REASONS} array<string>")
    rows = with_verdict(with_rules(frame, {}, ["n"]), {}).collect()
    assert [row[VERDICT] for row in rows] == ["clean", "quarantine"]
    assert [row[REASONS] for row in rows] == [[], ["malformed"]]


ROWS = [  # key, at, verdict, file, position: what becomes of it
    ("a", 1, "clean", "f1", 0, "duplicate"),
    ("a", 3, "clean", "f1", 1, "clean"),  # the newest, though not the last
    ("a", 2, "clean", "f2", 0, "duplicate"),
    ("b", None, "clean", "f9", 9, "duplicate"),  # no time is older than any time
    ("b", 1, "clean", "f1", 2, "clean"),
    ("c", 5, "clean", "f2", 8, "duplicate"),
    ("c", 5, "clean", "f2", 11, "clean"),  # a tie goes to the last position, as a number
    ("c", 5, "clean", "f1", 99, "duplicate"),  # and before that to the last file
    ("d", 1, "clean", "f1", 3, "clean"),
    ("d", 2, "quarantine", "f1", 4, "quarantine"),  # newer, but no rival
    ("d", 3, "drop", "f1", 5, "drop"),
    ("d", 2, "quarantine", "f2", 4, "quarantine"),
    ("e", 1, "clean", "2013/x", 0, "duplicate"),
    ("e", 1, "clean", "2014/x", 0, "clean"),
    ("f", None, "clean", "f1", 6, "duplicate"),
    ("f", None, "clean", "f1", 7, "clean"),
]


def judged(spark: SparkSession, rows: list[tuple[Any, ...]]) -> DataFrame:
    columns = f"key string, at int, {VERDICT} string, _source_file string, _source_position long"
    reasons = F.when(F.col(VERDICT) != "clean", F.array(F.lit("why"))).otherwise(F.array())
    named = spark.createDataFrame([row[:5] for row in rows], columns)
    return named.withColumn(REASONS, reasons.cast("array<string>"))


@pytest.mark.parametrize(("shuffles", "backwards"), [(1, False), (7, True)])
def test_the_newest_of_equal_keys_stays_however_the_work_is_spread(
    spark: SparkSession, shuffles: int, backwards: bool
) -> None:
    before = spark.conf.get("spark.sql.shuffle.partitions")
    spark.conf.set("spark.sql.shuffle.partitions", shuffles)
    try:
        frame = judged(spark, ROWS[::-1] if backwards else ROWS).repartition(shuffles)
        dedupe = Dedupe(keys=("key",), latest_by=("at",))
        rows = without_superseded(frame, dedupe).collect()
    finally:
        spark.conf.set("spark.sql.shuffle.partitions", str(before))
    origin = {(row["_source_file"], row["_source_position"]): row for row in rows}
    assert len(rows) == len(ROWS) == len(origin)
    for key, _, verdict, file, position, outcome in ROWS:
        row = origin[file, position]
        wanted = "quarantine" if outcome == "duplicate" else outcome
        assert row[VERDICT] == wanted, (key, file, position)
        superseded = row[REASONS] == ["duplicate"]
        assert superseded == (outcome == "duplicate")
        assert superseded or row[REASONS] == ([] if verdict == "clean" else ["why"])
