from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from pyspark.sql import SparkSession

from pipeline.clean import stage
from pipeline.clean.contract import REASONS
from pipeline.clean.frames import judged
from pipeline.clean.inputs import Inputs
from pipeline.clean.stage import clean
from pipeline.clean.verdict import DROPPED_BY, VERDICT
from pipeline.config import Pipeline
from pipeline.errors import (
    ConfigError,
    CountError,
    JoinError,
    LakestormError,
    RuleError,
    SchemaError,
    SourceError,
)
from pipeline.lake import Lake
from pipeline.sources.formats import open_rows
from pipeline.sources.parquet import ParquetFiles
from tests.clean import examples, oracle

FILES = ("jan.parquet", "2013/feb.parquet", "2014/feb.parquet")
numbers = st.sampled_from([0, 1, 2, 3, 4, 5])
VALUES: dict[oracle.Spelling, dict[str, st.SearchStrategy[Any]]] = {
    "typed": {
        "id": st.none() | numbers | st.just(2**31),
        "at": st.none() | numbers,
        "x": st.sampled_from([None, 0.0, -0.0, 0.5, 2.0, 3.0, 4.0, float("nan"), float("inf")]),
    },
    "doubles": {
        "id": st.sampled_from([None, 0.0, 1.0, 2.0, 3.5, float("nan"), 1e300, float("-inf")]),
        "at": st.sampled_from([None, 0.0, 1.0, 2.0, 0.5, float("nan")]),
        "x": st.sampled_from([None, 0.0, 1.0, 3.0, 1e300, float("nan")]),
    },
    "text": {
        "id": st.sampled_from([None, "0", "1", " 2 ", "-3", "3.5", "", "x", "99999999999"]),
        "at": st.sampled_from([None, "0", "1", "2", "late"]),
        "x": st.sampled_from([None, "0", "1.5", "3e0", "NaN", "-Infinity", "much", "0.0"]),
    },
}  # fmt: skip
places = st.sampled_from(["a", "b", "c", None])


@st.composite
def dirty_files(draw: st.DrawFn) -> dict[str, tuple[oracle.Spelling, list[dict[str, Any]]]]:
    """Three files with some hundred rows between them, each in its own spelling."""
    files: dict[str, tuple[oracle.Spelling, list[dict[str, Any]]]] = {}
    for name in FILES:
        spelling: oracle.Spelling = draw(st.sampled_from(["typed", "doubles", "text"]))
        rows = draw(
            st.lists(st.fixed_dictionaries({**VALUES[spelling], "place": places}), max_size=60)
        )
        named = [{"uid": f"{name} {position}", **row} for position, row in enumerate(rows)]
        files[name] = (spelling, named)
    return files


def lay_out(root: Path, files: dict[str, tuple[oracle.Spelling, list[dict[str, Any]]]]) -> None:
    for name, (spelling, rows) in files.items():
        examples.write_raw(root / "raw" / name, rows, oracle.SPELLINGS[spelling])


@settings(
    max_examples=3,
    deadline=None,
    phases=[Phase.explicit, Phase.reuse, Phase.generate],  # shrinking takes minutes
    suppress_health_check=[HealthCheck.too_slow],
)
@given(files=dirty_files())
def test_every_dirty_row_meets_the_fate_that_plain_python_foretells(
    spark: SparkSession,
    tmp_path_factory: pytest.TempPathFactory,
    files: dict[str, tuple[oracle.Spelling, list[dict[str, Any]]]],
) -> None:
    root = tmp_path_factory.mktemp("dirty")
    lay_out(root, files)
    pipeline = examples.pipeline(root, oracle.CHANGES)
    rows = judged(
        spark, pipeline, open_rows(spark, pipeline.source, "source", pipeline.storage)
    ).collect()
    told = oracle.fates({name: rows for name, (_, rows) in files.items()})
    assert Counter(row["uid"] for row in rows) == Counter(list(told))
    for row in rows:
        fate = told[row["uid"]]
        assert (row[VERDICT], row[DROPPED_BY]) == (fate.verdict, fate.dropped_by), row
        assert Counter(row[REASONS]) == Counter(fate.reasons), row


@pytest.fixture(scope="module")
def dirty(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, oracle.Fate]]:
    """A folder with dirty files, and the fate of each row."""
    root = tmp_path_factory.mktemp("stage")
    values: dict[oracle.Spelling, list[tuple[Any, ...]]] = {
        "typed": [(1, 0, 2.0, "a"), (1, 1, 2.0, "a"), (2, 5, 1.0, "b"), (3, 1, 0.0, "c")],
        "doubles": [(1.0, 1.0, 2.0, "a"), (3.5, 1.0, 1.0, "a"), (7.0, 1.0, 1.0, None)],
        "text": [("1", "late", "1", "b"), ("x", "0", "much", None), (None, "0", "1", "a")],
    }
    values["typed"].append((4, 0, 3.5, "a"))
    values["doubles"].append((8.0, None, 9.0, "b"))
    values["text"].append(("9", "0", "1", "b"))
    files: dict[str, tuple[oracle.Spelling, list[dict[str, Any]]]] = {}
    for name, (spelling, rows) in zip(FILES, values.items(), strict=True):
        named = [
            dict(zip(oracle.COLUMNS, (f"{name} {place}", *row), strict=True))
            for place, row in enumerate(rows)
        ]
        files[name] = (spelling, named)
    lay_out(root, files)
    return root, oracle.fates({name: rows for name, (_, rows) in files.items()})


def uids(lake: Lake) -> dict[str, Counter[str]]:
    """Rows by table, read by Polars."""
    rejected = examples.table(lake, "quarantine")
    return {
        "clean": Counter(examples.table(lake, "clean")["uid"].to_list()),
        "quarantine": Counter(json.loads(row)["uid"] for row in rejected["row"].to_list()),
    }


def test_tables_and_outcome_account_for_every_row_and_running_again_changes_nothing(
    spark: SparkSession, dirty: tuple[Path, dict[str, oracle.Fate]]
) -> None:
    root, told = dirty
    pipeline = examples.pipeline(root, oracle.CHANGES)
    lake = Lake(pipeline.lake)
    done = clean(spark, pipeline, lake)
    by_verdict = {
        verdict: Counter(uid for uid, fate in told.items() if fate.verdict == verdict)
        for verdict in ("clean", "quarantine", "drop")
    }
    assert uids(lake) == {name: by_verdict[name] for name in ("clean", "quarantine")}
    assert done.counts == oracle.counts(told)
    assert (done.rows_in, done.rows_out) == (len(told), by_verdict["clean"].total())
    assert done.rows_quarantined == by_verdict["quarantine"].total()
    assert done.rows_dropped == by_verdict["drop"].total()
    assert not done.unchanged

    rejected = examples.table(lake, "quarantine")
    for row in rejected.iter_rows(named=True):
        raw = json.loads(row["row"])
        assert Counter(row["reasons"]) == Counter(told[raw["uid"]].reasons)
        assert raw["uid"] == f"{row['source_file']} {row['source_position']}"
    unreadable = dict(zip(rejected["row"].to_list(), rejected["unreadable"].to_list(), strict=True))
    (of_x,) = [json.loads(text) for text in unreadable.values() if text and "much" in text]
    assert of_x == {"id": "x", "x": "much"}

    _require_quality(lake, told)
    versions = {name: lake.table(name).snapshot().version for name in TABLES}
    again = clean(spark, pipeline, lake)
    assert again.unchanged
    assert (again.version, again.counts, again.rows_in) == (done.version, done.counts, done.rows_in)
    assert {name: lake.table(name).snapshot().version for name in TABLES} == versions

    # A file that arrives later, and one that is touched.
    late = {"uid": "late", "id": 77, "at": 0, "x": 1.0, "place": "a"}
    examples.write_raw(root / "raw" / "late.parquet", [late], oracle.SPELLINGS["typed"])
    newer = clean(spark, pipeline, lake)
    assert not newer.unchanged
    assert newer.version == done.version + 1
    assert newer.rows_in == done.rows_in + 1
    assert uids(lake)["clean"] == by_verdict["clean"] + Counter(["late"])
    assert uids(lake)["quarantine"] == by_verdict["quarantine"]
    os.utime(root / "raw" / "late.parquet", (0, 0))
    assert Inputs.of(spark, pipeline).fingerprint(pipeline) != lake.table("clean").last_note(
        "lakestorm.run"
    )


TABLES = ("clean", "quarantine", "quality")


def _require_quality(lake: Lake, told: dict[str, oracle.Fate]) -> None:
    """The table `quality` tells what Polars finds in the others."""
    rows = examples.table(lake, "quality")
    measured = {(r["table"], r["subject"], r["measure"]): r["value"] for r in rows.to_dicts()}
    assert len(measured) == rows.height
    kept = examples.table(lake, "clean")
    assert measured["raw", None, "rows"] == len(told)
    assert measured["clean", None, "rows"] == kept.height
    assert measured["dropped", None, "rows"] == sum(f.verdict == "drop" for f in told.values())
    for name, count in oracle.counts(told).items():
        table, reason = name.split(" ", 1)
        where = (
            ("clean", f"rule:{reason}", "rows warned")
            if table == "warned"
            else (table, reason, "rows")
        )
        assert measured[where] == count  # fmt: skip
    for column in ("at", "x"):
        assert measured["clean", column, "nulls"] == kept[column].null_count()
        assert measured["clean", column, "minimum"] == kept[column].min()
        assert measured["clean", column, "maximum"] == kept[column].max()
        assert measured["clean", column, "mean"] == pytest.approx(kept[column].mean())


def test_equal_rows_are_judged_alike_in_whatever_order_files_are_found(
    spark: SparkSession, dirty: tuple[Path, dict[str, oracle.Fate]]
) -> None:
    root, _ = dirty
    pipeline = examples.pipeline(root, oracle.CHANGES)
    subject = open_rows(spark, pipeline.source, "source", pipeline.storage)
    assert isinstance(subject, ParquetFiles)
    before = spark.conf.get("spark.sql.shuffle.partitions")
    try:
        outcomes = []
        for order, shuffles in ((1, "1"), (-1, "5")):
            spark.conf.set("spark.sql.shuffle.partitions", shuffles)
            turned = replace(subject.found, files=subject.found.files[::order])
            rows = judged(spark, pipeline, replace(subject, found=turned)).collect()
            outcomes.append({row["uid"]: (row[VERDICT], row[REASONS]) for row in rows})
    finally:
        spark.conf.set("spark.sql.shuffle.partitions", str(before))
    assert outcomes[0] == outcomes[1]


# A lake that holds one good run, and what must leave it as it is.

SIDE = pa.schema([("name", pa.string()), ("rain", pa.float64())])
JOIN = {
    "path": "",
    "on": {"place": "name"},
    "columns": {"name": {"type": "string"}, "rain": {"type": "double"}},
    "select": {"rain": "rain"},
}


@pytest.fixture(scope="module")
def good(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Lake]:
    root = tmp_path_factory.mktemp("good")
    examples.write_raw(root / "raw" / "1.parquet", examples.some_rows(0, 50, 1))
    examples.write_raw(root / "side" / "s.parquet", [{"name": "a", "rain": 0.5}], SIDE)
    pipeline = examples.pipeline(root, joined(root))
    lake = Lake(pipeline.lake)
    clean(spark, pipeline, lake)
    return root, lake


def joined(root: Path) -> dict[str, Any]:
    return {"clean.joins": {"side": {**JOIN, "path": str(root / "side")}}}


def damage_page(path: Path) -> None:
    whole = bytearray(path.read_bytes())
    whole[4:150] = b"\xff" * 146
    path.write_bytes(whole)


def _corrupt_page(root: Path) -> None:
    file = examples.write_raw(root / "raw" / "fault.parquet", examples.some_rows(50, 500, 1))
    damage_page(file)


def _corrupt_side(root: Path) -> None:
    rows = [{"name": f"n{n}", "rain": n / 3} for n in range(500)]
    damage_page(examples.write_raw(root / "side" / "fault.parquet", rows, SIDE))


def _doubled_side(root: Path) -> None:
    examples.write_raw(root / "side" / "fault.parquet", [{"name": "a", "rain": 9.0}], SIDE)


def _empty_file(root: Path) -> None:
    (root / "raw" / "fault.parquet").touch()


def _missing_column(root: Path) -> None:
    pq.write_table(pa.table({"id": [1]}), root / "raw" / "fault.parquet")


def _nothing(_: Path) -> None:
    pass


@pytest.mark.parametrize(
    ("damage", "changes", "error", "told"),
    [
        (_corrupt_page, {}, SourceError, r"raw/fault\.parquet: is damaged"),
        (_corrupt_side, {}, SourceError, r"side/fault\.parquet: is damaged"),
        (_doubled_side, {}, JoinError, r"clean\.joins\.side\.on: .* 2 rows with name=a"),
        (_empty_file, {}, SourceError, r"fault\.parquet: is empty"),
        (_missing_column, {}, SchemaError, r"fault\.parquet, column amount: is missing"),
        (
            _nothing,
            {"clean.rules": {"few": {"check": "id < 48", "action": "fail"}}},
            RuleError,
            r"clean\.rules\.few: 2 of 50 rows fail 'id < 48', and its action is fail",
        ),
        (
            _nothing,
            {"clean.period": {"column": "period", "expression": "monht"}},
            ConfigError,
            r"clean\.period\.expression: 'monht': .* cannot be resolved",
        ),
    ],
)  # fmt: skip
def test_a_fault_is_named_and_leaves_the_tables_as_they_were(
    spark: SparkSession,
    good: tuple[Path, Lake],
    *,
    damage: Callable[[Path], None],
    changes: dict[str, Any],
    error: type[LakestormError],
    told: str,
) -> None:
    root, lake = good
    before = examples.files_below(Path(lake.root))
    damage(root)
    try:
        with pytest.raises(error, match=told):
            clean(spark, examples.pipeline(root, {**joined(root), **changes}), lake)
    finally:
        for fault in root.rglob("fault.parquet"):
            fault.unlink()
    assert examples.files_below(Path(lake.root)) == before
    assert clean(spark, examples.pipeline(root, joined(root)), lake).unchanged


def test_a_count_that_does_not_add_up_commits_nothing(
    spark: SparkSession, good: tuple[Path, Lake], monkeypatch: pytest.MonkeyPatch
) -> None:
    root, lake = good
    before = examples.files_below(Path(lake.root))
    changed = {**joined(root), "clean.period": {"column": "period", "expression": "'all'"}}
    monkeypatch.setattr(ParquetFiles, "rows", lambda _: 51)
    with pytest.raises(CountError, match=r"raw 50 \(by footers 51\)"):
        clean(spark, examples.pipeline(root, changed), lake)
    assert examples.files_below(Path(lake.root)) == before


def test_raw_files_without_rows_make_empty_tables(spark: SparkSession, tmp_path: Path) -> None:
    examples.write_raw(tmp_path / "raw" / "1.parquet", [])
    pipeline = examples.pipeline(tmp_path, {"clean.dedupe": {"keys": ["id"]}})
    done = clean(spark, pipeline, Lake(pipeline.lake))
    assert (done.rows_in, done.rows_out, done.counts) == (0, 0, {})
    assert clean(spark, pipeline, Lake(pipeline.lake)).unchanged


# Three commits make a run: what if it ends between two of them?

STOPS = {"clean.rules": {"odd": {"check": "id % 2 = 1", "action": "quarantine"}}}
APP = "clean/small"
KILLED = """
import os, signal, sys
from pathlib import Path
from pipeline.clean import stage
from pipeline.lake import Lake
from pipeline.sources.formats import open_rows
from pipeline.sources.parquet import ParquetFiles
from pipeline.session import spark_session
from tests.clean import examples, test_stage

commit = stage.commit

def once(table, *arguments, **settings):
    done = commit(table, *arguments, **settings)
    if table.name == "quarantine":
        os.kill(os.getpid(), signal.SIGKILL)
    return done

stage.commit = once
pipeline = examples.pipeline(Path(sys.argv[1]), test_stage.STOPS)
stage.clean(spark_session("killed", "local[1]"), pipeline, Lake(pipeline.lake))
"""


@pytest.fixture
def stopping(tmp_path: Path) -> Iterator[tuple[Pipeline, Lake]]:
    examples.write_raw(tmp_path / "raw" / "1.parquet", examples.some_rows(0, 40, 1))
    pipeline = examples.pipeline(tmp_path, STOPS)
    lake = Lake(pipeline.lake)
    yield pipeline, lake
    odd = Counter(range(1, 40, 2))
    assert examples.ids(lake, "clean") == odd
    rejected = [json.loads(row)["id"] for row in examples.table(lake, "quarantine")["row"]]
    assert Counter(rejected) == Counter(range(0, 40, 2))
    numbers = {name: lake.table(name).transaction_version(APP) for name in TABLES}
    assert set(numbers.values()) == {1}
    rows = examples.table(lake, "quality").filter(
        (pl.col("table") == "raw") & (pl.col("measure") == "rows")
    )
    assert rows["value"].to_list() == [40]


@pytest.mark.long
def test_a_run_killed_between_two_commits_is_finished_under_its_own_number(
    spark: SparkSession, stopping: tuple[Pipeline, Lake], tmp_path: Path
) -> None:
    pipeline, lake = stopping
    killed = subprocess.run(
        [sys.executable, "-c", KILLED, str(tmp_path)], cwd=Path(__file__).parents[2], check=False
    )
    assert killed.returncode == -9
    assert lake.table("quarantine").transaction_version(APP) == 1
    assert lake.table("clean").transaction_version(APP) is None
    before = lake.table("quarantine").snapshot()
    done = clean(spark, pipeline, lake)
    assert (done.rows_out, done.rows_quarantined, done.unchanged) == (20, 20, False)
    assert lake.table("quarantine").snapshot() == before
    assert clean(spark, pipeline, lake).unchanged


def test_a_run_that_ends_before_it_told_its_measures_tells_them_next_time(
    spark: SparkSession, stopping: tuple[Pipeline, Lake], monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline, lake = stopping
    monkeypatch.setattr(stage, "quality_rows", lambda *_: pytest.fail("stop"))
    with pytest.raises(pytest.fail.Exception, match="stop"):
        clean(spark, pipeline, lake)
    monkeypatch.undo()
    version = lake.table("clean").snapshot().version
    done = clean(spark, pipeline, lake)
    assert (done.version, done.unchanged) == (version, False)
