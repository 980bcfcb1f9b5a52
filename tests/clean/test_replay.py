"""What is in quarantine is judged again, and every row is in one place afterwards."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, Phase, example, given, settings
from hypothesis import strategies as st
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from pipeline.clean import pending
from pipeline.clean import replay as module
from pipeline.clean.contract import REASONS, UNREADABLE
from pipeline.clean.frames import rejected
from pipeline.clean.increment import clean_increment
from pipeline.clean.raw_again import STAYS, raw_again, staying, typed_again
from pipeline.clean.replay import replay
from pipeline.clean.sensitive import Redaction
from pipeline.clean.stage import clean
from pipeline.clean.verdict import QUARANTINE, VERDICT
from pipeline.config import Column, Pipeline
from pipeline.errors import (
    CommitConflictError,
    LakeError,
    RuleError,
    SchemaError,
    TableNotFoundError,
)
from pipeline.lake import Lake, restore
from pipeline.sources.raw import FILE, POSITION
from tests.clean import examples

# Values: what quarantine keeps as JSON is read back exactly.

KINDS = {
    "flag": "boolean",
    "small": "tinyint",
    "number": "bigint",
    "single": "float",
    "double": "double",
    "money": "decimal(38,9)",
    "day": "date",
    "at": "timestamp",
    "local": "timestamp_ntz",
    "name": "string",
    "blob": "binary",
    "row": "array<double>",  # a name that quarantine has, too
    "nested": "struct<a:int,b:array<struct<at:timestamp,`x y`:string>>>",
    "tags": "map<string,decimal(20,3)>",
}
CONTRACT = {name: Column(type=kind) for name, kind in KINDS.items()}
texts = st.text(st.characters(codec="utf-8"), max_size=6) | st.sampled_from(
    ["NaN", "null", "", "\x00\x1b[31m", '"\\', "\u2028", "[red]", "\U0001f680", "1e5"]
)
doubles = st.floats(allow_nan=False) | st.sampled_from([-0.0, math.inf, 5e-324, 0.1 + 0.2])
moments = st.datetimes(datetime(1, 1, 2), datetime(9999, 12, 30)).map(  # noqa: DTZ001
    lambda at: at.replace(tzinfo=UTC)
)
VALUES: dict[str, st.SearchStrategy[Any]] = {
    "flag": st.booleans(),
    "small": st.integers(-(2**7), 2**7 - 1),
    "number": st.integers(-(2**63), 2**63 - 1),
    "single": st.floats(width=32, allow_nan=False),
    "double": doubles,
    "money": st.decimals(-(10**28), 10**28, places=9),
    "day": st.dates(date(1, 1, 2), date(9999, 12, 30)),
    "at": moments,
    "local": moments.map(lambda at: at.replace(tzinfo=None)),
    "name": texts,
    "blob": st.binary(max_size=5),
    "row": st.lists(st.none() | doubles, max_size=3),  # NaN is null by then
    "nested": st.tuples(
        st.none() | st.integers(-(2**31), 2**31 - 1),
        st.none() | st.lists(st.tuples(st.none() | moments, st.none() | texts), max_size=2),
    ),
    "tags": st.dictionaries(texts, st.none() | st.decimals(-9, 9, places=3), max_size=2),
}
DIGITS = Decimal("-4029745733086658446.929952768")  # more than a double has
rows_of_all_kinds = st.lists(
    st.tuples(*(st.none() | VALUES[name] for name in KINDS)), min_size=1, max_size=40
)


def plain(value: Any) -> Any:
    """A value as it can be compared: NaN equals NaN, and -0.0 is not 0.0."""
    if isinstance(value, float):
        return value.hex()
    if isinstance(value, dict):
        return {key: plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return tuple(map(plain, value))
    return bytes(value) if isinstance(value, bytearray) else value


@settings(
    max_examples=3,
    deadline=None,
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
    suppress_health_check=list(HealthCheck),
)
@given(rows=rows_of_all_kinds)
@example(rows=[tuple(DIGITS if name == "money" else None for name in KINDS)])
def test_values_come_back_from_quarantine_exactly(spark: SparkSession, rows: list[Any]) -> None:
    schema = ", ".join(f"`{name}` {kind}" for name, kind in KINDS.items())
    given_rows = spark.createDataFrame(rows, schema).withColumns(
        {
            VERDICT: F.lit(QUARANTINE),
            FILE: F.lit("a.parquet"),
            POSITION: F.monotonically_increasing_id(),
            REASONS: F.array(F.lit("rule:x")),
            UNREADABLE: F.lit(None).cast("map<string,string>"),
        }
    )
    kept = given_rows.collect()
    raw = raw_again(
        rejected(given_rows, list(KINDS), Redaction(lambda _: False, any=False, key="")), CONTRACT
    )
    assert [row for row in raw.collect() if row[STAYS] is not None] == []
    found = typed_again(raw, CONTRACT).collect()
    assert {row[POSITION]: plain([row[name] for name in KINDS]) for row in found} == {
        row[POSITION]: plain([row[name] for name in KINDS]) for row in kept
    }
    assert all(row[REASONS] == [] and row[UNREADABLE] is None for row in found)


Rejected = Sequence[tuple[Mapping[str, Any], Mapping[str, str] | None]]


def stored(spark: SparkSession, rows: Rejected) -> DataFrame:
    """Rows of quarantine by their values and their texts, spelled as Spark spells JSON."""

    def spelled(content: Mapping[str, Any]) -> str:
        return json.dumps(content, separators=(",", ":"), ensure_ascii=False)

    return spark.createDataFrame(
        [
            ("f", at, ["then"], spelled(row), None if left is None else spelled(left))
            for at, (row, left) in enumerate(rows)
        ],
        "source_file string, source_position long, reasons array<string>, row string, "
        "unreadable string",
    )


def test_a_text_that_casts_by_now_is_the_value_and_one_that_does_not_is_no_missing_value(
    spark: SparkSession,
) -> None:
    contract = {
        "x": Column(type="double", required=True),
        "n": Column(type="int", required=True),
    }
    rows: Rejected = [
        ({"x": None, "n": 1}, {"x": "1.5"}),
        ({"x": None, "n": 1}, {"x": "much"}),
        ({"x": None, "n": 1}, None),
        ({"x": None, "n": None}, {"x": "much", "n": "3.5"}),
        ({"x": None, "n": None}, {"x": "2"}),
        ({"x": None, "n": 1}, {"x": "NaN"}),
    ]
    raw = raw_again(stored(spark, rows), contract)
    found = {row[POSITION]: row for row in typed_again(raw, contract).collect()}
    told = {at: (row["x"], row["n"], row[REASONS], row[UNREADABLE]) for at, row in found.items()}
    assert told == {
        0: (1.5, 1, [], None),
        1: (None, 1, ["cast:x"], {"x": "much"}),
        2: (None, 1, ["required:x"], None),
        3: (None, None, ["cast:x", "cast:n"], {"x": "much", "n": "3.5"}),
        4: (2.0, None, ["required:n"], None),
        5: (None, 1, ["required:x"], None),
    }
    assert {row["_was"][0] for row in found.values()} == {"then"}


def test_what_cannot_be_brought_back_stays_as_it_is_and_says_why(spark: SparkSession) -> None:
    contract = {
        "id": Column(type="int"),
        "mail": Column(type="string", sensitive=True),
        "pay": Column(type="decimal(9,2)", sensitive=True),
        "parts": Column(type="array<int>"),
        "keyed": Column(type="map<int,int>"),
    }
    empty = {"id": None, "mail": None, "pay": None, "parts": None, "keyed": None}
    rows: Rejected = [
        ({**empty, "id": 1}, None),
        (empty, {"_malformed": "1;2;3", "mail": "x"}),
        ({**empty, "mail": "5e884898"}, None),
        (empty, {"mail": "5e884898"}),
        (empty, {"parts": "[1, x]"}),
        ({**empty, "keyed": {"1": 2}}, None),
        ({"id": 1}, None),
        ({**empty, "id": 2**40}, None),
        ({**empty, "pay": "5e884898"}, None),
    ]
    raw = raw_again(stored(spark, rows), contract)
    whys = {row[POSITION]: row[STAYS] for row in raw.collect()}
    assert whys == {
        0: None,
        1: "malformed",
        2: "sensitive",
        3: "sensitive",
        4: "inexact",
        5: "inexact",
        6: "inexact",
        7: "inexact",
        8: "sensitive",
    }
    left = {row["source_position"]: row for row in staying(raw).collect()}
    as_it_was = {row["source_position"]: row for row in stored(spark, rows).collect()}
    assert left == {at: row for at, row in as_it_was.items() if at}


# The whole stage.

SCHEMA = pa.schema(
    [(name, pa.string()) for name in ("id", "month", "amount", "delay", "place", "at")]
)
COLUMNS = {**examples.BASE["source"]["columns"], "at": {"type": "bigint"}}
THEN = {
    "source.columns": COLUMNS,
    "clean.dedupe": {"keys": ["id"], "latest_by": ["at"]},
    "clean.rules": {
        "positive": {"check": "amount > 0", "action": "quarantine"},
        "known": {"check": "place IN ('a', 'b')", "action": "quarantine"},
    },
}
TODAY = {
    **THEN,
    "clean.rules": {
        "positive": {"check": "amount > -5", "action": "quarantine"},
        "near": {"check": "delay < 100 OR amount > 0", "action": "drop"},
        "small": {"check": "amount < 50", "action": "warn"},
        "known": {"check": "place <> 'z'", "action": "quarantine"},
    },
}


def row(number: int, at: int, amount: str = "1.5", place: str = "a", **more: str) -> dict[str, str]:
    return {
        "id": str(number),
        "month": str(1 + number % 3),
        "amount": amount,
        "delay": "10.25",
        "place": place,
        "at": str(at),
        **more,
    }


DELIVERIES = {
    "first": [
        *(row(number, 1) for number in range(12)),
        row(1, 2, place="c"),  # passes today, and is newer than the one in clean
        row(2, 0, place="c"),  # passes today, and is older
        row(30, 1, "-3"),
        row(30, 2, "-4"),  # the newer of two that pass today
        row(31, 1, "-4.000001", "b"),
        row(32, 1, "-9"),
        row(33, 1, "-9", "z"),
        row(34, 1, "-2", delay="200"),  # dropped today
        row(35, 1, "much"),
        row(36, 1, "60", "c"),
    ],
    "second": [
        row(3, 1),  # a duplicate
        row(4, 5, "7"),  # a correction
        row(37, 1, "1e400"),
        {**row(38, 1, place="c"), "month": "first"},
        {**row(39, 1, place="c"), "id": ""},
        row(41, 1, place="ç\u2028"),
    ],
}
RAW_ROWS = sum(map(len, DELIVERIES.values()))


def deliver(root: Path, *names: str) -> None:
    for name in names or DELIVERIES:
        examples.write_raw(root / "raw" / f"{name}.parquet", DELIVERIES[name], SCHEMA)


def everything(lake: Lake) -> dict[str, Counter[Any]]:
    """The rows of both tables, read by Polars; a corrected row forgot where it came from."""
    kept, rejects = examples.table(lake, "clean"), examples.table(lake, "quarantine")
    return {
        "clean": Counter(kept.select([*COLUMNS, "period"]).iter_rows()),
        "quarantine": Counter(
            (tuple(each["reasons"]), each["row"], each["unreadable"]) for each in rejects.to_dicts()
        ),
    }


def ids(lake: Lake) -> Counter[Any]:
    """Ids and ages of the rows in both tables."""
    kept = examples.table(lake, "clean").select("id", "at").iter_rows()
    rejects = map(json.loads, examples.table(lake, "quarantine")["row"].to_list())
    return Counter(kept) + Counter((each["id"], each["at"]) for each in rejects)


def versions(lake: Lake) -> list[int]:
    return [lake.table(name).snapshot().version for name in ("clean", "quarantine")]


def full(spark: SparkSession, root: Path) -> Lake:
    """A lake that today's settings have read all raw files into."""
    pipeline = examples.pipeline(root, TODAY)
    whole = Lake(root / "whole")
    clean(spark, pipeline, whole)
    return whole


@pytest.fixture
def lake(spark: SparkSession, tmp_path: Path) -> Lake:
    """A lake whose rows were judged by the settings of then."""
    deliver(tmp_path)
    pipeline = examples.pipeline(tmp_path, THEN)
    lake = Lake(pipeline.lake)
    clean(spark, pipeline, lake)
    return lake


@pytest.fixture
def today(tmp_path: Path) -> Pipeline:
    return examples.pipeline(tmp_path, TODAY)


def test_a_replay_ends_as_a_full_run_under_todays_settings(
    spark: SparkSession, lake: Lake, today: Pipeline, tmp_path: Path
) -> None:
    before = ids(lake)
    done = replay(spark, today, lake)
    whole = full(spark, tmp_path)
    assert everything(lake) == everything(whole)
    assert (34, 1) in before
    assert before - ids(lake) == Counter([(34, 1)])  # dropped today
    assert ids(lake) - before == Counter()
    assert done.rows_in == done.rows_out + done.rows_quarantined + done.rows_dropped
    assert (done.rows_dropped, done.counts["dropped rule:near"]) == (1, 1)
    assert done.note == "1 rows of clean gave way to newer ones, now in quarantine"
    noted = [
        json.loads(each.table("clean").last_note("lakestorm.counts") or "")
        for each in (lake, whole)
    ]
    warned = [counts.pop("warned small", 0) for counts in noted]
    assert noted[0] == noted[1]
    assert warned == [1, 1]
    assert noted[0]["raw"] == RAW_ROWS
    assert versions(lake) == [2, 2]
    quarantine = lake.table("quarantine").last_note("lakestorm.counts") or ""
    assert json.loads(quarantine)["quarantine"] == noted[0]["quarantine"]
    assert replay(spark, today, lake).unchanged
    assert versions(lake) == [2, 2]


@pytest.mark.long
def test_a_second_replay_and_a_full_run_after_it_change_nothing(
    spark: SparkSession, lake: Lake, today: Pipeline, tmp_path: Path
) -> None:
    then = examples.pipeline(tmp_path, THEN)
    assert replay(spark, then, lake).unchanged
    assert versions(lake) == [1, 1]
    first = replay(spark, today, lake)
    rows = everything(lake)
    again = replay(spark, today, lake)
    assert (first.unchanged, again.unchanged) == (False, True)
    assert again.rows_in == again.rows_quarantined == first.rows_quarantined + 1
    # The raw files and the settings that the tables were made with are as they were.
    unchanged = clean(spark, then, lake)
    assert unchanged.unchanged
    assert unchanged.rows_in == RAW_ROWS
    assert unchanged.rows_in == (
        unchanged.rows_out + unchanged.rows_quarantined + unchanged.rows_dropped
    )
    assert unchanged.rows_out == examples.table(lake, "clean").height
    assert everything(lake) == rows
    assert versions(lake) == [2, 2]
    # By other settings all rows are judged, also those in `clean`.
    assert not clean(spark, today, lake).unchanged
    assert everything(lake) == rows


# Two commits make a replay: what if it ends between them?

KILLED = """
import os, signal, sys
from pathlib import Path
from pipeline.clean import replay
from pipeline.sources.raw import FILE, POSITION
from pipeline.lake import Lake
from pipeline.session import spark_session
from tests.clean import examples, test_replay

commit = replay.commit

def once(table, *arguments, **settings):
    done = commit(table, *arguments, **settings)
    os.kill(os.getpid(), signal.SIGKILL)
    return done

replay.commit = once
pipeline = examples.pipeline(Path(sys.argv[1]), test_replay.TODAY)
replay.replay(spark_session("killed", "local[1]"), pipeline, Lake(pipeline.lake))
"""


def half_done(lake: Lake, before: Mapping[str, Counter[Any]], whole: Lake) -> None:
    """`clean` is as it will be, `quarantine` as it was: no row is in neither."""
    now, then = everything(lake), everything(whole)
    assert now == {"clean": then["clean"], "quarantine": before["quarantine"]}


@pytest.mark.long
def test_a_replay_killed_between_its_commits_is_finished_by_the_next(
    spark: SparkSession, lake: Lake, tmp_path: Path
) -> None:
    whole, before, counted = full(spark, tmp_path), everything(lake), ids(lake)
    killed = subprocess.run(
        [sys.executable, "-c", KILLED, str(tmp_path)], cwd=Path(__file__).parents[2], check=False
    )
    assert killed.returncode == -9
    half_done(lake, before, whole)
    # Under yet other rules: what was decided stays decided.
    strict = examples.pipeline(
        tmp_path, {**THEN, "clean.rules": {"never": {"check": "false", "action": "quarantine"}}}
    )
    replay(spark, strict, lake)
    assert everything(lake)["clean"] == everything(whole)["clean"]
    assert ids(lake) == counted - Counter([(34, 1)])
    assert replay(spark, strict, lake).unchanged


def stop(*_: object) -> None:
    raise OSError("stopped")


@pytest.mark.parametrize("finished_by", [pytest.param("replay", marks=pytest.mark.long), "clean"])
def test_a_replay_stopped_between_its_commits_is_finished_by_whoever_comes_next(
    spark: SparkSession,
    lake: Lake,
    *,
    today: Pipeline,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    finished_by: str,
) -> None:
    before, counted = everything(lake), ids(lake)
    monkeypatch.setattr(module, "commit_quarantine", stop)
    with pytest.raises(OSError, match="stopped"):
        replay(spark, today, lake)
    monkeypatch.undo()
    assert everything(lake)["quarantine"] == before["quarantine"]
    assert everything(lake)["clean"] != before["clean"]
    if finished_by == "replay":
        assert replay(spark, today, lake).unchanged
    else:
        assert clean(spark, examples.pipeline(tmp_path, THEN), lake).unchanged
    assert ids(lake) == counted - Counter([(34, 1)])
    assert versions(lake) == [2, 2]


@pytest.mark.long
def test_a_replay_that_ends_before_its_first_commit_leaves_nothing(
    spark: SparkSession, lake: Lake, today: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object, **__: object) -> None:
        raise CommitConflictError("table clean", "others were faster", "Run it again.")

    before, files = everything(lake), examples.files_below(Path(lake.root))
    monkeypatch.setattr(module, "commit", refused)
    with pytest.raises(CommitConflictError):
        replay(spark, today, lake)
    monkeypatch.undo()
    assert everything(lake) == before
    assert examples.files_below(Path(lake.root)) - files <= {"ingest/small/lock"}


@pytest.mark.long
def test_tables_that_a_restore_took_apart_are_refused_until_all_is_read_again(
    spark: SparkSession, lake: Lake, today: Pipeline, tmp_path: Path
) -> None:
    replay(spark, today, lake)
    then = examples.pipeline(tmp_path, THEN)
    restore(lake.table("clean"), 1)
    with pytest.raises(LakeError, match="are not of the same run"):
        replay(spark, today, lake)
    counted = clean(spark, then, lake)
    assert not counted.unchanged
    assert clean(spark, then, lake).unchanged
    assert sum(ids(lake).values()) == RAW_ROWS
    assert not replay(spark, today, lake).unchanged
    # The other way round the files of the second commit are still there.
    before = everything(lake)
    restore(lake.table("quarantine"), lake.table("quarantine").snapshot().version - 1)
    assert everything(lake) != before
    assert pending.settle({name: lake.table(name) for name in ("clean", "quarantine")})
    assert everything(lake) == before


@pytest.mark.long
def test_increments_go_on_under_todays_rules_where_all_rows_are_known_to_pass_them(
    spark: SparkSession, tmp_path: Path
) -> None:
    then, today = (examples.pipeline(tmp_path, each) for each in (THEN, TODAY))
    lake = Lake(then.lake)
    deliver(tmp_path, "first")
    clean_increment(spark, then, lake)
    with pytest.raises(LakeError, match="another contract or other rules"):
        clean_increment(spark, today, lake)
    done = replay(spark, today, lake)
    assert done.note.endswith("clean --incremental goes on under these rules")
    deliver(tmp_path, "second")
    added = clean_increment(spark, today, lake)
    assert added.rows_in == RAW_ROWS
    assert added.rows_in == added.rows_out + added.rows_quarantined + added.rows_dropped
    assert added.rows_out == examples.table(lake, "clean").height
    assert added.rows_quarantined == examples.table(lake, "quarantine").height
    assert everything(lake) == everything(full(spark, tmp_path))
    # A row was dropped: who knows whether it would pass.
    assert "goes on" not in replay(spark, then, lake).note
    with pytest.raises(LakeError, match="another contract or other rules"):
        clean_increment(spark, then, lake)


def test_increments_go_on_under_the_former_rules_where_a_row_fails_todays(
    spark: SparkSession, tmp_path: Path
) -> None:
    then = examples.pipeline(tmp_path, THEN)
    lake = Lake(then.lake)
    deliver(tmp_path, "first")
    clean_increment(spark, then, lake)
    rules = {**TODAY["clean.rules"], "odd": {"check": "id <> 5", "action": "quarantine"}}
    today = examples.pipeline(tmp_path, {**TODAY, "clean.rules": rules})
    assert "goes on" not in replay(spark, today, lake).note
    with pytest.raises(LakeError, match="another contract or other rules"):
        clean_increment(spark, today, lake)
    assert clean_increment(spark, then, lake).unchanged


def test_faults_are_named_and_leave_the_tables_as_they_were(
    spark: SparkSession, lake: Lake, tmp_path: Path
) -> None:
    before = versions(lake)
    nothing = Lake(tmp_path / "nothing")
    with pytest.raises(TableNotFoundError, match="table quarantine: is not in the lake"):
        replay(spark, examples.pipeline(tmp_path, TODAY), nothing)
    failing = {"clean.rules": {"any": {"check": "id < 32", "action": "fail"}}}
    with pytest.raises(RuleError, match=r"clean\.rules\.any: .* its action is fail"):
        replay(spark, examples.pipeline(tmp_path, {**THEN, **failing}), lake)
    other = {"source.columns": {**COLUMNS, "amount": {"type": "float"}}}
    with pytest.raises(SchemaError, match="table clean, column amount: has type"):
        replay(spark, examples.pipeline(tmp_path, {**TODAY, **other}), lake)
    assert versions(lake) == before
