"""A value of a sensitive column is in the data files of `clean`, and nowhere else."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pytest
from pyspark.sql import SparkSession

from pipeline.clean.increment import clean_increment
from pipeline.clean.sensitive import KEY_VARIABLE, Redaction
from pipeline.clean.stage import clean
from pipeline.config import Pipeline
from pipeline.errors import ConfigError, JoinError, LakestormError, RuleError
from pipeline.lake import Lake, compact
from pipeline.operate.report.stage import report
from pipeline.operate.summary import stage_line
from tests.clean import examples
from tests.operate.examples import small_lake

CANARY = "canary-7f3a"
PIN = 987_654_321
HEADER = "id,at,ssn,pin,amount,place"
FAULTS = [
    f"1,1,{CANARY},{PIN},1.0,a",
    f"2,1,{CANARY}-b,{PIN},2.0,b",
    f"3,1,{CANARY},5,-1,a",  # fails a rule
    f"4,1,x,{CANARY},1.0,a",  # does not cast
    f"5,1,more,{CANARY},{PIN},1.0,a",  # has a field too many: values are in the wrong columns
    f",1,{CANARY},1,1.0,a",  # lacks what is required
    f"2,0,{CANARY},{PIN},2.0,b",  # a duplicate
    f"8,1,{CANARY},6,-1,a",
    f"9,1,{CANARY},1,3.0,a",  # shares its ssn
]
SENSITIVE = {"type": "string", "sensitive": True}
SIDE = pa.schema([("name", pa.string()), ("secret", pa.string())])


def changes(root: Path) -> dict[str, Any]:
    return {
        "source.format": "csv",
        "source.columns": {
            "id": {"type": "bigint", "required": True},
            "at": {"type": "int"},
            "ssn": SENSITIVE,
            "pin": {"type": "int", "sensitive": True},
            "amount": {"type": "double"},
            "place": {"type": "string"},
        },
        "clean.period": {"column": "period", "expression": "'all'"},
        "clean.dedupe": {"keys": ["id"], "latest_by": ["at"]},
        "clean.rules": {"paid": {"check": "amount > 0", "action": "quarantine"}},
        "clean.table_rules": {"once": {"unique": ["ssn"], "action": "warn"}},
        "clean.joins": {"side": side(root)},
        "features.leakage": [],
        "features.label": {"name": "late", "expression": "amount > 1"},
        "features.splits": {"train": "true", "validation": "true", "test": "true"},
    }


def side(root: Path) -> dict[str, Any]:
    return {
        "path": str(root / "side"),
        "on": {"place": "name"},
        "columns": {"name": {"type": "string"}, "secret": SENSITIVE},
        "select": {"secret": "secret"},
    }


def lay_out(root: Path, lines: list[str], name: str = "1") -> None:
    (root / "raw").mkdir(exist_ok=True)
    (root / "raw" / f"{name}.csv").write_text("\n".join([HEADER, *lines]) + "\n")
    rows = [{"name": place, "secret": f"{CANARY}-side"} for place in "ab"]
    examples.write_raw(root / "side" / "s.parquet", rows, SIDE)


def described(root: Path, **other: Any) -> Pipeline:
    return examples.pipeline(root, {**changes(root), **other})


def texts(root: Path) -> Iterator[tuple[Path, str]]:
    """Whatever a file tells, the data files of `clean` left out."""
    for path in root.rglob("*"):
        if not path.is_file():
            continue
        if path.suffix != ".parquet" or "_delta_log" in path.parts:
            yield path, path.read_bytes().decode("latin-1")
        elif path.relative_to(root).parts[0] != "clean":
            footer = path.read_bytes().decode("latin-1")
            yield path, f"{pl.read_parquet(path, hive_partitioning=False).to_dicts()}{footer}"


def require_silent(root: Path) -> None:
    told = [path for path, text in texts(root) if CANARY in text or str(PIN) in text]
    assert not told


def rejected(lake: Lake) -> dict[Any, dict[str, Any]]:
    rows = examples.table(lake, "quarantine").to_dicts()
    return {
        json.loads(row["row"])["id"]: {
            "row": json.loads(row["row"]),
            "unreadable": json.loads(row["unreadable"] or "{}"),
            "reasons": row["reasons"],
        }
        for row in rows
    }


@pytest.mark.parametrize(
    ("rule", "told"),
    [
        ({"distribution": {"column": "ssn", "maximum_psi": 0.1}}, "'ssn' is sensitive"),
        ({"distribution": {"column": "secret", "maximum_psi": 0.1}}, "'secret' is sensitive"),
    ],
)
def test_rules_that_would_store_values_are_refused(
    tmp_path: Path, rule: Mapping[str, Any], told: str
) -> None:
    with pytest.raises(ConfigError, match=told):
        described(tmp_path, **{"clean.table_rules": {"x": {**rule, "action": "warn"}}})


def test_nothing_but_the_data_files_of_clean_holds_a_sensitive_value(
    spark: SparkSession, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    small = small_lake(tmp_path / "lake")
    for name in ("clean", "quarantine", "quality"):
        shutil.rmtree(small.lake.table(name).root, ignore_errors=True)
    lay_out(tmp_path, FAULTS)
    pipeline, lake = described(tmp_path), small.lake
    done = clean(spark, pipeline, lake)
    assert (done.rows_in, done.rows_out, done.rows_quarantined) == (9, 3, 6)
    assert done.counts["warned table:once"] == 2
    kept = examples.table(lake, "clean")
    assert kept["ssn"].to_list().count(CANARY) == 2  # else the test proves nothing
    assert kept["secret"].unique().to_list() == [f"{CANARY}-side"]

    html = report(spark, pipeline, lake)
    page = (Path(lake.root) / "reports" / "small.html").read_text()
    assert "secret" in page
    for told in (page, stage_line(done), str(asdict(done)), stage_line(html), caplog.text):
        assert CANARY not in told
        assert str(PIN) not in told
    require_silent(Path(lake.root))
    _require_statistics(lake)

    measured = examples.table(lake, "quality").filter(pl.col("subject").is_in(["ssn", "secret"]))
    assert set(measured["measure"]) == {"nulls", "distinct approximately"}


def _require_statistics(lake: Lake) -> None:
    """Bounds are left out for the sensitive columns, and for no other one."""
    log = Path(lake.table("clean").root) / "_delta_log"
    texts = [path.read_text() for path in log.glob("*.json")]
    lines = [json.loads(line) for text in texts for line in text.splitlines()]
    added = [json.loads(line["add"]["stats"]) for line in lines if "add" in line]
    assert added
    for stats in added:
        assert set(stats["minValues"]) == set(stats["maxValues"]) == {"id", "at", "amount", "place"}
        assert {"ssn", "pin", "secret"} <= set(stats["nullCount"])


def test_quarantine_tells_which_rows_hold_the_same_value(
    spark: SparkSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lay_out(tmp_path, FAULTS)
    pipeline, lake = described(tmp_path), Lake(tmp_path / "lake")
    clean(spark, pipeline, lake)
    found = rejected(lake)
    ssn = found[3]["row"]["ssn"]
    assert ssn.startswith("sha256:")
    assert len(ssn) == len("sha256:") + 64
    assert found[8]["row"]["ssn"] == found[None]["row"]["ssn"] == ssn
    assert found[4]["unreadable"] == {"pin": ssn}
    assert found[4]["row"] == {
        "id": 4, "at": 1, "ssn": found[4]["row"]["ssn"], "pin": None, "amount": 1.0, "place": "a"
    }  # fmt: skip
    (broken,) = [each for each in found.values() if "malformed" in each["reasons"]]
    assert broken["unreadable"]["_malformed"] == "(withheld)"
    assert all(value is None or value.startswith("sha256:") for value in broken["row"].values())
    plain = hashlib.sha256(CANARY.encode()).hexdigest()
    assert plain not in ssn

    stored = lake.work("keys", "quarantine")
    assert stored.stat().st_mode & 0o777 == 0o600
    shutil.rmtree(Path(lake.table("clean").root))
    shutil.rmtree(Path(lake.table("quarantine").root))
    clean(spark, pipeline, lake)
    assert rejected(lake)[3]["row"]["ssn"] == ssn
    monkeypatch.setenv(KEY_VARIABLE, "another key")
    elsewhere = Lake(tmp_path / "elsewhere")
    clean(spark, pipeline, elsewhere)
    key = f"lakestorm-key-{hashlib.sha256(b'another key').hexdigest()}"
    expected = hashlib.sha256(f"{key}{CANARY}".encode()).hexdigest()
    assert rejected(elsewhere)[3]["row"]["ssn"] == f"sha256:{expected}" != ssn
    assert not elsewhere.work("keys").exists()


def test_plans_of_spark_show_no_key(spark: SparkSession, tmp_path: Path) -> None:
    redaction = Redaction.of(described(tmp_path), Lake(tmp_path / "lake"))
    frame = spark.createDataFrame([(CANARY,)], "ssn string")
    hashed = frame.select(redaction.of_row(frame.schema, ["ssn"]).alias("row"))
    [row] = hashed.collect()
    assert CANARY not in row["row"]
    plan = hashed._jdf.queryExecution().toString()
    assert "sha2" in plan
    assert redaction.key not in plan


def _shared_ssn(_: Path) -> dict[str, Any]:
    return {"features.keys": ["ssn"]}


def _doubled_side(root: Path) -> dict[str, Any]:
    rows = [{"name": CANARY, "secret": "x"}] * 2
    examples.write_raw(root / "side" / "t.parquet", rows, SIDE)
    return {"clean.joins": {"side": {**side(root), "on": {"ssn": "name"}}}}


def _doubled_secret(root: Path) -> dict[str, Any]:
    return {"clean.joins": {"side": {**side(root), "on": {"place": "secret"}}}}


def _once(_: Path) -> dict[str, Any]:
    return {"clean.table_rules": {"once": {"unique": ["ssn"], "action": "fail"}}}


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        (_shared_ssn, RuleError),
        (_doubled_side, JoinError),
        (_doubled_secret, JoinError),
        (_once, RuleError),
    ],
)
def test_errors_show_no_example_of_what_is_sensitive(
    spark: SparkSession, tmp_path: Path, fault: Any, error: type[LakestormError]
) -> None:
    lay_out(tmp_path, FAULTS)
    pipeline = described(tmp_path, **fault(tmp_path))
    with pytest.raises(error, match="sensitive") as caught:
        clean(spark, pipeline, Lake(pipeline.lake))
    assert CANARY not in str(caught.value)
    require_silent(tmp_path / "lake")


def test_corrections_and_merged_files_are_as_silent(spark: SparkSession, tmp_path: Path) -> None:
    pipeline = described(tmp_path)
    lake = Lake(pipeline.lake)
    lay_out(tmp_path, FAULTS, "1")
    clean_increment(spark, pipeline, lake)
    lay_out(tmp_path, [f"1,5,{CANARY},{PIN},7.0,a"], "2")
    done = clean_increment(spark, pipeline, lake)
    assert done.counts["quarantine duplicate"] == 2
    (gone,) = [
        r for r in examples.table(lake, "quarantine").to_dicts() if r["source_position"] is None
    ]
    assert json.loads(gone["row"])["ssn"].startswith("sha256:")
    lay_out(tmp_path, [f"20,1,{CANARY},{PIN},7.0,b"], "3")
    clean_increment(spark, pipeline, lake)
    assert compact(lake.table("clean")).merged >= 2
    require_silent(Path(lake.root))
    _require_statistics(lake)


@pytest.mark.long
def test_the_command_prints_and_logs_no_sensitive_value(tmp_path: Path) -> None:
    lay_out(tmp_path, FAULTS)
    described(tmp_path)
    command = [sys.executable, "-m", "pipeline", "clean", str(tmp_path / "pipeline.yaml"), "--json"]
    ran = subprocess.run(
        command, capture_output=True, text=True, check=False, cwd=Path(__file__).parents[2]
    )
    assert ran.returncode == 0, ran.stderr
    assert json.loads(ran.stdout)["stages"][0]["rows_out"] == 3
    for told in (ran.stdout, ran.stderr):
        assert CANARY not in told
        assert str(PIN) not in told
