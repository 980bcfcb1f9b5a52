"""Rules about tables, and that `features.keys` names one row."""

from __future__ import annotations

import json
import math
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from pyspark.sql import SparkSession

from pipeline.clean.increment import clean_increment
from pipeline.clean.stage import clean
from pipeline.clean.table_rules import KINDS, bin_of
from pipeline.config import Pipeline, TableRule
from pipeline.errors import ConfigError, JoinError, RuleError
from pipeline.lake import Lake
from tests.clean import examples

AT = datetime(2013, 3, 1, 12, tzinfo=UTC)
NOW = datetime(2013, 3, 5, tzinfo=UTC)
RAW = examples.RAW.append(pa.field("at", pa.timestamp("us", tz="UTC")))
COLUMNS = {**examples.BASE["source"]["columns"], "at": {"type": "timestamp"}}
SIDE = pa.schema([("name", pa.string()), ("code", pa.int64())])
KEYED = {"features.keys": ["id"], "source.columns": COLUMNS}


def described(root: Path, rules: dict[str, Any], **changes: Any) -> Pipeline:
    return examples.pipeline(root, {**KEYED, "clean.table_rules": rules, **changes})


def reference(root: Path) -> dict[str, Any]:
    return {
        "path": str(root / "side"),
        "on": {"place": "name"},
        "columns": {"name": {"type": "string"}, "code": {"type": "int"}},
    }


def write(root: Path, name: str, rows: list[dict[str, Any]]) -> None:
    examples.write_raw(root / "raw" / f"{name}.parquet", rows, RAW)


def write_side(root: Path, *names: str | None) -> None:
    rows = [{"name": name, "code": 1} for name in names]
    examples.write_raw(root / "side" / "s.parquet", rows, SIDE)


def rows(count: int, **values: Any) -> list[dict[str, Any]]:
    return [{**row, "at": AT, **values} for row in examples.some_rows(0, count, 1)]


@pytest.mark.parametrize(
    ("rule", "told"),
    [
        ({"action": "fail"}, "none is named; kinds: unique, reference"),
        ({"rows": {"minimum": 1}, "unique": ["id"], "action": "fail"}, "unique and rows are named"),
        ({"rows": {"minimum": 1}, "action": "drop"}, "no single row is at fault"),
        (
            {"nulls": {"column": "at", "maximum_share": 0}, "action": "quarantine"},
            "nulls is about the whole table",
        ),
        ({"unique": ["idd"], "action": "warn"}, "did you mean id?"),
        ({"unique": [], "action": "warn"}, "x.unique"),
        ({"unique": ["period"], "action": "warn"}, "no column 'period'"),
        ({"reference": "side", "action": "warn"}, "there is no join 'side'"),
        ({"reference": {"path": "a"}, "action": "warn"}, "on and columns are needed"),
        ({"reference": {"join": "a", "path": "b"}, "action": "warn"}, "name nothing beside it"),
        ({"freshness": {"column": "at", "within": "soon"}, "action": "warn"}, "such as `2 days`"),
        ({"freshness": {"column": "id", "within": "1 day"}, "action": "warn"}, "'id' is bigint"),
        ({"rows": {}, "action": "warn"}, "name a minimum, a maximum or both"),
        ({"rows": {"minimum": 2, "maximum": 1}, "action": "warn"}, "is above the maximum"),
        ({"distribution": {"column": "at", "maximum_psi": 1}, "action": "warn"}, "is timestamp"),
        ({"distribution": {"column": "place", "maximum_psi": 0}, "action": "warn"}, "maximum_psi"),
    ],
)
def test_a_rule_that_says_nothing_is_refused_when_it_is_loaded(
    tmp_path: Path, rule: dict[str, Any], told: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        described(tmp_path, {"x": rule})
    assert told in str(caught.value)


def test_every_kind_of_the_settings_has_its_check() -> None:
    assert set(KINDS) == set(TableRule.model_fields) - {"action"}
    assert {name for name, kind in KINDS.items() if kind.match} == TableRule.of_rows


def test_settings_written_before_have_the_fingerprint_that_they_had(tmp_path: Path) -> None:
    assert "table_rules" not in examples.pipeline(tmp_path).clean.model_dump(mode="json")


# Single rows at fault.

RAW_ROWS = st.lists(
    st.fixed_dictionaries(
        {
            "amount": st.sampled_from([None, 1.0, 2.0, 3.0]),
            "delay": st.sampled_from([None, 0.0, 1.0]),
            "place": st.sampled_from(["a", "b", "z", None]),
            "month": st.sampled_from([1, 2, None]),
        }
    ),
    max_size=40,
)


def fates(raw: list[dict[str, Any]]) -> dict[int, tuple[str, list[str]]]:
    """What becomes of each row, in plain Python."""
    passed = [row for row in raw if row["month"] is not None]
    keys = Counter((row["amount"], row["delay"]) for row in passed)
    told = {}
    for row in raw:
        if row["month"] is None:
            told[row["id"]] = ("quarantine", ["required:month"])
            continue
        key = (row["amount"], row["delay"])
        doubled = None not in key and keys[key] > 1
        unknown = row["place"] == "z"
        reasons = ["table:once"] * doubled + ["table:known"] * unknown
        verdict = "quarantine" if doubled else "drop" if unknown else "clean"
        told[row["id"]] = (verdict, reasons)
    return told


@settings(
    max_examples=3,
    deadline=None,
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
    suppress_health_check=[HealthCheck.too_slow],
)
@given(raw=RAW_ROWS)
def test_rows_at_fault_are_taken_out_as_plain_python_says(
    spark: SparkSession, tmp_path_factory: pytest.TempPathFactory, raw: list[dict[str, Any]]
) -> None:
    root = tmp_path_factory.mktemp("rows")
    raw = [{**row, "id": number, "at": AT} for number, row in enumerate(raw)]
    write(root, "1", raw[::2])
    write(root, "2", raw[1::2])
    write_side(root, "a", "b", "b", None)
    rules = {
        "once": {"unique": ["amount", "delay"], "action": "quarantine"},
        "known": {"reference": reference(root), "action": "drop"},
    }
    pipeline = described(root, rules)
    done = clean(spark, pipeline, Lake(pipeline.lake))
    told = fates(raw)
    lake = Lake(pipeline.lake)
    assert examples.ids(lake, "clean") == Counter(i for i, (v, _) in told.items() if v == "clean")
    quarantine = examples.table(lake, "quarantine")
    found = {
        json.loads(row)["id"]: sorted(reasons)
        for row, reasons in zip(quarantine["row"], quarantine["reasons"].to_list(), strict=True)
    }
    assert found == {i: sorted(r) for i, (v, r) in told.items() if v == "quarantine"}
    dropped = sum(verdict == "drop" for verdict, _ in told.values())
    assert (done.rows_dropped, done.counts.get("dropped table:known", 0)) == (dropped, dropped)
    doubled = sum("table:once" in reasons for _, reasons in told.values())
    assert done.counts.get("quarantine table:once", 0) == doubled


# The whole table.

FAULTS: dict[str, tuple[dict[str, Any], str, int]] = {
    "once": ({"unique": ["place", "month"]}, "20 rows share 3 keys of place, month, such as", 20),
    "known": ({}, "of 20 rows have values that the right side lacks", 6),
    "fresh": (
        {"freshness": {"column": "at", "within": "2 days"}},
        "the newest at is 2013-03-01 12:00:00, more than 2 days before 2013-03-05 00:00:00",
        1,
    ),
    "many": ({"rows": {"minimum": 30}}, "20 rows are fewer than 30", 1),
    "few": ({"rows": {"maximum": 5}}, "20 rows are more than 5", 1),
    "there": ({"nulls": {"column": "delay", "maximum_share": 0.1}}, "4 of 20 values of delay", 4),
}


def faulty(root: Path) -> None:
    raw = rows(20)
    for row in raw[:4]:
        row["delay"] = None
    write(root, "1", raw)
    write_side(root, "a", "b")


def test_warnings_are_in_the_outcome_and_in_quality_and_unchanged_runs_repeat_them(
    spark: SparkSession, tmp_path: Path
) -> None:
    faulty(tmp_path)
    rules = {name: {**rule, "action": "warn"} for name, (rule, _, _) in FAULTS.items()}
    rules["known"]["reference"] = reference(tmp_path)
    held = {
        "id_once": {"unique": ["id"], "action": "fail"},
        "some": {"rows": {"minimum": 20, "maximum": 20}, "action": "fail"},
        "week": {"freshness": {"column": "at", "within": "1 week"}, "action": "fail"},
        "fifth": {"nulls": {"column": "delay", "maximum_share": 0.2}, "action": "fail"},
    }
    pipeline = described(tmp_path, {**rules, **held})
    lake = Lake(pipeline.lake)
    done = clean(spark, pipeline, lake, now=NOW)
    expected = {f"warned table:{name}": count for name, (_, _, count) in FAULTS.items()}
    assert done.counts == expected
    assert done.rows_out == 20
    for name, (_, told, _) in FAULTS.items():
        assert name == "known" or f"table:{name}: {told}" in done.note
    measured = examples.table(lake, "quality").filter(pl.col("subject").str.starts_with("table:"))
    assert {
        (row["subject"], row["measure"]): row["value"] for row in measured.to_dicts()
    } == {
        (f"table:{name}", "warned" if name in ("fresh", "many", "few") else "rows warned"): count
        for name, (_, _, count) in FAULTS.items()
    }  # fmt: skip
    assert set(examples.table(lake, "quality")["measured_at"].to_list()) == {NOW}
    again = clean(spark, pipeline, lake, now=NOW)
    assert (again.unchanged, again.counts, again.note) == (True, done.counts, done.note)


@pytest.mark.parametrize("name", FAULTS)
def test_a_broken_rule_of_action_fail_commits_nothing(
    spark: SparkSession, tmp_path: Path, name: str
) -> None:
    faulty(tmp_path)
    rule, told, _ = FAULTS[name]
    rule = rule or {"reference": reference(tmp_path)}
    pipeline = described(tmp_path, {name: {**rule, "action": "fail"}})
    lake = Lake(pipeline.lake)
    with pytest.raises(RuleError) as caught:
        clean(spark, pipeline, lake, now=NOW)
    assert caught.value.where == f"clean.table_rules.{name}"
    assert told in caught.value.problem
    assert [lake.table(table).snapshot().files for table in ("clean", "quarantine")] == [(), ()]
    assert not list(Path(lake.root).rglob("*.parquet"))


@pytest.mark.parametrize("raw", [[], rows(3, month=None)])
def test_where_no_row_is_accepted_rules_are_judged_all_the_same(
    spark: SparkSession, tmp_path: Path, raw: list[dict[str, Any]]
) -> None:
    write(tmp_path, "1", raw)
    rules = {
        name: {**rule, "action": "warn"} for name, (rule, _, _) in FAULTS.items() if name != "known"
    }
    pipeline = described(tmp_path, rules)
    done = clean(spark, pipeline, Lake(pipeline.lake), now=NOW)
    assert (done.rows_out, done.rows_quarantined) == (0, len(raw))
    assert {name for name in done.counts if name.startswith("warned")} == {
        "warned table:fresh",
        "warned table:many",
    }
    assert "table:fresh: no row has a value of at" in done.note


def test_a_join_can_be_the_reference_and_types_must_be_the_same(
    spark: SparkSession, tmp_path: Path
) -> None:
    write(tmp_path, "1", rows(20))
    write_side(tmp_path, "a", "b")
    joins = {"side": {**reference(tmp_path), "select": {"code": "code"}}}
    rules: dict[str, Any] = {"known": {"reference": "side", "action": "quarantine"}}
    pipeline = described(tmp_path, rules, **{"clean.joins": joins})
    done = clean(spark, pipeline, Lake(pipeline.lake))
    assert done.counts == {"quarantine table:known": 6}
    assert examples.table(Lake(pipeline.lake), "clean")["place"].unique().sort().to_list() == [
        "a",
        "b",
    ]
    compared = {**reference(tmp_path), "on": {"id": "code"}}
    rules = {"known": {"reference": compared, "action": "warn"}}
    with pytest.raises(JoinError, match=r"table_rules\.known\.reference: id and code are bigint"):
        clean(spark, described(tmp_path, rules), Lake(pipeline.lake))


def test_what_was_fresh_when_it_was_written_is_stale_later(
    spark: SparkSession, tmp_path: Path
) -> None:
    write(tmp_path, "1", rows(5))
    rules = {"fresh": {"freshness": {"column": "at", "within": "4 days"}, "action": "warn"}}
    pipeline = described(tmp_path, rules)
    lake = Lake(pipeline.lake)
    assert clean(spark, pipeline, lake, now=NOW).counts == {}
    assert clean(spark, pipeline, lake, now=NOW).note == ""
    later = clean(spark, pipeline, lake, now=NOW.replace(day=6))
    assert later.unchanged
    assert later.counts == {"warned table:fresh": 1}
    assert "more than 4 days before 2013-03-06" in later.note


def test_a_distribution_is_compared_with_the_last_version(
    spark: SparkSession, tmp_path: Path
) -> None:
    rules = {
        "amounts": {"distribution": {"column": "amount", "maximum_psi": 0.2}, "action": "warn"},
        "places": {"distribution": {"column": "place", "maximum_psi": 0.2}, "action": "fail"},
    }
    pipeline = described(tmp_path, rules)
    lake = Lake(pipeline.lake)
    write(tmp_path, "1", rows(210))
    assert clean(spark, pipeline, lake).counts == {}
    write(tmp_path, "1", rows(205))
    assert clean(spark, pipeline, lake).counts == {}
    write(tmp_path, "1", [{**row, "amount": row["amount"] * 4 + 1} for row in rows(210)])
    moved = clean(spark, pipeline, lake)
    assert moved.counts == {"warned table:amounts": 1}
    psi = examples.table(lake, "quality").filter(pl.col("measure") == "psi")
    values = psi.sort("measured_at")["value"].to_list()
    assert len(values) == 4
    assert sorted(values)[:3] == pytest.approx([0, 0, 0], abs=0.01)
    assert max(values) > 1
    version = lake.table("clean").snapshot().version
    write(tmp_path, "1", rows(210, place="a"))
    with pytest.raises(RuleError, match=r"places: PSI of place against the last version is \d"):
        clean(spark, pipeline, lake)
    assert lake.table("clean").snapshot().version == version


def test_bins_ascend_as_numbers_and_part_an_octave_in_eight(spark: SparkSession) -> None:
    numbers = [
        s * m * 2.0**e for s in (-1, 1) for e in (-1074, -3, 0, 1, 52, 1023) for m in (1, 1.5)
    ]
    numbers += [x / 16 for x in range(-64, 64)] + [math.inf, -math.inf, 0.0, -0.0, 5e-324, 1e308]
    frame = spark.createDataFrame([(x,) for x in numbers], "x double")
    found = {row[0]: row[1] for row in frame.select("x", bin_of(frame["x"])).collect()}
    ordered = [found[x] for x in sorted(found)]
    assert ordered == sorted(ordered)
    for x, bin_ in found.items():
        if x not in (0, math.inf, -math.inf):
            fraction, exponent = math.frexp(abs(x))
            eighth = math.floor(fraction * 16) - 8
            expected = (exponent - 1) * 8 + eighth + 16_384
            assert bin_ == math.copysign(expected, x), x


# features.keys.


def test_keys_that_several_rows_share_end_the_run_before_anything_is_committed(
    spark: SparkSession, tmp_path: Path
) -> None:
    raw = rows(10)
    raw[3]["id"] = raw[4]["id"] = raw[5]["id"]
    raw[8]["id"] = raw[9]["id"]
    write(tmp_path, "1", raw)
    pipeline = described(tmp_path, {})
    lake = Lake(pipeline.lake)
    with pytest.raises(RuleError) as caught:
        clean(spark, pipeline, lake)
    assert caught.value.where == "features.keys"
    assert "5 rows share 2 keys, such as id=5" in caught.value.problem
    assert "keys: auto" in caught.value.remedy
    assert not list(Path(lake.root).rglob("*.parquet"))
    dedupe = {"clean.dedupe": {"keys": ["id"]}}
    assert clean(spark, described(tmp_path, {}, **dedupe), lake).rows_out == 7


def test_new_files_may_not_bring_keys_that_are_there(spark: SparkSession, tmp_path: Path) -> None:
    write(tmp_path, "1", rows(10))
    pipeline = described(tmp_path, {"once": {"unique": ["id"], "action": "quarantine"}})
    lake = Lake(pipeline.lake)
    assert clean_increment(spark, pipeline, lake).rows_out == 10
    # A rule can take such rows out; only then the keys are unique.
    write(tmp_path, "2", rows(12)[8:])
    done = clean_increment(spark, pipeline, lake)
    assert (done.rows_out, done.counts) == (12, {"quarantine table:once": 2})
    other = Lake(tmp_path / "other")
    strict = described(tmp_path, {})
    with pytest.raises(RuleError, match=r"features\.keys: .*4 rows share 2 keys, such as id=9"):
        clean_increment(spark, strict, other)
    (tmp_path / "raw" / "2.parquet").unlink()
    assert clean_increment(spark, strict, other).rows_out == 10
    write(tmp_path, "3", rows(12)[8:])
    with pytest.raises(RuleError, match=r"features\.keys: .*4 rows share 2 keys, such as id=9"):
        clean_increment(spark, strict, other)
    assert examples.ids(other, "clean") == Counter(range(10))


def test_a_row_may_take_the_place_of_the_one_it_corrects(
    spark: SparkSession, tmp_path: Path
) -> None:
    changes = {
        "clean.dedupe": {"keys": ["id"], "latest_by": ["at"]},
        "features.keys": ["amount", "place"],
        "source.columns": {**COLUMNS, "at": {"type": "timestamp", "required": True}},
    }
    rules = {"once": {"unique": ["amount", "place"], "action": "fail"}}
    pipeline = described(tmp_path, rules, **changes)
    lake = Lake(pipeline.lake)
    write(tmp_path, "1", rows(6))
    clean_increment(spark, pipeline, lake)
    write(tmp_path, "2", rows(2, at=NOW))
    done = clean_increment(spark, pipeline, lake)
    assert (done.rows_out, done.rows_quarantined) == (6, 2)
    write(tmp_path, "3", [{**rows(2, at=NOW)[1], "id": 77}])
    with pytest.raises(RuleError, match=r"features\.keys: .* 2 rows share 1 keys"):
        clean_increment(spark, pipeline, lake)


def test_a_batch_without_accepted_rows_leaves_the_distribution_to_compare_with(
    spark: SparkSession, tmp_path: Path
) -> None:
    rules = {"spread": {"distribution": {"column": "delay", "maximum_psi": 0.2}, "action": "fail"}}
    pipeline = described(tmp_path, rules, **{"clean.dedupe": {"keys": ["id"]}})
    lake = Lake(pipeline.lake)
    first = examples.some_rows(0, 50, 1)
    write(tmp_path, "1", first)
    clean_increment(spark, pipeline, lake)
    write(tmp_path, "2", first)  # all of them duplicates
    assert clean_increment(spark, pipeline, lake).rows_quarantined == 50
    write(tmp_path, "3", [{**row, "delay": 1e6} for row in examples.some_rows(50, 50, 1)])
    with pytest.raises(RuleError, match="PSI of delay against the last version is"):
        clean_increment(spark, pipeline, lake)
    assert examples.table(lake, "clean").height == 50


def test_a_row_whose_correction_is_taken_out_stays_a_rival(
    spark: SparkSession, tmp_path: Path
) -> None:
    rules = {"one": {"unique": ["place"], "action": "quarantine"}}
    dedupe = {"keys": ["id"], "latest_by": ["amount"]}
    pipeline = described(tmp_path, rules, **{"clean.dedupe": dedupe})
    lake = Lake(pipeline.lake)

    def row(number: int, place: str, amount: float) -> dict[str, Any]:
        return {"id": number, "month": 1, "amount": amount, "delay": 1.0, "place": place}

    write(tmp_path, "1", [row(1, "x", 1.0), row(2, "y", 1.0)])
    clean_increment(spark, pipeline, lake)
    write(tmp_path, "2", [row(1, "y", 2.0), row(3, "x", 2.0)])
    clean_increment(spark, pipeline, lake)
    places = examples.table(lake, "clean")["place"].to_list()
    assert sorted(places) == ["x", "y"], "x is not there twice"
