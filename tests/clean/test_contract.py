from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from pipeline.clean.contract import REASONS, UNREADABLE, typed
from pipeline.config import Files, Storage
from pipeline.sources.formats import open_rows
from pipeline.sources.raw import MALFORMED

NAN, INF = math.nan, math.inf
DAY = date(2013, 3, 4)
NOON = datetime(2013, 3, 4, 12, 0, 0, 123_000, tzinfo=UTC)
WHOLE_SECOND = NOON.replace(microsecond=0)
NAIVE = NOON.replace(tzinfo=None)
FAULT = object()

# Name: stored values, type of the contract, values expected (FAULT: the row gets a reason).
CASES: dict[str, tuple[pa.Array, str, Sequence[Any]]] = {
    "fraction": (pa.array([1.0, 1.5, NAN, -0.5]), "int", [1, FAULT, None, FAULT]),
    "too_large": (pa.array([1e300, INF, 2.0**31, 3.0]), "int", [FAULT, FAULT, FAULT, 3]),
    "long_for_int": (pa.array([2**31, -(2**31), 5, None]), "int", [FAULT, -(2**31), 5, None]),
    "large_double": (pa.array([2.0**63, 2.0**53, NAN, None]), "bigint", [FAULT, 2**53, None, None]),
    "decimals": (
        pa.array([Decimal("1.00"), Decimal("1.01"), None, Decimal(7)], pa.decimal128(20, 2)),
        "int",
        [1, FAULT, None, 7],
    ),
    "narrow": (pa.array([1e300, INF, NAN, 0.5]), "float", [FAULT, INF, None, 0.5]),
    "text_number": (pa.array([" 7 ", "7.5", "x", ""]), "int", [7, FAULT, FAULT, FAULT]),
    "text_double": (
        pa.array(["1e999", "NaN", "x", "-Infinity"]),
        "double",
        [FAULT, None, FAULT, -INF],
    ),
    "text_truth": (pa.array(["true", "no", "maybe", None]), "boolean", [True, False, FAULT, None]),
    "text_time": (
        pa.array(["2013-03-04T12:00:00.123Z", "2013-03-04 12:00:00.123", "soon", None]),
        "timestamp",
        [NOON, NOON, FAULT, None],
    ),
    "text_date": (
        pa.array(["2013-03-04", "2013-03-04T12:00", "2013-02-30", None]),
        "date",
        [DAY, DAY, FAULT, None],
    ),
    "seconds": (
        pa.array([WHOLE_SECOND, None] * 2, pa.timestamp("s")),
        "timestamp",
        [WHOLE_SECOND, None] * 2,
    ),
    "milliseconds": (
        pa.array([NAIVE, None] * 2, pa.timestamp("ms")),
        "timestamp",
        [NOON, None] * 2,
    ),
    "microseconds": (
        pa.array([NOON, None] * 2, pa.timestamp("us", "UTC")),
        "timestamp",
        [NOON, None] * 2,
    ),
    "nanoseconds": (pa.array([NAIVE, None] * 2, pa.timestamp("ns")), "timestamp", [NOON, None] * 2),
    "nanoseconds_of_a_zone": (
        pa.array([NOON, None] * 2, pa.timestamp("ns", "Europe/Berlin")),
        "timestamp",
        [NOON, None] * 2,
    ),
    "days": (
        pa.array([DAY, None] * 2),
        "timestamp",
        [datetime(2013, 3, 4, tzinfo=UTC), None] * 2,
    ),
    "byte": (pa.array([1, 255, None, 0], pa.uint8()), "int", [1, 255, None, 0]),
    "unsigned": (pa.array([1, 2**32 - 1, None, 0], pa.uint32()), "int", [1, FAULT, None, 0]),
    "large_unsigned": (
        pa.array([1, 2**64 - 1, None, 0], pa.uint64()),
        "bigint",
        [1, FAULT, None, 0],
    ),
    "nothing": (pa.nulls(4), "double", [None] * 4),
    "dictionary": (
        pa.array(["a", None, "b", "a"]).dictionary_encode(),
        "string",
        ["a", None, "b", "a"],
    ),
    "large_text": (
        pa.array(["a", None, "", "é"], pa.large_string()),
        "string",
        ["a", None, "", "é"],
    ),
    "number_as_text": (pa.array([1, None, 3, 4]), "string", ["1", None, "3", "4"]),
    "truth_as_text": (
        pa.array([True, None, False, True]),
        "string",
        ["true", None, "false", "true"],
    ),
    "a name, with spaces": (pa.array([1, 2, 3, 4]), "int", [1, 2, 3, 4]),
}
REQUIRED = ("fraction", "text_number", "nothing")


def contract(tmp_path: Path) -> Files:
    columns = {n: {"type": kind, "required": n in REQUIRED} for n, (_, kind, _) in CASES.items()}
    return Files.model_validate({"path": str(tmp_path), "columns": columns})


def test_each_stored_type_is_cast_or_its_row_is_at_fault(
    spark: SparkSession, tmp_path: Path
) -> None:
    pq.write_table(
        pa.table({n: stored for n, (stored, _, _) in CASES.items()}), tmp_path / "a.parquet"
    )
    files = contract(tmp_path)
    (frame,) = open_rows(spark, files, "source", Storage()).frames(spark)
    rows = typed(frame, files.columns).orderBy("_source_position").collect()
    for name, (stored, _, expected) in CASES.items():
        for place, want in enumerate(expected):
            reasons, unreadable = rows[place][REASONS], rows[place][UNREADABLE] or {}
            got = rows[place][name]
            if want is FAULT:
                assert got is None, name
                assert f"cast:{name}" in reasons
                assert f"required:{name}" not in reasons, "a fault is told once"
                assert name in unreadable
                continue
            if isinstance(want, datetime):
                got = got.replace(tzinfo=UTC)  # collected in the session's zone
            assert got == want, (name, stored[place])
            assert f"cast:{name}" not in reasons
            assert (f"required:{name}" in reasons) == (want is None and name in REQUIRED)
            assert name not in unreadable
    assert {row["_source_file"] for row in rows} == {"a.parquet"}
    assert [row["_source_position"] for row in rows] == [0, 1, 2, 3]


def test_the_text_of_what_is_unreadable_is_kept(spark: SparkSession) -> None:
    columns = Files.model_validate({"path": "x", "columns": {"n": {"type": "int"}}}).columns
    raw = spark.createDataFrame([("x",)], "n string").withColumns(
        {
            "_source_file": F.lit("f"),
            "_source_position": F.lit(0),
            MALFORMED: F.lit("whole line"),
        }
    )
    (row,) = typed(raw, columns).collect()
    assert row[REASONS] == ["malformed", "cast:n"]
    assert row[UNREADABLE] == {MALFORMED: "whole line", "n": "x"}
