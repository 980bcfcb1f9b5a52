"""Raw data of every shape through the whole stage, its tables read back by Polars."""

from __future__ import annotations

import shutil
from collections import Counter
from datetime import datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable, write_deltalake
from pyspark.sql import SparkSession

from pipeline.clean.increment import clean_increment
from pipeline.clean.stage import clean
from pipeline.config import Pipeline
from pipeline.errors import ConfigError, LakestormError, SchemaError
from pipeline.lake import Lake, commit
from tests.clean import examples
from tests.clean.examples import RAW, ids, some_rows, table

DEDUPE = {"keys": ["id"], "latest_by": ["amount"]}


def rows(first: int, count: int, month: int = 1) -> pa.Table:
    return pa.Table.from_pylist(some_rows(first, count, month), schema=RAW)


def whole(lake: Lake, done: Any) -> None:
    """raw = clean + quarantine + dropped, as counted and as written."""
    written = {name: table(lake, name).height for name in ("clean", "quarantine")}
    assert (done.rows_out, done.rows_quarantined) == (written["clean"], written["quarantine"])
    assert done.rows_in == done.rows_out + done.rows_quarantined + done.rows_dropped


def test_an_overwritten_delta_table_is_read_at_its_newest_version(
    spark: SparkSession, tmp_path: Path
) -> None:
    for first in (0, 5000):
        write_deltalake(tmp_path / "raw", rows(first, 2000), mode="overwrite")
    pipeline = examples.pipeline(tmp_path)
    lake = Lake(pipeline.lake)
    done = clean(spark, pipeline, lake)
    assert (done.rows_in, done.rows_out) == (2000, 2000)
    assert ids(lake, "clean") == Counter(range(5000, 7000))
    assert clean(spark, pipeline, lake).unchanged
    pinned = clean(spark, examples.pipeline(tmp_path, {"source.version": 0}), lake)
    assert ids(lake, "clean") == Counter(range(2000))
    assert not pinned.unchanged


class TestIncrementalDelta:
    @pytest.fixture
    def place(self, tmp_path: Path) -> Path:
        write_deltalake(tmp_path / "raw", rows(0, 100))
        return tmp_path / "raw"

    @pytest.fixture
    def pipeline(self, place: Path) -> Pipeline:
        return examples.pipeline(place.parent, {"clean.dedupe": DEDUPE})

    @pytest.fixture
    def run(self, spark: SparkSession, pipeline: Pipeline) -> Any:
        def run(*, rebuild: bool = False) -> Any:
            return clean_increment(spark, pipeline, Lake(pipeline.lake), rebuild=rebuild)

        return run

    def test_appends_are_added_and_compaction_is_nothing(
        self, place: Path, pipeline: Pipeline, run: Any
    ) -> None:
        lake = Lake(pipeline.lake)
        assert run().rows_in == 100
        assert run().unchanged
        write_deltalake(place, rows(100, 50, 2), mode="append")
        write_deltalake(place, rows(150, 50, 3), mode="append")
        DeltaTable(place).optimize.compact()
        done = run()
        assert done.rows_in == 200
        assert "100 rows" in done.note
        assert ids(lake, "clean") == Counter(range(200))
        DeltaTable(place).optimize.compact()
        DeltaTable(place).create_checkpoint()
        before = lake.table("clean").snapshot()
        assert run().rows_in == 200
        assert lake.table("clean").snapshot().files == before.files
        write_deltalake(place, rows(200, 10, 3), mode="append")
        done = run()
        whole(lake, done)
        assert ids(lake, "clean") == Counter(range(210))

    @pytest.mark.parametrize("change", ["update", "delete", "overwrite"])
    def test_rows_that_were_changed_or_removed_are_read_again(
        self, place: Path, pipeline: Pipeline, run: Any, change: str
    ) -> None:
        lake = Lake(pipeline.lake)
        run()
        if change == "update":
            DeltaTable(place).update(updates={"amount": "99.0"}, predicate="id < 10")
        elif change == "delete":
            DeltaTable(place).delete("id < 10")
        else:
            write_deltalake(place, rows(500, 30), mode="overwrite")
        done = run()
        whole(lake, done)
        assert "changed or removed" in done.note
        source = pl.read_delta(str(place)).sort("id")
        found = table(lake, "clean").select(source.columns).sort("id")
        assert found.rows() == source.with_columns(pl.col("month").cast(pl.Int32)).rows()
        assert run().unchanged

    def test_a_run_that_stopped_between_its_commits_is_finished_first(
        self, place: Path, pipeline: Pipeline, run: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        lake = Lake(pipeline.lake)
        run()
        bad = rows(0, 3)  # they are there: duplicates, for quarantine
        write_deltalake(place, pa.concat_tables([bad, rows(100, 10)]), mode="append")

        def stop(table: Any, *given: Any, **options: Any) -> Any:
            if table.name == "clean":
                raise KeyboardInterrupt
            return commit(table, *given, **options)

        with monkeypatch.context() as patch:
            patch.setattr("pipeline.clean.batch.commit", stop)
            with pytest.raises(KeyboardInterrupt):
                run()
        assert table(lake, "quarantine").height == 3
        assert table(lake, "clean").height == 100
        write_deltalake(place, pa.concat_tables([rows(3, 2), rows(110, 5)]), mode="append")
        whole(lake, run())
        assert ids(lake, "clean") == Counter(range(115))
        assert table(lake, "quarantine").height == 5

    def test_what_stopped_is_not_completed_under_other_rules(
        self, place: Path, spark: SparkSession, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        rules = {"small": {"check": "id < 60", "action": "quarantine"}}
        first = examples.pipeline(place.parent, {"clean.rules": rules})
        lake = Lake(first.lake)

        def stop(table: Any, *given: Any, **options: Any) -> Any:
            if table.name == "clean":
                raise KeyboardInterrupt
            return commit(table, *given, **options)

        with monkeypatch.context() as patch:
            patch.setattr("pipeline.clean.batch.commit", stop)
            with pytest.raises(KeyboardInterrupt):
                clean_increment(spark, first, lake)
        rules["small"]["check"] = "id >= 60"
        changed = examples.pipeline(place.parent, {"clean.rules": rules})
        with pytest.raises(LakestormError, match="--rebuild"):
            clean_increment(spark, changed, lake)
        done = clean_increment(spark, changed, lake, rebuild=True)
        whole(lake, done)
        assert ids(lake, "clean") == Counter(range(60, 100))
        assert table(lake, "quarantine").height == 60

    def test_a_rebuild_at_the_same_version_takes_the_new_rules(
        self, place: Path, spark: SparkSession
    ) -> None:
        plain = examples.pipeline(place.parent)
        lake = Lake(plain.lake)
        clean_increment(spark, plain, lake)
        rules = {"small": {"check": "id < 50", "action": "quarantine"}}
        ruled = examples.pipeline(place.parent, {"clean.rules": rules})
        with pytest.raises(LakestormError, match="--rebuild"):
            clean_increment(spark, ruled, lake)
        whole(lake, clean_increment(spark, ruled, lake, rebuild=True))
        assert ids(lake, "clean") == Counter(range(50))
        write_deltalake(place, rows(40, 0), mode="append")
        write_deltalake(place, rows(1040, 5), mode="append")
        whole(lake, clean_increment(spark, ruled, lake))
        assert ids(lake, "clean") == Counter(range(50))

    def test_another_table_in_its_place_is_refused_until_a_rebuild(
        self, place: Path, pipeline: Pipeline, run: Any
    ) -> None:
        run()
        shutil.rmtree(place)
        write_deltalake(place, rows(900, 5))
        with pytest.raises(LakestormError, match="--rebuild"):
            run()
        assert run(rebuild=True).rows_out == 5
        assert ids(Lake(pipeline.lake), "clean") == Counter(range(900, 905))

    def test_a_pinned_version_cannot_be_followed(self, spark: SparkSession, place: Path) -> None:
        pinned = examples.pipeline(place.parent, {"source.version": 0})
        with pytest.raises(ConfigError, match="cannot be followed"):
            clean_increment(spark, pinned, Lake(pinned.lake))


def test_nested_columns_and_decimals_go_into_clean_and_name_rows(
    spark: SparkSession, tmp_path: Path
) -> None:
    raw = pa.table(
        {
            "key": pa.array(
                [Decimal("1.10"), Decimal("1.11"), Decimal("1.10")], pa.decimal128(20, 2)
            ),
            "month": [1, 1, 1],
            "u": [{"age": 7, "tags": ["a"]}, {"age": None, "tags": None}, {"age": 9, "tags": []}],
            "v": [[0.5, 1.5], [2.0], None],
            "delay": [1.0, 20.0, 3.0],
        }
    )
    (tmp_path / "raw").mkdir()
    pa.parquet.write_table(raw, tmp_path / "raw" / "a.parquet")
    columns = {
        "key": {"type": "decimal(20,2)", "required": True},
        "month": {"type": "int"},
        "u": {"type": "struct<age: int, tags: array<string>>"},
        "age": {"type": "int", "from": "u.age"},
        "v": {"type": "array<double>"},
        "delay": {"type": "double"},
    }
    changes = {
        "source.columns": columns,
        "clean.rules": {"old": {"check": "u.age IS NULL OR u.age < 9", "action": "drop"}},
        "clean.dedupe": {"keys": ["key"]},
        "features.keys": ["key"],
        "features.derive": {"years": "u.age"},
        "features.numeric": {"years": {}},
        "features.categorical": {},
    }
    pipeline = examples.pipeline(tmp_path, changes)
    lake = Lake(pipeline.lake)
    done = clean(spark, pipeline, lake)
    assert (done.rows_in, done.rows_out, done.rows_dropped) == (3, 2, 1)
    found = table(lake, "clean").sort("key")
    assert found["key"].to_list() == [Decimal("1.10"), Decimal("1.11")]
    assert found["u"].to_list() == [{"age": 7, "tags": ["a"]}, {"age": None, "tags": None}]
    assert found["v"].to_list() == [[0.5, 1.5], [2.0]]
    assert found["age"].to_list() == [7, None]
    again = examples.pipeline(tmp_path, {**changes, "clean.rules": {}})
    done = clean(spark, again, lake)
    assert (done.rows_out, done.rows_quarantined) == (2, 1)
    [row] = table(lake, "quarantine")["row"].to_list()
    assert '"key":1.10' in row


def test_the_outcome_tells_what_patterns_and_policies_did(
    spark: SparkSession, tmp_path: Path
) -> None:
    for name, extra in (("a", {"f9": [1.0]}), ("b", {"note": ["x"]})):
        values = {"id": [len(name)], "month": [1], "delay": [1.0], "f1": [0.5], "f2": [1.0]}
        (tmp_path / "raw").mkdir(exist_ok=True)
        pa.parquet.write_table(pa.table({**values, **extra}), tmp_path / "raw" / f"{name}.parquet")
    changes: dict[str, Any] = {
        "source.columns": {
            "id": {"type": "bigint", "required": True},
            "month": {"type": "int"},
            "delay": {"type": "double"},
            "f*": {"type": "double"},
        },
        "source.policies": {"missing_column": None},
        "features.numeric": {"f*": {}},
        "features.categorical": {},
        "features.keys": "auto",
    }
    pipeline = examples.pipeline(tmp_path, changes)
    lake = Lake(pipeline.lake)
    done = clean(spark, pipeline, lake)
    assert "source.columns.f*: f1, f2, f9" in done.note
    assert "columns that the contract does not name, ignored: note" in done.note
    assert "column f9: null in 1 of 2 files" in done.note
    assert clean(spark, pipeline, lake).note == done.note
    assert table(lake, "clean")["f9"].null_count() == 1
    assert sorted(table(lake, "clean")["row_id"]) == ["a.parquet#0", "b.parquet#0"]
    kept = examples.pipeline(
        tmp_path / "..",
        {
            **changes,
            "lake": str(tmp_path / "other"),
            "source.path": str(tmp_path / "raw"),
            "source.policies": {"missing_column": None, "new_column": "keep"},
        },
    )
    clean(spark, kept, Lake(kept.lake))
    others = table(Lake(kept.lake), "clean")["other_columns"].to_list()
    assert sorted(others, key=str) == [None, {"note": "x"}]


def test_a_column_that_no_file_has_is_an_error_under_every_policy(
    spark: SparkSession, tmp_path: Path
) -> None:
    examples.write_raw(tmp_path / "raw" / "a.parquet", some_rows(0, 3, 1))
    columns = {**examples.BASE["source"]["columns"], "tyop": {"type": "int"}}
    pipeline = examples.pipeline(
        tmp_path, {"source.columns": columns, "source.policies": {"missing_column": "null"}}
    )
    with pytest.raises(SchemaError, match=r"source\.columns\.tyop: is in none of 1 files"):
        clean(spark, pipeline, Lake(pipeline.lake))


@pytest.mark.parametrize("kind", ["parquet", "csv", "json"])
def test_a_row_has_the_same_id_whatever_lies_beside_its_file(
    spark: SparkSession, tmp_path: Path, kind: str
) -> None:
    def write(name: str, first: int, count: int) -> None:
        frame = pl.from_arrow(rows(first, count))
        assert isinstance(frame, pl.DataFrame)
        (tmp_path / "raw").mkdir(exist_ok=True)
        path = tmp_path / "raw" / f"{name}.{kind}"
        if kind == "parquet":
            frame.write_parquet(path)
        elif kind == "csv":
            frame.write_csv(path)
        else:
            frame.write_ndjson(path)

    def named() -> dict[int, str]:
        clean(spark, pipeline, Lake(pipeline.lake))
        found = table(Lake(pipeline.lake), "clean")
        return dict(zip(found["id"], found["row_id"], strict=True))

    pipeline = examples.pipeline(tmp_path, {"features.keys": "auto", "source.format": kind})
    write("m", 0, 40)
    before = named()
    assert before[7] == f"m.{kind}#7"
    for number, name in enumerate("abz"):
        write(name, 100 * (number + 1), 50 + number)  # larger ones are read first
    after = named()
    assert len(set(after.values())) == len(after) == 193
    assert {key: after[key] for key in before} == before


def test_rows_of_equal_content_have_one_id_and_are_duplicates(
    spark: SparkSession, tmp_path: Path
) -> None:
    same = some_rows(0, 10, 1)
    examples.write_raw(tmp_path / "raw" / "a.parquet", same)
    examples.write_raw(tmp_path / "raw" / "b.parquet", [*same[:3], *some_rows(10, 5, 1)])
    pipeline = examples.pipeline(
        tmp_path,
        {
            "clean.row_id": "content",
            "features.keys": "auto",
            "clean.dedupe": {"keys": ["row_id"]},
        },
    )
    lake = Lake(pipeline.lake)
    done = clean(spark, pipeline, lake)
    assert done.counts == {"quarantine duplicate": 3}
    assert ids(lake, "clean") == Counter(range(15))


@pytest.mark.parametrize("kind", ["timestamp", "timestamp_ntz"])
def test_rows_a_microsecond_apart_are_not_equal(
    spark: SparkSession, tmp_path: Path, kind: str
) -> None:
    first = datetime(2013, 1, 1, 12, 30, 15, 123456)  # noqa: DTZ001
    times = [first + timedelta(microseconds=past) for past in (0, 1, 1, 2)]
    raw = pa.table({**rows(0, 1).to_pydict(), "id": [0]}).take([0] * 4)
    raw = raw.append_column("at", pa.array(times, pa.timestamp("us")))
    (tmp_path / "raw").mkdir()
    pq.write_table(raw, tmp_path / "raw" / "a.parquet")
    columns = {**examples.BASE["source"]["columns"], "at": {"type": kind}}
    pipeline = examples.pipeline(
        tmp_path,
        {
            "source.columns": columns,
            "clean.row_id": "content",
            "features.keys": "auto",
            "clean.dedupe": {"keys": ["row_id"]},
        },
    )
    lake = Lake(pipeline.lake)
    assert clean(spark, pipeline, lake).counts == {"quarantine duplicate": 1}
    found = table(lake, "clean")["at"].dt.replace_time_zone(None)
    assert sorted(found) == [times[0], times[1], times[3]]
    assert "2013-01-01T12:30:15.123457" in table(lake, "quarantine")["row"].item()


def test_files_of_a_delta_table_give_no_positions(spark: SparkSession, tmp_path: Path) -> None:
    write_deltalake(tmp_path / "raw", rows(0, 5))
    pipeline = examples.pipeline(tmp_path, {"features.keys": "auto"})
    with pytest.raises(ConfigError, match=r"clean\.row_id: .*content"):
        clean(spark, pipeline, Lake(pipeline.lake))


def test_a_table_of_the_catalogue_is_a_source(spark: SparkSession, tmp_path: Path) -> None:
    raw = tmp_path / "warehouse"
    spark.sql("CREATE DATABASE IF NOT EXISTS shop")
    stored = spark.createDataFrame(rows(0, 20)).selectExpr("*", "month AS part")
    try:
        stored.write.option("path", str(raw)).partitionBy("part").saveAsTable("shop.lines")
        base = {"source.path": [], "source.table": "shop.lines"}
        pipeline = examples.pipeline(tmp_path, base)
        lake = Lake(pipeline.lake)
        assert clean(spark, pipeline, lake).rows_out == 20
        assert ids(lake, "clean") == Counter(range(20))
        assert clean(spark, pipeline, lake).unchanged
        spark.sql("CREATE OR REPLACE TEMP VIEW seen AS SELECT * FROM shop.lines")
        for name, told in (("seen", "is a view"), ("shop.no", "is not in the session's catalogue")):
            with pytest.raises(LakestormError, match=told):
                clean(spark, examples.pipeline(tmp_path, {**base, "source.table": name}), lake)
    finally:
        spark.sql("DROP DATABASE shop CASCADE")


def test_right_sides_take_the_same_forms(spark: SparkSession, tmp_path: Path) -> None:
    examples.write_raw(tmp_path / "raw" / "a.parquet", some_rows(0, 6, 1))
    for number in range(2):
        names = pa.table({"NAME": ["a", "b", "c"], "rain": [number + 0.5] * 3})
        write_deltalake(tmp_path / "rain", names, mode="overwrite")
    join = {
        "path": str(tmp_path / "rain"),
        "on": {"place": "name"},
        "columns": {
            "name": {"type": "string", "required": True, "from": "NAME"},
            "rain": {"type": "double"},
        },
        "select": {"rain": "rain"},
    }
    pipeline = examples.pipeline(tmp_path, {"clean.joins": {"rain": join}})
    lake = Lake(pipeline.lake)
    assert clean(spark, pipeline, lake).rows_out == 6
    assert set(table(lake, "clean")["rain"]) == {1.5}


def test_a_csv_with_quoted_line_breaks_comes_whole(spark: SparkSession, tmp_path: Path) -> None:
    (tmp_path / "raw").mkdir()
    frame = pl.from_arrow(rows(0, 1000))
    assert isinstance(frame, pl.DataFrame)
    note = pl.when(pl.col("id") % 3 == 0).then(pl.format('said "{}"\nand, left', "id"))
    frame = frame.with_columns(place=note.otherwise(pl.lit("plain")))
    frame.write_csv(tmp_path / "raw" / "a.csv")
    pipeline = examples.pipeline(tmp_path, {"source.format": "csv"})
    lake = Lake(pipeline.lake)
    done = clean(spark, pipeline, lake)
    assert (done.rows_in, done.rows_out) == (1000, 1000)
    found = table(lake, "clean").sort("id")
    assert found["place"].to_list() == frame["place"].to_list()


def test_a_column_of_which_most_values_do_not_cast_gets_a_hint(
    spark: SparkSession, tmp_path: Path
) -> None:
    (tmp_path / "raw").mkdir()
    lines = [f'{n},1,"{n},234.5",31/12/2024,a' for n in range(1, 21)]
    text = "\n".join(["id,month,amount,delay,place", *lines]) + "\n"
    (tmp_path / "raw" / "a.csv").write_text(text)
    columns = {**examples.BASE["source"]["columns"], "delay": {"type": "date"}}
    changes = {
        "source.format": "csv",
        "source.columns": columns,
        "features.label": {"name": "late", "expression": "delay IS NULL"},
    }
    pipeline = examples.pipeline(tmp_path, changes)
    done = clean(spark, pipeline, Lake(pipeline.lake))
    assert (done.rows_out, done.rows_quarantined) == (0, 20)
    assert "column amount: 20 of 20 values are no double" in done.note
    assert "source.columns.amount.grouping" in done.note
    assert "source.columns.delay.format, such as dd/MM/yyyy" in done.note
    columns["amount"] = {"type": "double", "grouping": ","}
    columns["delay"] = {"type": "date", "format": "dd/MM/yyyy"}
    mended = clean(spark, examples.pipeline(tmp_path, changes), Lake(pipeline.lake))
    assert (mended.rows_out, mended.note) == (20, "")


def test_the_order_of_folders_is_part_of_what_was_read(spark: SparkSession, tmp_path: Path) -> None:
    places = []
    for number, name in enumerate("ab"):
        examples.write_raw(tmp_path / name / "x.parquet", some_rows(10 * number, 5, 1))
        places.append(str(tmp_path / name))
    pipeline = examples.pipeline(tmp_path, {"source.path": places})
    lake = Lake(pipeline.lake)
    assert clean_increment(spark, pipeline, lake).rows_out == 10
    assert clean_increment(spark, pipeline, lake).unchanged
    turned = examples.pipeline(tmp_path, {"source.path": places[::-1]})
    with pytest.raises(LakestormError, match="names other places, or in another order"):
        clean_increment(spark, turned, lake)
    assert table(lake, "clean").height == 10


def test_patterns_leave_columns_of_ours_alone_in_increments_too(
    spark: SparkSession, tmp_path: Path
) -> None:
    def deliver(name: str, first: int) -> None:
        raw = rows(first, 5)
        names = {"period": ["precious"] * 5, "_own": [1] * 5, "p1": ["x"] * 5, "a.b": [1] * 5}
        for column, values in names.items():
            raw = raw.append_column(column, pa.array(values))
        (tmp_path / "raw").mkdir(exist_ok=True)
        pa.parquet.write_table(raw, tmp_path / "raw" / f"{name}.parquet")

    columns = {**examples.BASE["source"]["columns"], "*": {"type": "string"}}
    changes = {"source.columns": columns, "clean.dedupe": DEDUPE}
    pipeline = examples.pipeline(tmp_path, changes)
    lake = Lake(pipeline.lake)
    deliver("a", 0)
    done = clean_increment(spark, pipeline, lake)
    assert "source.columns.*: p1" in done.note
    assert "ignored: period, _own, a.b" in done.note
    deliver("b", 5)
    whole(lake, clean_increment(spark, pipeline, lake))
    found = table(lake, "clean")
    assert set(found["period"]) == {"2013-01"}
    assert set(found["p1"]) == {"x"}
    assert ids(lake, "clean") == Counter(range(10))


def test_ids_by_content_need_the_key_where_a_column_is_sensitive(
    spark: SparkSession, tmp_path: Path
) -> None:
    examples.write_raw(tmp_path / "raw" / "a.parquet", some_rows(0, 3, 1))
    columns = {**examples.BASE["source"]["columns"]}
    columns["place"] = {"type": "string", "sensitive": True}
    found = []
    for lake_name in ("one", "two"):
        changes = {
            "lake": str(tmp_path / lake_name),
            "source.columns": columns,
            "clean.row_id": "content",
        }
        pipeline = examples.pipeline(tmp_path, changes)
        clean(spark, pipeline, Lake(pipeline.lake))
        found.append(set(table(Lake(pipeline.lake), "clean")["row_id"]))
    assert not found[0] & found[1], "each lake has a key of its own"
