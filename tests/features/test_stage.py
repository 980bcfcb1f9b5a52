from __future__ import annotations

import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyspark.sql import SparkSession

from pipeline.clean.stage import clean
from pipeline.config import Pipeline
from pipeline.errors import ConfigError, SpecError, TableNotFoundError
from pipeline.features.catalogue import fitted_spec, newest_spec, spec_of_hash
from pipeline.features.spec import FeatureSpec
from pipeline.features.stage import CLEAN_VERSION, SPEC_HASH, ensure_features, featurize
from pipeline.lake import Lake
from pipeline.outcome import Outcome
from tests.clean import examples

CHANGES = {
    "features.rows_per_row_group": 50,
    "features.numeric": {"amount": {"indicator": True}, "month": {"scale": "quantile"}},
    "features.label": {
        "name": "late",
        "expression": "delay > 15",
        "absent": {"lost": "place = 'a'", "silent": "delay IS NULL"},
    },
}


def raw_rows(month: int) -> list[dict[str, Any]]:
    rows = examples.some_rows(1000 * month, 200, month)
    for row in rows[::10]:
        row["delay"] = None
    return rows


@pytest.fixture(scope="module")
def made(
    spark: SparkSession, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Lake, Outcome, FeatureSpec]:
    """A lake with `clean` and `features`, never changed by a test."""
    root = tmp_path_factory.mktemp("featurize")
    for month in (1, 2, 3, 4):
        examples.write_raw(root / "raw" / f"{month}.parquet", raw_rows(month))
    pipeline = examples.pipeline(root, CHANGES)
    lake = Lake(pipeline.lake)
    clean(spark, pipeline, lake)
    return root, lake, *featurize(spark, pipeline, lake)


def commits(lake: Lake) -> dict[str, int]:
    tables = [path.parent for path in Path(lake.root).rglob("_delta_log")]
    names = [str(path.relative_to(lake.root)) for path in tables]
    return {name: lake.table(name).snapshot().version for name in names}


def test_every_row_of_clean_is_a_row_of_features_in_its_split_and_period(
    made: tuple[Path, Lake, Outcome, FeatureSpec],
) -> None:
    _, lake, done, spec = made
    rows = examples.table(lake, spec.table)
    assert examples.ids(lake, spec.table) == examples.ids(lake, "clean")
    assert (done.rows_in, done.rows_out, done.table) == (800, 800, spec.table)
    source = examples.table(lake, "clean")
    wanted = {
        row["id"]: ("unlabelled" if row["delay"] is None else split, row["period"])
        for row in source.iter_rows(named=True)
        for split in [{1: "train", 2: "train", 3: "validation", 4: "test"}[row["month"]]]
    }
    assert {row[0]: row[1:] for row in rows.select("id", "split", "period").iter_rows()} == wanted
    splits = Counter(split for split, _ in wanted.values())
    absent = Counter(
        "lost" if row["place"] == "a" else "silent"
        for row in source.filter(pl.col("delay").is_null()).iter_rows(named=True)
    )
    reasons = {f"unlabelled {why}": count for why, count in absent.items()}
    assert done.counts == {**splits, **reasons}
    labels = rows.select("id", "late").join(source, on="id")
    assert labels["late"].to_list() == [
        None if delay is None else float(delay > 15) for delay in labels["delay"].to_list()
    ]
    table = lake.table(spec.table).snapshot()
    assert table.partition_by == ("split", "period")
    assert table.partitions("split") == ["test", "train", "unlabelled", "validation"]


def test_files_lie_as_the_stream_reads_them_best(
    made: tuple[Path, Lake, Outcome, FeatureSpec],
) -> None:
    _, lake, _, spec = made
    dense = {*spec.label_columns, *spec.numeric_columns, *spec.categorical_columns}
    for uri in lake.table(spec.table).snapshot().uris():
        footer = pq.read_metadata(uri)
        groups = [footer.row_group(place) for place in range(footer.num_row_groups)]
        assert all(group.num_rows == 50 for group in groups[:-1])
        assert groups[-1].num_rows <= 50
        for group in groups:
            columns = [group.column(place) for place in range(group.num_columns)]
            plain = {column.path_in_schema for column in columns if not column.has_dictionary_page}
            assert dense <= plain
            # What pyarrow calls LZ4 is Parquet's LZ4_RAW.
            assert {column.compression for column in columns} == {"LZ4"}


def test_another_compression_is_another_way_to_write_the_same(
    spark: SparkSession, made: tuple[Path, Lake, Outcome, FeatureSpec], tmp_path: Path
) -> None:
    root, _, done, spec = made
    shutil.copytree(root, tmp_path / "copy")
    pipeline = examples.pipeline(tmp_path / "copy", CHANGES | {"features.compression": "snappy"})
    lake = Lake(pipeline.lake)
    again, same = featurize(spark, pipeline, lake)
    assert (again.rows_out, same.hash) == (done.rows_out, spec.hash)
    for uri in lake.table(spec.table).snapshot().uris():
        assert pq.read_metadata(uri).row_group(0).column(0).compression == "SNAPPY"


def test_featurizing_again_changes_nothing(
    spark: SparkSession, made: tuple[Path, Lake, Outcome, FeatureSpec]
) -> None:
    root, lake, done, spec = made
    before, files = commits(lake), examples.files_below(Path(lake.root))
    again, same = featurize(spark, examples.pipeline(root, CHANGES), lake)
    assert again.unchanged
    assert same == spec
    assert (again.counts, again.version, again.rows_in) == (done.counts, done.version, done.rows_in)
    assert commits(lake) == before
    assert examples.files_below(Path(lake.root)) == files


def test_the_spec_is_on_record_and_its_hash_in_the_commit(
    made: tuple[Path, Lake, Outcome, FeatureSpec],
) -> None:
    _, lake, _, spec = made
    table = lake.table(spec.table)
    assert table.last_note(SPEC_HASH) == spec.hash
    assert table.last_note(CLEAN_VERSION) == str(lake.table("clean").snapshot().version)
    assert newest_spec(lake, "small") == spec_of_hash(lake, "small", spec.hash) == spec
    (row,) = examples.table(lake, "specs").iter_rows(named=True)
    assert json.loads(row["spec"])["parts"][0]["column"] == "amount"
    assert fitted_spec(lake, "small", row["run"]) == spec
    assert fitted_spec(lake, "small", "another run") is None
    with pytest.raises(SpecError, match="pipeline other: has no fitted feature spec"):
        newest_spec(lake, "other")
    with pytest.raises(SpecError, match="feature spec 00: is not in the table specs"):
        spec_of_hash(lake, "small", "00")


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        (  # right in all train rows: only the pass that writes can see it
            {"features.label": {"name": "late", "expression": "IF(month = 4, 2, 1)"}},
            "'IF.*' is neither 0 nor 1 in 200 rows",
        ),
        ({"features.numeric": {"place": {}}}, "column place: is string"),
        (
            {
                "features.splits": {
                    "train": "month > 4",
                    "validation": "month = 3",
                    "test": "month = 4",
                }
            },
            "no labelled row of clean meets 'month > 4'",
        ),
    ],
)
def test_a_description_that_does_not_fit_leaves_no_rows(
    spark: SparkSession,
    made: tuple[Path, Lake, Outcome, FeatureSpec],
    changes: dict[str, Any],
    told: str,
) -> None:
    root, lake, _, _ = made
    before = {name: lake.table(name).snapshot() for name in commits(lake)}
    files = examples.files_below(Path(lake.root))
    with pytest.raises(SpecError, match=told):
        featurize(spark, examples.pipeline(root, {**CHANGES, **changes}), lake)
    left = examples.files_below(Path(lake.root)) - files
    assert all("_delta_log" in path or path.startswith("specs") for path in left)
    for name in commits(lake):
        snapshot = lake.table(name).snapshot()
        assert snapshot == before.get(name) or name == "specs" or snapshot.rows == 0


def test_the_spec_of_a_champion_is_applied_to_a_clean_it_was_not_fitted_on(
    spark: SparkSession, tmp_path: Path, made: tuple[Path, Lake, Outcome, FeatureSpec]
) -> None:
    """And to the rows it was fitted on, it gives what it gave."""
    root, lake, _, spec = made
    examples.write_raw(tmp_path / "raw" / "1.parquet", raw_rows(1))
    examples.write_raw(tmp_path / "raw" / "9.parquet", [*raw_rows(9)])
    pipeline = examples.pipeline(tmp_path, CHANGES)
    other = Lake(pipeline.lake)
    clean(spark, pipeline, other)
    table, unchanged = ensure_features(
        spark, pipeline, other, spec, other.table("clean").snapshot()
    )
    assert not unchanged
    rows = pl.read_delta(table.root)
    first = pl.read_delta(lake.table(spec.table).root).filter(pl.col("period") == "2013-01")
    assert rows.filter(pl.col("period") == "2013-01").sort("id").equals(first.sort("id"))
    assert Counter(rows.filter(pl.col("period") == "2013-09")["split"]) == {
        "test": 180,
        "unlabelled": 20,
    }

    # Without rows, and without a column that it needs.
    lacking = spec.model_copy(update={"keys": ("ident",)})
    with pytest.raises(SpecError, match=r"table clean, column ident: is missing"):
        ensure_features(spark, pipeline, other, lacking, other.table("clean").snapshot())
    assert root != tmp_path


def test_rows_outside_the_train_split_bring_a_new_version_of_the_same_features(
    spark: SparkSession, tmp_path: Path
) -> None:
    examples.write_raw(tmp_path / "raw" / "1.parquet", raw_rows(1))
    pipeline = examples.pipeline(tmp_path, CHANGES)
    lake = Lake(pipeline.lake)
    first, spec = _both(spark, pipeline, lake)
    examples.write_raw(tmp_path / "raw" / "4.parquet", raw_rows(4))
    second, same = _both(spark, pipeline, lake)
    assert same == spec
    assert (second.version, second.unchanged) == (first.version + 1, False)
    assert (second.rows_in, second.rows_out) == (400, 400)
    assert examples.ids(lake, spec.table) == examples.ids(lake, "clean")
    assert examples.table(lake, "specs").sort("number")["spec_hash"].to_list() == [spec.hash] * 2


def _both(spark: SparkSession, pipeline: Pipeline, lake: Lake) -> tuple[Outcome, FeatureSpec]:
    clean(spark, pipeline, lake)
    return featurize(spark, pipeline, lake)


def test_an_empty_clean_takes_the_spec_of_a_champion(
    spark: SparkSession, tmp_path: Path, made: tuple[Path, Lake, Outcome, FeatureSpec]
) -> None:
    *_, spec = made
    examples.write_raw(tmp_path / "raw" / "1.parquet", [])
    pipeline = examples.pipeline(tmp_path, CHANGES)
    lake = Lake(pipeline.lake)
    clean(spark, pipeline, lake)
    table, _ = ensure_features(spark, pipeline, lake, spec, lake.table("clean").snapshot())
    assert table.snapshot().rows == 0


def test_without_clean_its_table_is_named(spark: SparkSession, tmp_path: Path) -> None:
    pipeline = examples.pipeline(tmp_path)
    with pytest.raises(TableNotFoundError, match="table clean: is not in the lake"):
        featurize(spark, pipeline, Lake(pipeline.lake))


def test_patterns_stand_for_columns_of_clean_but_keys_and_leakage(
    spark: SparkSession, tmp_path: Path
) -> None:
    rows = [{**row, "a_key": row["id"], "a_later": row["delay"]} for row in raw_rows(1)]
    columns = {
        "id": {"type": "bigint", "required": True},
        "month": {"type": "int"},
        "a*": {"type": "double"},
        "delay": {"type": "double"},
    }
    schema = pa.schema([*examples.RAW, ("a_key", pa.int64()), ("a_later", pa.float64())])
    examples.write_raw(tmp_path / "raw" / "a.parquet", rows, schema)
    changes = {
        "source.columns": columns,
        "features.keys": ["id", "a_key"],
        "features.leakage": ["delay", "*_later"],
        "features.numeric": {"a*": {}, "month": {"indicator": True}},
        "features.categorical": {},
    }
    pipeline = examples.pipeline(tmp_path, changes)
    lake = Lake(pipeline.lake)
    clean(spark, pipeline, lake)
    _, spec = featurize(spark, pipeline, lake)
    assert [p.column for p in spec.parts if p.kind == "numeric"] == ["amount", "month"]
    assert spec.leakage == ("delay", "a_later")
    wrong = examples.pipeline(tmp_path, {**changes, "features.numeric": {"z*": {}}})
    with pytest.raises(ConfigError, match=r"features\.numeric\.z\*: matches no column of clean"):
        featurize(spark, wrong, lake)
