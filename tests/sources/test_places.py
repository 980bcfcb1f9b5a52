from __future__ import annotations

import re
from pathlib import Path

import pyarrow as pa
import pyarrow.dataset as ds
import pytest
from pyspark.sql import SparkSession

from pipeline.address import Address
from pipeline.errors import ConfigError, SourceError
from pipeline.lake import Lake
from pipeline.sources.places import _regex, split_pattern
from tests.sources.reads import faults, opened, read, section, values, write


def test_several_folders_files_and_globs_are_one_source(
    spark: SparkSession, tmp_path: Path
) -> None:
    write(tmp_path / "a" / "x.parquet", id=[1])
    write(tmp_path / "b" / "x.parquet", id=[2])
    write(tmp_path / "b" / "y.parquet", id=[3])
    write(tmp_path / "c" / "z.parquet", id=[4])
    paths = [str(tmp_path / "a"), str(tmp_path / "b" / "x.*"), str(tmp_path / "c" / "z.parquet")]
    rows = read(spark, section(paths, {"id": "int"}))
    named = [(row["_source_file"], row["id"]) for row in rows]
    assert named == [("a/x.parquet", 1), ("b/x.parquet", 2), ("c/z.parquet", 4)]
    twice = section([str(tmp_path / "a"), str(tmp_path / "a" / "x.parquet")], {"id": "int"})
    assert values(spark, twice) == [(1,)], "a file that two paths name is one file"


def test_columns_come_from_the_names_of_folders(spark: SparkSession, tmp_path: Path) -> None:
    for folder, number in (
        ("code=01/day=2024-01-02", 1),
        ("code=a%2Fb%20+%C3%A9/day=2024-01-03", 2),
        ("code=__HIVE_DEFAULT_PARTITION__/day=x", 3),
        ("code=/day=2024-01-04", 4),
    ):
        write(tmp_path / folder / "f.parquet", id=[number])
    columns = {"code": "string", "day": "date", "id": "int"}
    rows = {row["id"]: row for row in read(spark, section(tmp_path, columns))}
    assert [rows[n]["code"] for n in (1, 2, 3, 4)] == ["01", "a/b +é", None, ""]
    assert [rows[n]["_reasons"] for n in (1, 2, 3, 4)] == [[], [], ["cast:day"], []]
    numbers = [row["code"] for row in read(spark, section(tmp_path, {"code": "int"}))]
    assert sorted(numbers, key=str) == [1, None, None, None]


@pytest.mark.parametrize("kind", ["parquet", "csv", "json"])
def test_every_format_has_columns_of_folders(
    spark: SparkSession, tmp_path: Path, kind: str
) -> None:
    folder = tmp_path / "code=01"
    folder.mkdir()
    if kind == "parquet":
        # The folder's name goes before a column of the file, as for Spark.
        write(folder / "a.parquet", id=[1], code=["of the file"])
    else:
        (folder / f"a.{kind}").write_text({"csv": "id\n1\n", "json": '{"id": 1}\n'}[kind])
    write(tmp_path / "other.parquet", id=[2])  # not below `code=`
    (tmp_path / "other.parquet").unlink()
    columns = {"id": "int", "code": "string"}
    assert values(spark, section(tmp_path, columns, format=kind)) == [(1, "01")]


def test_folders_are_as_another_writer_spells_them(spark: SparkSession, tmp_path: Path) -> None:
    table = pa.table({"k": ["a b", "x/y", "1=2", "ü", None], "id": [1, 2, 3, 4, 5]})
    ds.write_dataset(
        table, tmp_path, format="parquet", partitioning=["k"], partitioning_flavor="hive"
    )
    found = sorted(values(spark, section(tmp_path, {"id": "int", "k": "string"})))
    assert found == sorted(zip(table["id"].to_pylist(), table["k"].to_pylist(), strict=True))


def test_an_escape_that_is_none_is_refused(spark: SparkSession, tmp_path: Path) -> None:
    write(tmp_path / "k=100%" / "a.parquet", id=[1])
    with pytest.raises(SourceError, match="has a % that escapes nothing"):
        opened(spark, section(tmp_path, {"id": "int"}))


def test_links_are_followed_once(spark: SparkSession, tmp_path: Path) -> None:
    write(tmp_path / "real" / "a.parquet", id=[1])
    raw = tmp_path / "raw"
    write(raw / "b.parquet", id=[2])
    (raw / "linked").symlink_to(tmp_path / "real")
    (raw / "loop").symlink_to(raw)
    assert sorted(values(spark, section(raw, {"id": "int"}))) == [(1,), (2,)]
    (raw / "dangling.parquet").symlink_to(tmp_path / "nowhere.parquet")
    with pytest.raises(SourceError, match=r"dangling\.parquet: is no file: a link to nothing"):
        opened(spark, section(raw, {"id": "int"}))


@pytest.mark.parametrize(
    ("below", "told"),
    [
        (".hoodie/hoodie.properties", "a table of Hudi"),
        ("metadata/v1.metadata.json", "a table of Iceberg"),
    ],
)
def test_tables_of_other_formats_are_refused_by_name(
    spark: SparkSession, tmp_path: Path, below: str, told: str
) -> None:
    write(tmp_path / "data" / "a.parquet", id=[1])
    (tmp_path / below).parent.mkdir()
    (tmp_path / below).touch()
    with pytest.raises(SourceError, match=told):
        opened(spark, section(tmp_path, {"id": "int"}))


def test_a_folder_called_metadata_is_only_a_folder(spark: SparkSession, tmp_path: Path) -> None:
    write(tmp_path / "metadata" / "a.parquet", id=[1])
    assert values(spark, section(tmp_path, {"id": "int"})) == [(1,)]


@pytest.mark.parametrize(
    ("pattern", "fits", "not_fits"),
    [
        ("*.csv", ["a.csv"], ["b/a.csv", "a.csvx"]),
        ("2024-*/[ab].csv", ["2024-01/a.csv"], ["2024-01/c.csv", "2024-01/x/a.csv"]),
        ("**/*.csv", ["a.csv", "b/c/a.csv"], ["a.json"]),
        ("a?.csv", ["ab.csv"], ["a.csv", "a/.csv"]),
    ],
)
def test_globs_in_object_stores_mean_what_they_mean_on_disks(
    pattern: str, fits: list[str], not_fits: list[str]
) -> None:
    assert all(re.fullmatch(_regex(pattern), name) for name in fits)
    assert not any(re.fullmatch(_regex(pattern), name) for name in not_fits)
    assert split_pattern(f"s3://bucket/raw/{pattern}") == ("s3://bucket/raw", pattern)
    assert str(Address("s3", "bucket", "raw")) == "s3://bucket/raw"


@pytest.mark.parametrize("name", ["a%20b", "100%25"])
def test_a_lake_whose_path_delta_rs_would_decode_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match=r"lake: has %2. in its path"):
        Lake(tmp_path / name)
    Lake(tmp_path / "100%")


def test_a_column_of_folders_may_be_missing_in_some(spark: SparkSession, tmp_path: Path) -> None:
    write(tmp_path / "code=1" / "a.parquet", id=[1])
    write(tmp_path / "b.parquet", id=[2])
    files = section(tmp_path, {"id": "int", "code": "int"}, policies={"missing_column": None})
    assert sorted(values(spark, files), key=str) == [(1, 1), (2, None)]
    assert faults(spark, files) == [[], []]


def test_folders_that_a_glob_names_are_read(spark: SparkSession, tmp_path: Path) -> None:
    write(tmp_path / "a.parquet", id=[1])
    write(tmp_path / "b.parquet" / "part-0.parquet", id=[2])
    (tmp_path / "b.parquet" / "notes.txt").write_text("none")
    assert values(spark, section(tmp_path / "*.parquet", {"id": "int"})) == [(1,), (2,)]


def test_a_file_that_links_name_again_is_read_once(spark: SparkSession, tmp_path: Path) -> None:
    write(tmp_path / "raw" / "2024.parquet", id=[1])
    (tmp_path / "raw" / "0-latest.parquet").symlink_to(tmp_path / "raw" / "2024.parquet")
    (tmp_path / "again").symlink_to(tmp_path / "raw")
    files = section([str(tmp_path / "raw"), str(tmp_path / "again")], {"id": "int"})
    assert [row["_source_file"] for row in read(spark, files)] == ["raw/2024.parquet"]


def test_the_name_of_a_file_is_no_folder(spark: SparkSession, tmp_path: Path) -> None:
    write(tmp_path / "code=01" / "code=02.parquet", id=[1])
    assert values(spark, section(tmp_path, {"id": "int", "code": "string"})) == [(1, "01")]


def test_a_folder_goes_before_a_column_of_text(spark: SparkSession, tmp_path: Path) -> None:
    (tmp_path / "code=01").mkdir()
    (tmp_path / "code=01" / "a.csv").write_text("id,code\n1,99\n")
    files = section(tmp_path, {"id": "int", "code": "string"}, format="csv")
    assert values(spark, files) == [(1, "01")]
