from __future__ import annotations

from datetime import UTC, date, datetime, time
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pydantic import ValidationError
from pyspark.sql import SparkSession

from pipeline.config.types import parse_type
from pipeline.errors import ConfigError, SchemaError
from tests.sources.reads import faults, read, section, values, write

PEOPLE = [
    {"age": 7, "tags": ["a", "b"], "score": {"x": 1.5}},
    {"age": None, "tags": [], "score": None},
    None,
]
WHO = "struct<age: int, tags: array<string>, score: struct<x: double>>"


@pytest.mark.parametrize(
    ("text", "read_as"),
    [
        ("INTEGER", "int"),
        ("decimal", "decimal(10,0)"),
        ("numeric( 12 , 2 )", "decimal(12,2)"),
        ("array<long>", "array<bigint>"),
        ("map<string, array<double>>", "map<string,array<double>>"),
        ("struct<a: int, `b c`: struct<d: date>>", "struct<`a`:int,`b c`:struct<`d`:date>>"),
    ],
)
def test_types_are_read_as_spark_spells_them(text: str, read_as: str) -> None:
    assert str(parse_type(text)) == read_as
    assert parse_type(read_as) == parse_type(text)


@pytest.mark.parametrize(
    "text",
    ["", "text", "array", "array<int", "array<int>>", "decimal(40,2)", "decimal(2,3)", "map<int>",
     "struct<a int>", "struct<a: int, a: int>", "time", "interval", "int int", "array<" * 40],
)  # fmt: skip
def test_what_is_no_type_is_refused(text: str) -> None:
    with pytest.raises(ValidationError):
        section("x", {"x": text})


def test_structs_lists_and_maps_come_whole(spark: SparkSession, tmp_path: Path) -> None:
    marks = pa.array([[("a", 1)], [], None], pa.map_(pa.string(), pa.int64()))
    write(tmp_path / "a.parquet", who=PEOPLE, v=[[0.5, 1.5], None, []], marks=marks)
    files = section(tmp_path, {"who": WHO, "v": "array<double>", "marks": "map<string, int>"})
    assert values(spark, files) == [
        (PEOPLE[0], [0.5, 1.5], {"a": 1}),
        (PEOPLE[1], None, {}),
        (None, [], None),
    ]


def test_a_field_of_a_struct_is_a_column(spark: SparkSession, tmp_path: Path) -> None:
    write(tmp_path / "a.parquet", who=PEOPLE)
    columns = {
        "age": {"type": "bigint", "from": "who.age"},
        "x": {"type": "double", "from": "who.score.x"},
    }
    assert values(spark, section(tmp_path, columns)) == [(7, 1.5), (None, None), (None, None)]
    with pytest.raises(SchemaError, match=r"column who\.no: is missing"):
        read(spark, section(tmp_path, {"age": {"type": "int", "from": "who.no"}}))


def test_a_column_with_a_dot_in_its_name_is_taken_by_an_alias(
    spark: SparkSession, tmp_path: Path
) -> None:
    write(tmp_path / "a.parquet", **{"x.y": [1], "a`b": [2], "x": [{"y": 3}]})
    columns = {
        "one": {"type": "int", "from": "x.y"},
        "two": {"type": "int", "from": "a`b"},
    }
    assert values(spark, section(tmp_path, columns)) == [(1, 2)]
    (tmp_path / "a.csv").write_text("x.y\n5\n")
    files = section(tmp_path, {"n": {"type": "int", "from": "x.y"}}, format="csv")
    assert values(spark, files) == [(5,)]


def test_a_part_that_does_not_cast_is_a_fault_of_its_row(
    spark: SparkSession, tmp_path: Path
) -> None:
    write(
        tmp_path / "a.parquet",
        v=[["1", "2"], ["1", "x"], [None], None],
        s=[
            {"n": "1", "m": 1.0},
            {"n": "1", "m": 1.0},
            {"n": "no", "m": 1.5},
            {"n": None, "m": 2.5},
        ],
    )
    files = section(tmp_path, {"v": "array<int>", "s": "struct<n: int, m: int>"})
    rows = read(spark, files)
    assert [row["_reasons"] for row in rows] == [[], ["cast:v"], ["cast:s"], ["cast:s"]]
    assert [row["v"] for row in rows] == [[1, 2], None, [None], None]
    assert rows[1]["_unreadable"] == {"v": '["1","x"]'}
    assert rows[2]["_unreadable"] == {"s": '{"n":"no","m":1.5}'}


@pytest.mark.parametrize("kind", ["json", "csv"])
def test_text_holds_nested_values_as_json(spark: SparkSession, tmp_path: Path, kind: str) -> None:
    cells = ['{"age": 7, "tags": ["a"], "score": {"x": 2.50}}', "{oops", '{"age": "x"}', "[1]"]
    if kind == "csv":
        lines = ["who", *(f'"{cell.replace(chr(34), chr(34) * 2)}"' for cell in cells)]
    else:
        lines = [f'{{"who": {cell}}}' for cell in cells if cell != "{oops"]
    (tmp_path / f"a.{kind}").write_text("\n".join(lines) + "\n")
    rows = read(spark, section(tmp_path, {"who": WHO}, format=kind))
    assert rows[0]["who"] == {"age": 7, "tags": ["a"], "score": {"x": 2.5}}
    assert all(row["_reasons"] == ["cast:who"] for row in rows[1:]), rows
    assert all(row["who"] is None for row in rows[1:])


def test_maps_whose_keys_become_one_are_a_fault(spark: SparkSession, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"m": {"1": 2, "01": 3}}\n{"m": {"1": 2, "2": null}}\n')
    files = section(tmp_path, {"m": "map<int, bigint>"}, format="json")
    rows = read(spark, files)
    assert [row["_reasons"] for row in rows] == [["cast:m"], []]
    assert rows[1]["m"] == {1: 2, 2: None}


def test_decimals_are_exact(spark: SparkSession, tmp_path: Path) -> None:
    exact = Decimal("12345678901234567890.12")
    write(
        tmp_path / "pq" / "a.parquet",
        stored=pa.array([exact, Decimal("0.10"), Decimal("1.01")], pa.decimal128(38, 2)),
        text=["12345678901234567890.12", "1.230", "1.234"],
        double=[0.1, 1.25, 1.005],
        whole=[1, 2, 3],
    )
    kinds = dict.fromkeys(("stored", "text", "double", "whole"), "decimal(38,2)")
    rows = read(spark, section(tmp_path / "pq", kinds))
    assert [row["stored"] for row in rows] == [exact, Decimal("0.10"), Decimal("1.01")]
    assert [row["text"] for row in rows] == [exact, Decimal("1.23"), None]
    assert [row["double"] for row in rows] == [Decimal("0.10"), Decimal("1.25"), None]
    assert rows[2]["_reasons"] == ["cast:text", "cast:double"]
    one = section(tmp_path / "pq", {"stored": "decimal(20,1)"})
    assert faults(spark, one) == [["cast:stored"], [], ["cast:stored"]]
    nested = '{"d": 12345678901234567890.12, "n": {"d": 12345678901234567890.12}}\n'
    (tmp_path / "a.json").write_text(nested)
    columns = {"d": "decimal(38,2)", "n": "struct<d: decimal(38,2)>"}
    assert values(spark, section(tmp_path, columns, format="json")) == [(exact, {"d": exact})]


@pytest.mark.parametrize(
    ("stored", "kind", "expected"),
    [
        (pa.array([True, False, None]), "int", [1, 0, None]),
        (pa.array([True]), "double", [1.0]),
        (pa.array([1, 0, None]), "boolean", [True, False, None]),
        (pa.array([time(12, 30, 59, 500_000), None], pa.time64("us")), "string",
         ["12:30:59.500000", None]),
        (pa.array([time(1, 2, 3)], pa.time32("ms")), "string", ["01:02:03.000000"]),
        (pa.array([time(1, 2, 3)], pa.time64("ns")), "string", ["01:02:03.000000"]),
        (pa.array([b"caf\xc3\xa9"]), "string", ["café"]),
        (pa.array([b"ab"], pa.binary(2)), "binary", [bytearray(b"ab")]),
        (pa.array([127, -128], pa.int64()), "tinyint", [127, -128]),
        (pa.array([date(2024, 1, 2)]), "timestamp_ntz", [datetime(2024, 1, 2)]),  # noqa: DTZ001
        (pa.array([20240131]), "date", [date(2024, 1, 31)]),
    ],
)  # fmt: skip
def test_more_types_are_cast(
    spark: SparkSession, tmp_path: Path, stored: pa.Array, kind: str, expected: list[Any]
) -> None:
    write(tmp_path / "a.parquet", x=stored)
    column = {"type": kind, **({"format": "yyyyMMdd"} if kind == "date" else {})}
    assert values(spark, section(tmp_path, {"x": column})) == [(value,) for value in expected]


@pytest.mark.parametrize(
    ("stored", "kind", "remedy"),
    [
        (pa.array([1.5], pa.float16()), "double", "cannot read half floats"),
        (pa.array([time(1)], pa.time64("us")), "int", "Give it the type string"),
        (pa.array([1]), "timestamp", "unix_seconds"),
        (pa.array([1], pa.decimal256(50, 0)), "decimal(38,0)", "decimals of 38 digits"),
        (pa.array([[1]]), "map<string,int>", "Correct the type"),
        (pa.array([[1]]), "int", "Correct the type"),
        (pa.array([{"a": 1}]), "struct<b: int>", "field b is missing"),
    ],
)
def test_what_cannot_be_cast_says_what_can_be_done(
    spark: SparkSession, tmp_path: Path, stored: pa.Array, kind: str, remedy: str
) -> None:
    write(tmp_path / "a.parquet", x=stored)
    with pytest.raises(SchemaError, match=f"column x: has type .* cannot be cast .*{remedy}"):
        read(spark, section(tmp_path, {"x": kind}))


@pytest.mark.parametrize("value", [200, -129, 2**40])
def test_small_numbers_do_not_wrap(spark: SparkSession, tmp_path: Path, value: int) -> None:
    write(tmp_path / "a.parquet", x=[value, 1])
    assert faults(spark, section(tmp_path, {"x": "tinyint"})) == [["cast:x"], []]


def test_invalid_bytes_are_no_text(spark: SparkSession, tmp_path: Path) -> None:
    write(tmp_path / "a.parquet", x=[b"\xff", b"ok"])
    rows = read(spark, section(tmp_path, {"x": "string"}))
    assert [(row["x"], row["_reasons"]) for row in rows] == [(None, ["cast:x"]), ("ok", [])]
    assert rows[0]["_unreadable"] == {"x": "/w=="}


def test_naive_times_are_of_the_zone_that_the_source_names(
    spark: SparkSession, tmp_path: Path
) -> None:
    naive = datetime(2024, 7, 1, 12)  # noqa: DTZ001
    write(
        tmp_path / "a.parquet",
        naive=pa.array([naive], pa.timestamp("us")),
        nanos=pa.array([naive], pa.timestamp("ns")),
        zoned=pa.array([naive.replace(tzinfo=UTC)], pa.timestamp("us", "UTC")),
        text=["2024-07-01 12:00:00"],
        told=["2024-07-01T12:00:00+00:00"],
        named=["2024-07-01 12:00:00 UTC"],
        day=[date(2024, 7, 1)],
        own=["2024-07-01 12:00:00"],
    )
    columns: dict[str, Any] = dict.fromkeys(
        ("naive", "nanos", "zoned", "text", "told", "named", "day"), "timestamp"
    )
    columns["own"] = {"type": "timestamp", "time_zone": "America/New_York"}
    [row] = values(spark, section(tmp_path, columns, time_zone="Europe/Berlin"))
    hours = [value.strftime("%d %H") for value in row]
    assert hours == ["01 10", "01 10", "01 12", "01 10", "01 12", "01 12", "30 22", "01 16"]


def test_times_are_read_by_the_formats_that_are_named(spark: SparkSession, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(
        "day,at,n\n31/12/2024,31.12.2024 23:59 +0200,1700000000\n2024-12-30,2024,x\n99/1/2,,\n"
    )
    columns = {
        "day": {"type": "date", "format": ["dd/MM/yyyy", "yyyy-MM-dd"]},
        "at": {"type": "timestamp", "format": "dd.MM.yyyy HH:mm Z", "time_zone": "Asia/Tokyo"},
        "n": {"type": "timestamp", "format": "unix_seconds"},
    }
    rows = read(spark, section(tmp_path, columns, format="csv"))
    assert [row["day"] for row in rows] == [date(2024, 12, 31), date(2024, 12, 30), None]
    assert rows[0]["at"] == datetime(2024, 12, 31, 21, 59)  # noqa: DTZ001
    assert rows[0]["n"] == datetime(2023, 11, 14, 22, 13, 20)  # noqa: DTZ001
    assert [row["_reasons"] for row in rows] == [[], ["cast:at", "cast:n"], ["cast:day"]]


@pytest.mark.parametrize("text", ["now", "today", "12:30", "T12:30:15", "tomorrow", "epoch"])
@pytest.mark.parametrize("kind", ["timestamp", "date", "timestamp_ntz"])
def test_what_spark_takes_for_the_present_is_a_fault(
    spark: SparkSession, tmp_path: Path, text: str, kind: str
) -> None:
    write(tmp_path / "a.parquet", x=[text])
    assert faults(spark, section(tmp_path, {"x": kind})) == [["cast:x"]]


def test_numbers_are_read_by_their_separators(spark: SparkSession, tmp_path: Path) -> None:
    write(
        tmp_path / "a.parquet",
        us=["1,234.56", "1234.5", "-12,345,678", "1,23", "1,2345", ",5", None],
        de=["1.234,56", "1234,5", "-12.345.678", "1.23", "1,2,3", ",5", ""],
    )
    columns = {
        "us": {"type": "double", "grouping": ","},
        "de": {"type": "decimal(12,2)", "grouping": ".", "decimal_separator": ","},
    }
    rows = read(spark, section(tmp_path, columns))
    assert [row["us"] for row in rows] == [1234.56, 1234.5, -12345678.0, None, None, None, None]
    told = [None if row["de"] is None else str(row["de"]) for row in rows]
    assert told == ["1234.56", "1234.50", "-12345678.00", None, None, "0.50", None]
    assert [row["_reasons"] for row in rows][3:6] == [
        ["cast:us", "cast:de"],
        ["cast:us", "cast:de"],
        ["cast:us"],
    ]


def test_whole_numbers_that_came_as_doubles_are_times_by_their_format(
    spark: SparkSession, tmp_path: Path
) -> None:
    write(tmp_path / "a.parquet", d=[20240131.0, None, 1.5], u=[1.7e12, 9e18, None])
    columns = {
        "d": {"type": "date", "format": "yyyyMMdd"},
        "u": {"type": "timestamp", "format": "unix_millis"},
    }
    rows = read(spark, section(tmp_path, columns))
    assert [row["d"] for row in rows] == [date(2024, 1, 31), None, None]
    assert rows[0]["u"] == datetime(2023, 11, 14, 22, 13, 20)  # noqa: DTZ001
    assert [row["_reasons"] for row in rows] == [[], ["cast:u"], ["cast:d"]]


@pytest.mark.parametrize("pattern", ["YYYY-MM-dd", "dd.bb.jjjj"])
def test_a_pattern_that_is_none_is_named(spark: SparkSession, tmp_path: Path, pattern: str) -> None:
    write(tmp_path / "a.parquet", d=["x"])
    files = section(tmp_path, {"d": {"type": "date", "format": pattern}})
    with pytest.raises(ConfigError, match=r"source\.columns\.d\.format: .* is no pattern of Spark"):
        read(spark, files)


@pytest.mark.parametrize(
    ("text", "hour"), [("America/Port-au-Prince", 16), ("Etc/GMT+5", 17), ("+01:00", 11)]
)
def test_names_of_zones_may_have_hyphens_and_digits(
    spark: SparkSession, tmp_path: Path, text: str, hour: int
) -> None:
    write(tmp_path / "a.parquet", at=[f"2024-07-01 12:30:00 {text}"])
    [(at,)] = values(spark, section(tmp_path, {"at": "timestamp"}, time_zone="Europe/Berlin"))
    assert at.hour == hour


def test_casts_that_would_lose_something_are_faults(spark: SparkSession, tmp_path: Path) -> None:
    write(
        tmp_path / "a.parquet",
        big=[2**53 + 1, 2**53],
        hexed=["0x1p3", "inf"],
        day=["2024-01-01 99:junk", "2024-01-01T05:00:00Z"],
        nested=['{"a": 1} junk', '{"a": 1}'],
    )
    columns = {
        "big": "double", "hexed": "double", "day": "date", "nested": "struct<a: int>",
    }  # fmt: skip
    assert faults(spark, section(tmp_path, columns)) == [[f"cast:{name}" for name in columns], []]


def test_lists_of_a_fixed_size_are_lists(spark: SparkSession, tmp_path: Path) -> None:
    write(tmp_path / "a.parquet", v=pa.array([[1.0, 2.0]], pa.list_(pa.float32(), 2)))
    assert values(spark, section(tmp_path, {"v": "array<double>"})) == [([1.0, 2.0],)]
