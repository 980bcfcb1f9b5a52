"""New files one after the other come to what one run over all of them comes to."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pytest
from pyspark.sql import SparkSession

from pipeline import lake as lake_module
from pipeline.clean import batch
from pipeline.clean.increment import clean_increment
from pipeline.clean.stage import clean
from pipeline.config import Pipeline
from pipeline.errors import CommitConflictError, LakeError, SourceError
from pipeline.lake import COUNTS, Lake
from tests.clean import examples

SCHEMA = examples.RAW.append(pa.field("at", pa.int64()))
CHANGES = {
    "source.columns": {
        **examples.BASE["source"]["columns"],
        "at": {"type": "bigint"},
    },
    "clean.dedupe": {"keys": ["id"], "latest_by": ["at"]},
    "clean.rules": {
        "amount_is_known": {"check": "amount IS NOT NULL", "action": "quarantine"},
        "place_is_not_c": {"check": "place <> 'c'", "action": "drop"},
    },
}


def rows(ids: Sequence[int], month: int, at: int | None, **values: Any) -> list[dict[str, Any]]:
    return [
        {**examples.some_rows(i, 1, month)[0], "place": "ab"[i % 2], "at": at, **values}
        for i in ids
    ]


DELIVERIES: dict[str, list[dict[str, Any]]] = {
    "first": rows(range(10), 1, 1) + rows([90], 1, 1, amount=None),
    "february": rows(range(10, 20), 2, 2) + rows([91], 2, 2, place="c"),
    "late": rows(range(20, 24), 1, 2),
    "corrections": [
        *rows([3], 1, 5, amount=77.0),
        *rows([4], 2, 5),  # of January: it moves
        *rows([5], 1, 0, amount=-1.0),  # older than what is there
        *rows([6], 1, None, amount=-1.0),
        *rows([12], 2, 9, amount=None),  # broken: it must not take a good row's place
        *rows([30, 31], 3, 5),
        *rows([31], 3, 6, amount=8.0),  # twice in one delivery
    ],
    "first again": [],  # set below: the same rows under another name
    "corrected again": rows([3], 1, 7, amount=78.0),
}
DELIVERIES["first again"] = list(DELIVERIES["first"])


def deliver(root: Path, name: str, content: Sequence[Mapping[str, Any]]) -> Path:
    return examples.write_raw(root / "raw" / f"{name}.parquet", content, SCHEMA)


def content(lake: Lake, name: str, columns: Sequence[str]) -> Counter[tuple[object, ...]]:
    return Counter(pl.read_delta(lake.table(name).root).select(columns).iter_rows())


def everything(lake: Lake) -> dict[str, Counter[tuple[object, ...]]]:
    return {
        "clean": content(lake, "clean", [*SCHEMA.names, "period"]),
        "quarantine": Counter(
            (tuple(row["reasons"]), row["row"], row["unreadable"])
            for row in pl.read_delta(lake.table("quarantine").root).to_dicts()
        ),
    }


@pytest.fixture
def small(tmp_path: Path) -> tuple[Path, Pipeline, Lake]:
    pipeline = examples.pipeline(tmp_path, CHANGES)
    return tmp_path, pipeline, Lake(pipeline.lake)


@pytest.mark.long
def test_deliveries_one_by_one_end_as_one_run_over_all_of_them(
    spark: SparkSession, small: tuple[Path, Pipeline, Lake], tmp_path: Path
) -> None:
    root, pipeline, lake = small
    raw = 0
    for name, delivery in DELIVERIES.items():
        path = deliver(root, name, delivery)
        if name == "late":  # also by the clock: copied with the time it was written at
            os.utime(path, (1, 1))
        done = clean_increment(spark, pipeline, lake)
        raw += len(delivery)
        assert not done.unchanged
        assert done.note == f"1 new files, {len(delivery)} rows"
        assert done.rows_in == raw == done.rows_out + done.rows_quarantined + done.rows_dropped
        written = {t: lake.table(t).snapshot().rows for t in ("clean", "quarantine")}
        assert written == {"clean": done.rows_out, "quarantine": done.rows_quarantined}
    whole_lake = Lake(tmp_path / "whole")
    whole = clean(spark, pipeline, whole_lake)
    assert everything(lake) == everything(whole_lake)
    assert (done.rows_in, done.rows_out, done.counts) == (
        whole.rows_in, whole.rows_out, whole.counts,
    )  # fmt: skip
    ids = [row[0] for row in content(lake, "clean", ["id"])]
    assert len(ids) == len(set(ids))


def test_rows_that_only_came_leave_the_files_that_are_there(
    spark: SparkSession, small: tuple[Path, Pipeline, Lake]
) -> None:
    root, pipeline, lake = small
    kept: set[str] = set()
    for name in ("first", "february", "late", "first again"):
        deliver(root, name, DELIVERIES[name])
        clean_increment(spark, pipeline, lake)
        files = {file.path for file in lake.table("clean").snapshot().files}
        assert kept <= files, name
        kept = files
    deliver(root, "corrections", rows([3], 1, 9))
    clean_increment(spark, pipeline, lake)
    files = {file.path for file in lake.table("clean").snapshot().files}
    assert {path for path in kept if "2013-02" in path} <= files
    assert not {path for path in kept if "2013-01" in path} & files


def test_without_a_new_file_nothing_is_committed(
    spark: SparkSession, small: tuple[Path, Pipeline, Lake]
) -> None:
    root, pipeline, lake = small
    deliver(root, "first", DELIVERIES["first"])
    first = clean_increment(spark, pipeline, lake)
    again = clean_increment(spark, pipeline, lake)
    assert (first.unchanged, again.unchanged) == (False, True)
    assert (again.version, again.rows_in) == (first.version, first.rows_in)
    assert again.note == "no new file"


@pytest.mark.parametrize(
    "stopped_at",
    [
        pytest.param("quarantine", marks=pytest.mark.long),
        pytest.param("quality", marks=pytest.mark.long),
        "clean",
        "checkpoint",
    ],
)
def test_a_batch_that_is_stopped_anywhere_comes_again_and_counts_once(
    spark: SparkSession,
    small: tuple[Path, Pipeline, Lake],
    monkeypatch: pytest.MonkeyPatch,
    stopped_at: str,
    tmp_path: Path,
) -> None:
    root, pipeline, lake = small
    deliver(root, "first", DELIVERIES["first"])
    clean_increment(spark, pipeline, lake)
    deliver(root, "corrections", DELIVERIES["corrections"])
    commit = lake_module.commit

    def stopping(table: Any, *given: Any, **named: Any):
        if table.name == stopped_at:
            raise OSError("stopped")
        done = commit(table, *given, **named)
        if (stopped_at, table.name) == ("checkpoint", "clean"):
            raise OSError("stopped")
        return done

    monkeypatch.setattr(batch, "commit", stopping)
    with pytest.raises(SourceError, match=r"taken: stopped\..* comes again"):
        clean_increment(spark, pipeline, lake)
    monkeypatch.undo()
    clean_increment(spark, pipeline, lake)
    whole_lake = Lake(tmp_path / "whole")
    clean(spark, pipeline, whole_lake)
    assert everything(lake) == everything(whole_lake)
    counts = json.loads(lake.table("clean").last_note(COUNTS) or "")
    assert counts == json.loads(whole_lake.table("clean").last_note(COUNTS) or "")


@pytest.mark.long
def test_a_lost_checkpoint_is_refused_until_all_is_read_anew(
    spark: SparkSession, small: tuple[Path, Pipeline, Lake]
) -> None:
    root, pipeline, lake = small
    deliver(root, "first", DELIVERIES["first"])
    clean_increment(spark, pipeline, lake)
    before = everything(lake)
    version = lake.table("clean").snapshot().version
    checkpoint = root / "lake" / "ingest" / "small" / "checkpoint"
    checkpoint.rename(root / "lost")
    for _ in range(2):
        with pytest.raises(LakeError, match="--rebuild"):
            clean_increment(spark, pipeline, lake)
        assert lake.table("clean").snapshot().version == version
    deliver(root, "february", DELIVERIES["february"])
    rebuilt = clean_increment(spark, pipeline, lake, rebuild=True)
    assert rebuilt.rows_in == len(DELIVERIES["first"]) + len(DELIVERIES["february"])
    assert not before["clean"] - everything(lake)["clean"]
    assert clean_increment(spark, pipeline, lake).unchanged


@pytest.mark.long
def test_a_table_of_a_full_run_is_refused_until_all_is_read_anew(
    spark: SparkSession, small: tuple[Path, Pipeline, Lake]
) -> None:
    root, pipeline, lake = small
    deliver(root, "first", DELIVERIES["first"])
    clean(spark, pipeline, lake)
    whole = everything(lake)
    with pytest.raises(LakeError, match="clean/small, so which raw files"):
        clean_increment(spark, pipeline, lake)
    clean_increment(spark, pipeline, lake, rebuild=True)
    assert everything(lake) == whole


@pytest.mark.long
def test_a_table_that_was_taken_back_is_refused_until_all_is_read_anew(
    spark: SparkSession, small: tuple[Path, Pipeline, Lake]
) -> None:
    root, pipeline, lake = small
    deliver(root, "first", DELIVERIES["first"])
    clean_increment(spark, pipeline, lake)
    kept = root / "kept"
    shutil.copytree(root / "lake" / "clean", kept)
    deliver(root, "february", DELIVERIES["february"])
    clean_increment(spark, pipeline, lake)
    whole = everything(lake)
    shutil.rmtree(root / "lake" / "clean")
    kept.rename(root / "lake" / "clean")
    with pytest.raises(LakeError, match="taken back to an earlier version"):
        clean_increment(spark, pipeline, lake)
    clean_increment(spark, pipeline, lake, rebuild=True)
    assert everything(lake) == whole


def test_other_rules_are_refused_until_all_is_read_anew(
    spark: SparkSession, small: tuple[Path, Pipeline, Lake]
) -> None:
    root, pipeline, lake = small
    deliver(root, "first", DELIVERIES["first"])
    clean_increment(spark, pipeline, lake)
    other = examples.pipeline(root, {**CHANGES, "clean.rules": {}})
    with pytest.raises(LakeError, match="another contract or other rules"):
        clean_increment(spark, other, lake)


def test_a_file_that_is_changed_after_it_was_read_is_named(
    spark: SparkSession, small: tuple[Path, Pipeline, Lake]
) -> None:
    root, pipeline, lake = small
    path = deliver(root, "first", DELIVERIES["first"])
    clean_increment(spark, pipeline, lake)
    os.utime(path, (1, 1))
    with pytest.raises(SourceError, match=r"first\.parquet: was changed after it was read"):
        clean_increment(spark, pipeline, lake)


def test_two_runs_at_once_are_one_and_a_word(
    spark: SparkSession, small: tuple[Path, Pipeline, Lake]
) -> None:
    root, pipeline, lake = small
    deliver(root, "first", DELIVERIES["first"])
    folder = root / "lake" / "ingest" / "small"
    folder.mkdir(parents=True)
    with (folder / "lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(CommitConflictError, match="another run is cleaning"):
            clean_increment(spark, pipeline, lake)
    assert clean_increment(spark, pipeline, lake).rows_in == len(DELIVERIES["first"])


def test_a_bad_new_file_is_named_and_read_when_it_is_mended(
    spark: SparkSession, small: tuple[Path, Pipeline, Lake]
) -> None:
    root, pipeline, lake = small
    deliver(root, "first", DELIVERIES["first"])
    clean_increment(spark, pipeline, lake)
    bad = root / "raw" / "bad.parquet"
    bad.write_bytes(b"PAR1 is no Parquet")
    with pytest.raises(SourceError, match=r"bad\.parquet: is not readable Parquet"):
        clean_increment(spark, pipeline, lake)
    deliver(root, "bad", DELIVERIES["february"])
    done = clean_increment(spark, pipeline, lake)
    assert done.rows_in == len(DELIVERIES["first"]) + len(DELIVERIES["february"])
    bad = root / "raw" / "worse.parquet"
    bad.write_bytes(b"PAR1 is no Parquet")
    with pytest.raises(SourceError, match=r"worse\.parquet"):
        clean_increment(spark, pipeline, lake)
    bad.unlink()
    assert clean_increment(spark, pipeline, lake).rows_in == done.rows_in
