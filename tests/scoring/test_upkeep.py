from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import polars as pl
from click.testing import CliRunner
from pyspark.sql import SparkSession

from pipeline.cli import main
from pipeline.lake import Changes, Lake, Table, changes, commit, data_version
from pipeline.operate.walk import STAGES
from pipeline.scoring.reached import PREDICTIONS
from pipeline.training.registry import trained_versions
from tests.flights import small_pipeline


def lakestorm(lake: Lake, *arguments: str) -> tuple[int, str]:
    done = CliRunner().invoke(main, [*arguments, "--lake", lake.root])
    return done.exit_code, done.output


def rows_of(table: Table, version: int | None = None) -> Counter[tuple[object, ...]]:
    """All rows, read by Polars; lists as texts."""
    frame = pl.read_delta(table.root, version=version)
    return Counter(tuple(map(str, row)) for row in frame.iter_rows())


def run(spark: SparkSession, lake: Lake, *stages: str) -> None:
    pipeline = small_pipeline(Path(lake.root))
    for stage in stages:
        STAGES[stage](spark, pipeline, lake)


def features_of(lake: Lake) -> tuple[Table, int]:
    ((name, version),) = trained_versions(lake)
    return lake.table(name), version


def test_maintain_keeps_what_a_model_was_trained_on(trained_lake: Lake) -> None:
    lake = trained_lake
    features, trained_on = features_of(lake)
    before = rows_of(features)
    half = features.snapshot().files[::2]
    commit(features, [], replace=[tuple(file.partition.values()) for file in half])
    gone = {file.path for file in features.snapshot(trained_on).files}
    clean = lake.table("clean")
    clean_rows, version = rows_of(clean), clean.open().version()
    old = clean.snapshot().uris()
    commit(clean, [], replace="all")
    orphan = Path(features.root) / ("a" * 32) / "split=train" / "period=2013-01" / "x.parquet"
    unfinished = Path(features.root) / ("b" * 32) / "_temporary" / "0" / "part.parquet"
    for path in (orphan, unfinished):
        path.parent.mkdir(parents=True)
        path.write_bytes(b"PAR1")
    numbers = {t.name: t.transaction_version("clean/flights") for t in lake.tables()}
    code, told = lakestorm(lake, "maintain", "--retention-hours", "0")
    assert (code, "--retention-hours: is 0" in told) == (1, True)
    code, told = lakestorm(lake, "maintain", "--retention-hours", "1", "--json")
    assert code == 0
    assert orphan.exists()  # it could be a run's
    assert all(Path(path).exists() for path in old)
    code, told = lakestorm(lake, "maintain", "--retention-hours", "0", "--force", "--json")
    assert code == 0
    assert json.loads(told)[features.name]["versions_kept"] == [trained_on]
    assert rows_of(features, trained_on) == before
    assert all((Path(features.root) / path).is_file() for path in gone)
    assert not orphan.exists()
    assert not unfinished.exists()
    assert not any(Path(path).exists() for path in old)
    assert {t.name: t.transaction_version("clean/flights") for t in lake.tables()} == numbers
    code, told = lakestorm(lake, "restore", "clean", str(version))
    assert (code, "files were vacuumed" in told) == (1, True)
    assert clean_rows
    code, told = lakestorm(lake, "maintain", "--retention-hours", "0", "--force", "--json")
    assert all(t["files_merged"] == t["files_deleted"] == 0 for t in json.loads(told).values())


def test_restored_features_and_predictions_are_made_right_again(
    spark: SparkSession, trained_lake: Lake
) -> None:
    lake = trained_lake
    features, _ = features_of(lake)
    run(spark, lake, "score")
    predictions = lake.table(PREDICTIONS)
    height = pl.read_delta(predictions.root).height
    expected = rows_of(features)
    for table, stage in ((features, "featurize"), (predictions, "score")):
        code, told = lakestorm(lake, "restore", table.name, "0")
        assert code == 0, told
        assert table.snapshot().rows == 0
        run(spark, lake, stage)
    assert rows_of(features) == expected
    scored = pl.read_delta(predictions.root)
    keys = ["time_hour", "carrier", "flight", "origin", "dest"]
    assert scored.height == height == scored.unique([*keys, "model_version"]).height
    # A clean table taken back is told downstream, as changes of data and as a new data version.
    clean = lake.table("clean")
    version = clean.open().version()
    commit(clean, [], replace="all")
    code, told = lakestorm(lake, "restore", "clean", str(version))
    assert code == 0, told
    assert changes(clean, version, clean.open().version()) == Changes((), ())
    assert data_version(clean) == clean.open().version()
    assert (lakestorm(lake, "restore", "clea", "1"))[1].startswith(
        "lakestorm: TableNotFoundError: table clea: is not in the lake"
    )
