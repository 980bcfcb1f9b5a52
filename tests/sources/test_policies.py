from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyspark.sql import SparkSession

from pipeline.errors import ConfigError, SchemaError
from tests.sources.reads import opened, read, section, values, write


@pytest.fixture
def months(tmp_path: Path) -> Path:
    """Two files: the second lacks `x`, has `extra`, and spells `ID` otherwise."""
    write(tmp_path / "raw" / "1.parquet", id=[1, 2], x=[1.5, None], name=["a", "b"])
    write(tmp_path / "raw" / "2.parquet", id=[3], name=["c"], extra=[pa.scalar(7)])
    return tmp_path / "raw"


CONTRACT = {"id": {"type": "bigint", "required": True}, "x": "double", "name": "string"}


@pytest.mark.parametrize("policy", [None, "null"])
def test_a_column_that_one_file_lacks_is_null_there(
    spark: SparkSession, months: Path, policy: str | None
) -> None:
    files = section(months, CONTRACT, policies={"missing_column": policy})
    assert values(spark, files) == [(1, 1.5, "a"), (2, None, "b"), (3, None, "c")]


def test_a_column_that_one_file_lacks_has_its_default_there(
    spark: SparkSession, months: Path
) -> None:
    contract = {**CONTRACT, "x": {"type": "double", "default": 9}}
    files = section(months, contract, policies={"missing_column": "default"})
    assert values(spark, files) == [(1, 1.5, "a"), (2, None, "b"), (3, 9.0, "c")]
    wrong = {**CONTRACT, "x": {"type": "double", "default": "much"}}
    with pytest.raises(ConfigError, match=r"columns\.x\.default: 'much' is no double"):
        opened(spark, section(months, wrong, policies={"missing_column": "default"}))


def test_a_column_that_one_file_lacks_fails_by_default(spark: SparkSession, months: Path) -> None:
    with pytest.raises(SchemaError, match=r"2\.parquet, column x: is missing; .*missing_column"):
        read(spark, section(months, CONTRACT))


@pytest.mark.parametrize(
    ("kind", "content"),
    [
        ("csv", ["id,x,name\n1,1.5,a\n", "id,name\n3,c\n"]),
        ("json", ['{"id": 1, "x": 1.5, "name": "a"}\n', '{"id": 3, "name": "c"}\n']),
    ],
)
def test_text_may_lack_a_column_too(
    spark: SparkSession, tmp_path: Path, kind: str, content: list[str]
) -> None:
    for number, text in enumerate(content):
        (tmp_path / f"{number}.{kind}").write_text(text)
    files = section(tmp_path, CONTRACT, format=kind, policies={"missing_column": "null"})
    assert values(spark, files) == [(1, 1.5, "a"), (3, None, "c")]


def test_a_new_column_is_ignored_kept_or_fails(spark: SparkSession, months: Path) -> None:
    lacking: dict[str, Any] = {"missing_column": "null"}
    ignoring = opened(spark, section(months, CONTRACT, policies=lacking))
    assert [match.new for match in ignoring.matches()] == [(), ("extra",)]
    with pytest.raises(SchemaError, match=r"2\.parquet, column extra: is not in the contract"):
        read(spark, section(months, CONTRACT, policies={**lacking, "new_column": "fail"}))
    kept = read(spark, section(months, CONTRACT, policies={**lacking, "new_column": "keep"}))
    assert [row["other_columns"] for row in kept] == [None, None, {"extra": "7"}]


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("csv", 'id,more,x,name,odd\n1,"a ""b""",1.5,a,\n'),
        ("json", '{"id": 1, "x": 1.5, "name": "a", "more": "a \\"b\\"", "odd": null}\n'),
    ],
)
def test_new_columns_of_text_are_kept_as_text(
    spark: SparkSession, tmp_path: Path, kind: str, text: str
) -> None:
    (tmp_path / f"a.{kind}").write_text(text)
    (row,) = read(spark, section(tmp_path, CONTRACT, format=kind, policies={"new_column": "keep"}))
    assert row["other_columns"] == {"more": 'a "b"', "odd": None}
    with pytest.raises(SchemaError, match="column more: is not in the contract"):
        read(spark, section(tmp_path, CONTRACT, format=kind, policies={"new_column": "fail"}))


def test_nested_and_binary_new_columns_are_kept_as_json_and_base64(
    spark: SparkSession, tmp_path: Path
) -> None:
    write(tmp_path / "a.parquet", id=[1], who=[{"age": 7}], pages=[[1, 2]], raw=[b"\x00\x01"])
    (row,) = read(spark, section(tmp_path, {"id": "int"}, policies={"new_column": "keep"}))
    assert row["other_columns"] == {"who": '{"age":7}', "pages": "[1,2]", "raw": "AAE="}


def test_a_renamed_column_is_found_by_its_old_and_new_name(
    spark: SparkSession, tmp_path: Path
) -> None:
    write(tmp_path / "1.parquet", key=[1])
    write(tmp_path / "2.parquet", id=[2])
    files = section(tmp_path, {"n": {"type": "int", "from": ["id", "key"]}})
    assert values(spark, files) == [(1,), (2,)]
    with pytest.raises(SchemaError, match=r"column n \(from: no\): is missing"):
        read(spark, section(tmp_path, {"n": {"type": "int", "from": "no"}}))


def test_json_may_change_the_name_of_a_key_within_a_file(
    spark: SparkSession, tmp_path: Path
) -> None:
    (tmp_path / "a.jsonl").write_text('{"key": 1, "u": {"age": 5}}\n{"id": 2, "u.age": 6}\n')
    columns = {
        "n": {"type": "int", "from": ["id", "key"]},
        "age": {"type": "int", "from": "u.age"},
    }
    assert values(spark, section(tmp_path, columns, format="json")) == [(1, 5), (2, 6)]


def test_case_is_exact_unless_the_policy_says_otherwise(
    spark: SparkSession, tmp_path: Path
) -> None:
    write(tmp_path / "pq" / "a.parquet", ID=[1])
    (tmp_path / "a.csv").write_text("ID\n1\n")
    (tmp_path / "a.json").write_text('{"ID": 1}\n')
    for path, kind in (("pq", "parquet"), ("a.csv", "csv"), ("a.json", "json")):
        told = {"policies": {"case": "ignore"}, "format": kind}
        assert values(spark, section(tmp_path / path, {"id": "int"}, **told)) == [(1,)]
        if kind != "json":  # whose lines may leave out what is null
            with pytest.raises(SchemaError, match="column id: is missing; the file has ID"):
                read(spark, section(tmp_path / path, {"id": "int"}, format=kind))


def test_two_columns_that_differ_in_case_alone_are_refused(
    spark: SparkSession, tmp_path: Path
) -> None:
    write(tmp_path / "a.parquet", id=[1], ID=[2])
    with pytest.raises(SchemaError, match="column id: is beside ID, which Spark takes"):
        read(spark, section(tmp_path, {"id": "int"}))
    (tmp_path / "a.json").write_text('{"ID": 1}\n{"Id": 2}\n')
    files = section(tmp_path, {"id": "int"}, format="json", policies={"case": "ignore"})
    with pytest.raises(SchemaError, match="which Spark takes for the same"):
        read(spark, files)


@pytest.mark.parametrize(
    ("stored", "kind", "change"),
    [
        (pa.array([2**31], pa.int64()), "int", "widened_type"),
        (pa.array([1.5], pa.float64()), "float", "widened_type"),
        (pa.array([1], pa.int32()), "bigint", "narrowed_type"),
        (pa.array([1.5], pa.float32()), "double", "narrowed_type"),
        (pa.array([7], pa.int16()), "double", "narrowed_type"),
        (pa.array([7.0], pa.float64()), "int", "widened_type"),
        (pa.array([7], pa.int32()), "decimal(12,2)", "narrowed_type"),
        (pa.array(["7"]), "int", "changed_type"),
        (pa.array([True]), "int", "changed_type"),
        (pa.array([7]), "string", "changed_type"),
        (pa.array([19000], pa.date32()), "timestamp", "narrowed_type"),
    ],
)
def test_other_types_are_cast_or_fail_as_each_policy_says(
    spark: SparkSession, tmp_path: Path, stored: pa.Array, kind: str, change: str
) -> None:
    write(tmp_path / "a.parquet", x=stored)
    (row,) = read(spark, section(tmp_path, {"x": kind}))
    overflows = stored.to_pylist() == [2**31]
    assert row["_reasons"] == (["cast:x"] if overflows else [])
    others = {"widened_type", "narrowed_type", "changed_type"} - {change}
    read(spark, section(tmp_path, {"x": kind}, policies=dict.fromkeys(others, "fail")))
    with pytest.raises(SchemaError, match=f"policies.{change} is fail"):
        read(spark, section(tmp_path, {"x": kind}, policies={change: "fail"}))


def test_patterns_stand_for_many_columns(spark: SparkSession, tmp_path: Path) -> None:
    write(tmp_path / "a.parquet", id=[1], **{f"f{n}": [n / 2] for n in range(200)}, g=["x"])
    files = section(tmp_path, {"f*": "double", "id": "bigint", "f7": "string"})
    rows = opened(spark, files)
    assert len(rows.files.columns) == 201
    assert [rows.files.columns[name].type for name in ("f6", "f7", "f8")] == [
        "double",
        "string",
        "double",
    ]
    (row,) = read(spark, files)
    assert (row["f0"], row["f7"], row["f199"], row["id"]) == (0.0, "3.5", 99.5, 1)
    with pytest.raises(ConfigError, match=r"source\.columns\.z\*: matches no column"):
        opened(spark, section(tmp_path, {"z*": "double"}))


@pytest.mark.parametrize(
    ("kind", "text"), [("csv", "id,f1,f2\n1,2,3\n"), ("json", '{"id": 1, "f1": 2, "f2": 3}\n')]
)
def test_patterns_match_columns_of_text(
    spark: SparkSession, tmp_path: Path, kind: str, text: str
) -> None:
    (tmp_path / f"a.{kind}").write_text(text)
    files = section(tmp_path, {"id": "int", "f?": "double"}, format=kind)
    assert values(spark, files) == [(1, 2.0, 3.0)]


def test_columns_that_are_there_twice_are_refused(spark: SparkSession, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("id,x,x\n1,2,3\n")
    with pytest.raises(SchemaError, match=r"a\.csv, column x: is there twice"):
        read(spark, section(tmp_path, {"id": "int", "x": "int"}, format="csv"))
    twice = pa.Table.from_arrays([pa.array([1]), pa.array([2])], names=["x", "x"])
    pa.parquet.write_table(twice, tmp_path / "a.parquet")
    with pytest.raises(SchemaError, match=r"a\.parquet, column x: is there twice"):
        read(spark, section(tmp_path, {"x": "int"}))
