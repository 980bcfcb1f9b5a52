from __future__ import annotations

import gzip
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyspark.sql import DataFrame, SparkSession

from pipeline.clean.contract import REASONS, UNREADABLE, typed
from pipeline.config import Files, Storage
from pipeline.errors import ConfigError, LakestormError, SchemaError, SourceError
from pipeline.sources.format import Rows
from pipeline.sources.formats import open_rows
from pipeline.sources.raw import RawFile

COLUMNS = {"id": {"type": "int", "required": True}, "x": {"type": "double"}}


def described(
    path: Path,
    file_format: str = "parquet",
    columns: Mapping[str, Any] | None = None,
    options: Mapping[str, str] | None = None,
) -> Files:
    return Files.model_validate(
        {
            "path": str(path),
            "format": file_format,
            "options": options or {},
            "columns": columns or COLUMNS,
        }
    )


def rows_of(spark: SparkSession, files: Files) -> Rows:
    return open_rows(spark, files, "source", Storage())


def found(spark: SparkSession, files: Files) -> tuple[RawFile, ...]:
    return rows_of(spark, files).found.files


def frames(spark: SparkSession, files: Files) -> list[DataFrame]:
    rows = rows_of(spark, files)
    return [typed(group, rows.files.columns, files.time_zone) for group in rows.frames(spark)]


def write(path: Path, **columns: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path)


def test_files_are_named_below_the_source_wherever_it_lies(
    spark: SparkSession, tmp_path: Path
) -> None:
    for name in ("b.parquet", "2013/a.parquet", "2014/a.parquet", "whole.parquet/part-0.parquet"):
        write(tmp_path / "raw" / name, id=[1])
    for name in ("_spark_metadata/0.parquet", ".staged/a.parquet", "_a.parquet", "2013/.a.parquet"):
        write(tmp_path / "raw" / name, id=[1])
    (tmp_path / "raw" / "notes.txt").write_text("no raw file")
    names = ["2013/a.parquet", "2014/a.parquet", "b.parquet", "whole.parquet/part-0.parquet"]
    raw = tmp_path / "raw"
    assert [file.name for file in found(spark, described(raw))] == names
    by_glob = found(spark, described(raw / "201*" / "*.parquet"))
    assert [file.name for file in by_glob] == names[:2]
    assert [f.name for f in found(spark, described(raw / "b.parquet"))] == ["b.parquet"]
    dotted = found(spark, described(raw / "2013" / ".."))
    assert [file.path for file in dotted] == [str(raw / name) for name in names]


@pytest.mark.parametrize("place", ["", "missing", "*.parquet"])
def test_no_raw_file_is_an_error_that_names_the_setting(
    spark: SparkSession, tmp_path: Path, place: str
) -> None:
    with pytest.raises(SourceError, match=r"^source\.path: there is no parquet file in"):
        found(spark, described(tmp_path / place))


def test_a_file_without_bytes_is_named(spark: SparkSession, tmp_path: Path) -> None:
    write(tmp_path / "a.parquet", id=[1])
    (tmp_path / "b.parquet").touch()
    with pytest.raises(SourceError, match=r"^file .*/b\.parquet: is empty \(0 bytes; 1 such"):
        found(spark, described(tmp_path))


@pytest.mark.parametrize("name", ["a[1].parquet", "a{x}.parquet", "10:00.parquet", "what?.parquet"])
def test_a_name_that_spark_takes_for_a_pattern_is_refused(
    spark: SparkSession, tmp_path: Path, name: str
) -> None:
    write(tmp_path / name, id=[1])
    with pytest.raises(SourceError, match="in its path"):
        found(spark, described(tmp_path))


@pytest.mark.parametrize("option", ["mode", "MODE", "ignoreCorruptFiles", "pathGlobFilter"])
def test_an_option_that_would_lose_rows_is_refused(
    spark: SparkSession, tmp_path: Path, option: str
) -> None:
    with pytest.raises(ConfigError, match=rf"^source\.options\.{option}: is not allowed"):
        found(spark, described(tmp_path, options={option: "x"}))


@pytest.mark.parametrize(
    ("stored", "kind"),
    [
        ([[1]], "int"),
        ([datetime(2013, 1, 1)], "double"),  # noqa: DTZ001
        ([1.5], "timestamp"),
        ([True], "date"),
        ([{"a": 1}], "string"),
        ([b"x"], "int"),
        (pa.array([1.0], pa.float16()), "double"),
        (pa.array([1], pa.decimal256(50, 2)), "double"),
    ],
)
def test_a_retyped_column_is_named_with_its_file(
    spark: SparkSession, tmp_path: Path, stored: Any, kind: str
) -> None:
    write(tmp_path / "good.parquet", id=[1], x=[None])
    write(tmp_path / "late.parquet", id=[1], x=stored)
    files = described(tmp_path, columns={**COLUMNS, "x": {"type": kind}})
    with pytest.raises(SchemaError, match=r"^file .*/late\.parquet, column x: has type"):
        frames(spark, files)


def test_a_missing_column_is_named_with_its_file(spark: SparkSession, tmp_path: Path) -> None:
    write(tmp_path / "good.parquet", id=[1], x=[1.0])
    write(tmp_path / "late.parquet", id=[1], y=[1.0])
    with pytest.raises(SchemaError, match=r"late\.parquet, column x: is missing; .* id, y"):
        frames(spark, described(tmp_path))


@pytest.mark.parametrize("damage", ["text", "cut"])
def test_a_file_without_a_footer_is_named(spark: SparkSession, tmp_path: Path, damage: str) -> None:
    write(tmp_path / "good.parquet", id=[1], x=[1.0])
    whole = (tmp_path / "good.parquet").read_bytes()
    (tmp_path / "bad.parquet").write_bytes(b"no Parquet" if damage == "text" else whole[:-20])
    with pytest.raises(SourceError, match=r"^file .*/bad\.parquet: is not readable Parquet"):
        frames(spark, described(tmp_path))


def test_files_that_spell_a_column_in_other_types_are_read_right(
    spark: SparkSession, tmp_path: Path
) -> None:
    write(tmp_path / "jan.parquet", id=[1, 2], x=[10, None])
    write(tmp_path / "feb.parquet", x=["11.5", "much"], id=[3.0, 3.5], more=[0, 0])
    write(tmp_path / "a b+é%20.parquet", id=pa.array([5], pa.int16()), x=pa.nulls(1))
    files = described(tmp_path)
    assert rows_of(spark, files).rows() == 5
    groups = frames(spark, files)
    rows = groups[0].unionByName(groups[1]).unionByName(groups[2]).collect()
    assert sorted(rows, key=lambda row: (row["_source_file"], row["_source_position"])) == [
        (5, None, "a b+é%20.parquet", 0, [], None),
        (3, 11.5, "feb.parquet", 0, [], None),
        (None, None, "feb.parquet", 1, ["cast:id", "cast:x"], {"id": "3.5", "x": "much"}),
        (1, 10.0, "jan.parquet", 0, [], None),
        (2, None, "jan.parquet", 1, [], None),
    ]


def test_timestamps_of_old_spark_files_are_read(spark: SparkSession, tmp_path: Path) -> None:
    stamp = datetime(2013, 1, 1, 5)  # noqa: DTZ001
    table = pa.table({"at": pa.array([stamp, None], pa.timestamp("us"))})
    pq.write_table(table, tmp_path / "a.parquet", use_deprecated_int96_timestamps=True)
    (frame,) = frames(spark, described(tmp_path, columns={"at": {"type": "timestamp"}}))
    assert [row["at"] for row in frame.collect()] == [stamp, None]


def test_csv_lines_are_read_whatever_the_order_of_their_columns(
    spark: SparkSession, tmp_path: Path
) -> None:
    (tmp_path / "a.csv").write_text('id,x,y\n1,2.5,"a,b"\n2,,\n3,4\n4,5,6,7\n\nx,much,\n')
    with gzip.open(tmp_path / "b.csv.gz", "wt") as other:
        other.write("y,id,x\nq,9,NaN\n")
    groups = frames(spark, described(tmp_path, "csv"))
    rows = [tuple(row) for group in groups for row in group.collect()]
    assert rows == [
        (1, 2.5, "a.csv", 0, [], None),
        (2, None, "a.csv", 1, [], None),
        (3, 4.0, "a.csv", 2, ["malformed"], {"_malformed": "3,4"}),
        (4, 5.0, "a.csv", 3, ["malformed"], {"_malformed": "4,5,6,7"}),
        (None, None, "a.csv", 4, ["cast:id", "cast:x"], {"id": "x", "x": "much"}),
        (9, None, "b.csv.gz", 0, [], None),
    ]


def test_json_lines_are_read_as_they_are_written(spark: SparkSession, tmp_path: Path) -> None:
    lines = [
        '{"id": 1, "x": 2.50}',
        '{"x": NaN, "id": "2"}',
        '{"id": 3, "x": {"a": 1}}',
        "{id",
        "7",
    ]
    (tmp_path / "a.jsonl").write_text("\n".join([*lines, ""]))
    (frame,) = frames(spark, described(tmp_path, "json"))
    rows = {row["_source_position"]: row for row in frame.collect()}
    assert [tuple(rows[place])[:2] for place in range(3)] == [(1, 2.5), (2, None), (3, None)]
    assert [rows[place][REASONS] for place in range(5)] == [
        [],
        [],
        ["cast:x"],
        ["malformed", "required:id"],
        ["malformed", "required:id"],
    ]
    assert rows[2][UNREADABLE] == {"x": '{"a": 1}'}
    assert rows[3][UNREADABLE] == {"_malformed": "{id"}


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("a.csv", b"id,y\n1,2\n", r"a\.csv, column x: is missing; the file has id, y"),
        ("a.csv", b"\n", r"a\.csv, column id: is missing"),
        ("a.csv.gz", b"no gzip", r"file .*/a\.csv\.gz: cannot be read"),
    ],
)
def test_text_that_is_no_table_is_named(
    spark: SparkSession, tmp_path: Path, name: str, content: bytes, told: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(LakestormError, match=told):
        frames(spark, described(tmp_path, "csv"))
