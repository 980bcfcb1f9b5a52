from __future__ import annotations

from collections import Counter
from datetime import datetime
from pathlib import Path

import polars as pl
import pyarrow as pa
import pytest
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from pipeline.errors import LakeNotWritableError, SchemaError, SourceError
from pipeline.lake import Lake, commit
from pipeline.lake.schema import from_spark, to_spark

ROWS = [
    (1, "a b", datetime(2013, 1, 1, 0, 0, 0, 123_456), ["x"], "m:1 %+/é"),  # noqa: DTZ001
    (2, None, None, None, None),
    (3, "c", None, [], "plain"),
]
COLUMNS = "id int, s string, t timestamp, tags array<string>, p string"


def test_spark_writes_and_reads_back_every_partition_value(spark: SparkSession, lake: Lake) -> None:
    frame = spark.createDataFrame(ROWS, COLUMNS)
    table = lake.table("folder/t")
    table.create(from_spark(frame.schema), ["p"])
    with table.attempt() as attempt:
        commit(table, attempt.write(frame))
    with table.attempt() as attempt:  # a second attempt, so that rows lie in two folders
        commit(table, attempt.write(frame.where("id = 3")))
    read = table.snapshot().dataframe(spark)
    assert read.schema == frame.schema
    wanted = Counter({(1, "m:1 %+/é"): 1, (2, None): 1, (3, "plain"): 2})
    assert Counter((row.id, row.p) for row in read.collect()) == wanted
    polars = pl.read_delta(table.root).select("id", "p")
    assert Counter(polars.iter_rows()) == wanted


def test_a_lake_in_a_folder_called_like_a_partition_is_read_right(
    spark: SparkSession, tmp_path: Path
) -> None:
    frame = spark.createDataFrame([(1, "own"), (2, "other")], "id int, p string")
    table = Lake(tmp_path / "p=foreign").table("t")
    table.create(from_spark(frame.schema), ["p"])
    with table.attempt() as attempt:
        commit(table, attempt.write(frame))
    read = table.snapshot().dataframe(spark).collect()
    assert Counter((row.id, row.p) for row in read) == Counter([(1, "own"), (2, "other")])


def test_an_empty_table_reads_as_an_empty_frame(spark: SparkSession, lake: Lake) -> None:
    table = lake.table("t")
    schema = pa.schema([("id", pa.int64()), ("tags", pa.list_(pa.string()))])
    table.create(schema)
    assert table.snapshot().dataframe(spark).schema == to_spark(schema)
    assert table.snapshot().dataframe(spark).count() == 0


def test_a_frame_of_another_schema_is_refused_and_leaves_nothing(
    spark: SparkSession, lake: Lake
) -> None:
    table = lake.table("t")
    table.create(pa.schema([("id", pa.int64())]))
    with pytest.raises(SchemaError, match="column id: has type int32"), table.attempt() as attempt:
        attempt.write(spark.createDataFrame([(1,)], "id int"))
    assert [p.name for p in Path(table.root).iterdir()] == ["_delta_log"]


def test_a_failed_write_leaves_nothing(spark: SparkSession, lake: Lake, tmp_path: Path) -> None:
    table = lake.table("t")
    table.create(pa.schema([("id", pa.int64())]))
    raw = tmp_path / "raw"
    spark.range(1000).coalesce(1).write.parquet(str(raw))
    (file,) = raw.glob("*.parquet")
    damaged = bytearray(file.read_bytes())
    damaged[4:200] = b"\xff" * 196  # the page, not the footer
    file.write_bytes(damaged)
    Path(f"{file.parent}/.{file.name}.crc").unlink()
    broken = spark.read.schema("id bigint").parquet(str(raw))
    with pytest.raises(SourceError, match=file.name), table.attempt() as attempt:
        attempt.write(broken)
    assert table.snapshot().rows == 0
    assert [p.name for p in Path(table.root).iterdir()] == ["_delta_log"]


def test_row_groups_are_cut_by_rows(spark: SparkSession, lake: Lake) -> None:
    import pyarrow.parquet as pq

    table = lake.table("t")
    table.create(pa.schema([("id", pa.int64())]))
    with table.attempt() as attempt:
        options = {"parquet.block.row.count.limit": "100"}
        (file,) = attempt.write(spark.range(1000).coalesce(1).select(F.col("id")), options)
    footer = pq.read_metadata(f"{table.root}/{file.path}")
    assert [footer.row_group(g).num_rows for g in range(footer.num_row_groups)] == [100] * 10


def test_a_lake_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(
        LakeNotWritableError, match=r"file/lake: cannot be written: Not a directory"
    ):
        Lake(tmp_path / "file" / "lake").require_writable()
