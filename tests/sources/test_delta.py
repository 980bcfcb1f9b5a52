"""Delta tables that other writers made, read as another engine reads them or refused."""

from __future__ import annotations

import os
import shutil
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable, QueryBuilder, write_deltalake
from pyspark.sql import SparkSession

from pipeline.errors import LakestormError, SourceError, TableNotFoundError
from tests.sources.reads import opened, read, section, values, write

SHARED = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "delta"
TYPES = {
    pl.Int32: "int", pl.Int64: "bigint", pl.String: "string", pl.Date: "date",
    pl.Datetime("us", "UTC"): "timestamp",
}  # fmt: skip


def multiset(rows: list[tuple[Any, ...]]) -> Counter[tuple[Any, ...]]:
    return Counter(
        tuple(v.replace(tzinfo=None) if isinstance(v, datetime) else v for v in row) for row in rows
    )


def aliased(names: list[str], kinds: list[str]) -> dict[str, Any]:
    """Names that Spark and our YAML allow, whatever the table calls its columns."""
    return {
        f"c{n}": {"type": k, "from": name}
        for n, (name, k) in enumerate(zip(names, kinds, strict=True))
    }


@pytest.mark.skipif(not SHARED.is_dir(), reason="the shared tables are not here")
@pytest.mark.parametrize(
    "name",
    [
        "checkpoint-v2-table",
        "delta-0.8-empty",
        "delta-0.8.0-null-partition",
        "delta-0.8.0-special-partition",
        "delta-2.2.0-partitioned-types",
        "simple_table",
        "simple_table_with_checkpoint",
    ],
)
def test_tables_of_other_writers_are_read_as_datafusion_reads_them(
    spark: SparkSession, name: str
) -> None:
    # DataFusion reads a feature that Polars and Arrow refuse.
    query = QueryBuilder().register("t", DeltaTable(SHARED / name)).execute("SELECT * FROM t")
    expected = pl.DataFrame(pa.table(query.read_all()))
    kinds = [TYPES[each] for each in expected.dtypes]
    files = section(SHARED / name, aliased(expected.columns, kinds))
    assert multiset(values(spark, files)) == multiset(expected.rows())
    assert opened(spark, files).rows() == expected.height


@pytest.mark.skipif(not SHARED.is_dir(), reason="the shared tables are not here")
def test_deleted_rows_and_mapped_columns_are_read_right(spark: SparkSession) -> None:
    files = section(SHARED / "table-with-dv-small", {"value": "int"})
    assert values(spark, files) == [(number,) for number in range(1, 9)]
    assert opened(spark, files).rows() == 8
    first = section(SHARED / "table-with-dv-small", {"value": "int"}, version=0)
    assert values(spark, first) == [(number,) for number in range(10)]
    columns = aliased(["Company Very Short", "Super Name"], ["string", "string"])
    mapped = values(spark, section(SHARED / "table_with_column_mapping", columns))
    assert sorted(mapped) == [
        ("BME", "Timothy Lamb"),
        ("BMS", "Anthony Johnson"),
        ("BMS", "Mr. Daniel Ferguson MD"),
        ("BMS", "Nathan Bennett"),
        ("BMS", "Stephanie Mcgrath"),
    ]


@pytest.mark.skipif(not SHARED.is_dir(), reason="the shared tables are not here")
def test_deletion_vectors_make_another_state_of_the_same_files(spark: SparkSession) -> None:
    place = SHARED / "table-with-dv-small"
    states = [
        opened(spark, section(place, {"value": "int"}, version=version)).found for version in (0, 1)
    ]
    assert states[0].files == states[1].files
    assert states[0].state != states[1].state


@pytest.mark.skipif(not SHARED.is_dir(), reason="the shared tables are not here")
def test_edge_timestamps_are_read_as_arrow_reads_them(spark: SparkSession) -> None:
    place = SHARED / "table_with_edge_timestamps"
    files = section(place, {"BIG_DATE": "timestamp", "NORMAL_DATE": "timestamp"})
    found = [row["BIG_DATE"].year for row in read(spark, files)]
    paths = sorted(place.glob("*.parquet"))
    stored = [pq.read_table(path, coerce_int96_timestamp_unit="us") for path in paths]
    assert found == [value.year for table in stored for value in table["BIG_DATE"].to_pylist()]


@pytest.mark.skipif(not SHARED.is_dir(), reason="the shared tables are not here")
@pytest.mark.parametrize(
    ("name", "version"),
    [("checkpoint_with_partitions", 2), ("with_checkpoint_no_last_checkpoint", 3)],
)
def test_a_table_whose_files_are_gone_is_refused(
    spark: SparkSession, name: str, version: int
) -> None:
    files = section(SHARED / name, {"id": "int"})
    with pytest.raises(SourceError, match=f"is gone, and version {version} of the table"):
        opened(spark, files)


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """By delta-rs: appended to, compacted, updated, deleted from, with a checkpoint; 300 rows."""
    place = tmp_path / "table"
    for start in (0, 100, 200, 300):
        ids = pa.array(range(start, start + 100), pa.int64())
        write_deltalake(
            place,
            pa.table({"id": ids, "x": ids.cast(pa.float64()), "k": ids.cast(pa.string())}),
            mode="append",
        )
    handle = DeltaTable(place)
    handle.optimize.compact()
    handle.update(updates={"x": "x + 0.5"}, predicate="id < 10")
    handle.delete("id >= 300")
    handle.create_checkpoint()
    return place


COLUMNS = {"id": "bigint", "x": "double", "k": "string"}


def test_a_table_is_what_its_log_says(spark: SparkSession, table: Path) -> None:
    expected = pl.read_delta(str(table))
    assert expected.height == 300
    for declared in ("parquet", "delta"):
        found = values(spark, section(table, COLUMNS, format=declared))
        assert multiset(found) == multiset(expected.rows())
    older = pl.read_delta(str(table), version=3)
    pinned = section(table, COLUMNS, version=3)
    assert multiset(values(spark, pinned)) == multiset(older.rows())


def test_a_vacuumed_table_still_has_its_newest_version(spark: SparkSession, table: Path) -> None:
    DeltaTable(table).vacuum(0, dry_run=False, enforce_retention_duration=False)
    found = values(spark, section(table, COLUMNS))
    assert multiset(found) == multiset(pl.read_delta(str(table)).rows())
    with pytest.raises(SourceError, match=r"is gone, and version 3 of the table"):
        opened(spark, section(table, COLUMNS, version=3))


def test_an_overwritten_table_has_no_row_twice(spark: SparkSession, tmp_path: Path) -> None:
    for _ in range(2):
        write_deltalake(tmp_path / "t", pa.table({"id": list(range(2000))}), mode="overwrite")
    assert len(values(spark, section(tmp_path / "t", {"id": "bigint"}))) == 2000


def test_a_version_is_pinned_by_its_time(spark: SparkSession, table: Path) -> None:
    for version, log in enumerate(sorted((table / "_delta_log").glob("*.json"))):
        os.utime(log, (1_700_000_000 + 60 * version,) * 2)
    moment = datetime.fromtimestamp(1_700_000_000 + 90, UTC)
    before = datetime(2020, 1, 1, tzinfo=UTC)
    with pytest.raises(TableNotFoundError, match="has no version at 2020-01-01"):
        opened(spark, section(table, COLUMNS, as_of=before))
    pinned = opened(spark, section(table, COLUMNS, as_of=moment))
    assert pinned.rows() == 200


@pytest.mark.parametrize(
    ("settings", "error", "told"),
    [
        ({"version": 99}, SourceError, "cannot be opened at version 99"),
        ({"format": "csv", "version": 1}, LakestormError, "says nothing to the format csv"),
    ],
)
def test_a_version_that_is_not_there_is_named(
    spark: SparkSession, table: Path, settings: dict[str, Any], error: type, told: str
) -> None:
    with pytest.raises(error, match=told):
        opened(spark, section(table, COLUMNS, **settings))


def test_a_folder_that_is_no_table_is_named(spark: SparkSession, tmp_path: Path) -> None:
    write(tmp_path / "a.parquet", id=[1])
    with pytest.raises(TableNotFoundError, match="is no Delta table"):
        opened(spark, section(tmp_path, {"id": "int"}, format="delta"))


def test_files_of_a_table_are_never_loose_parquet(spark: SparkSession, table: Path) -> None:
    with pytest.raises(SourceError, match="holds a table of Delta"):
        opened(spark, section(f"{table}/*.parquet", COLUMNS))
    with pytest.raises(SourceError, match="holds a table of Delta"):
        opened(spark, section(table.parent, COLUMNS))


def test_a_column_that_came_later_is_null_in_older_files(
    spark: SparkSession, tmp_path: Path
) -> None:
    place = tmp_path / "t"
    write_deltalake(place, pa.table({"id": [1]}))
    write_deltalake(place, pa.table({"id": [2], "x": [0.5]}), mode="append", schema_mode="merge")
    found = values(spark, section(place, {"id": "int", "x": "double"}))
    assert sorted(found) == [(1, None), (2, 0.5)]


def test_a_file_that_the_log_has_in_another_size_is_refused(
    spark: SparkSession, table: Path
) -> None:
    [path] = [
        table / file for file in pa.table(DeltaTable(table).get_add_actions())["path"].to_pylist()
    ][:1]
    shutil.copy(path, f"{path}.whole")
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(SourceError, match=r"has \d+ bytes, not \d+"):
        opened(spark, section(table, COLUMNS))
