from __future__ import annotations

import json
import random
from collections import Counter, defaultdict
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pytest
from click.testing import CliRunner
from pyspark.sql import SparkSession

from pipeline import cli
from pipeline.clean.stage import clean
from pipeline.cli import main
from pipeline.config import Pipeline
from pipeline.errors import ConfigError
from pipeline.lake import Lake, Table, commit
from pipeline.operate import quarantine as module
from pipeline.operate.quarantine import HIDDEN, WIDTH, look_into
from tests.clean import examples

SCHEMA = pa.schema(
    [
        ("source_file", pa.string()),
        ("source_position", pa.int64()),
        ("reasons", pa.list_(pa.string())),
        ("row", pa.string()),
        ("unreadable", pa.string()),
    ]
)
CHANGES = {
    "source.columns": {
        **examples.BASE["source"]["columns"],
        "hidden_*": {"type": "string", "sensitive": True},
    },
    "clean.rules": {"near": {"check": "delay < 5 AND place <> 'x'", "action": "quarantine"}},
}
Stored = dict[str, Any]


def stored(at: int | None, *reasons: str, file: str = "a.csv", **values: Any) -> Stored:
    """A row of quarantine; values whose column did not cast are named in `reasons`."""
    texts = {name: values.pop(name) for name in list(values) if f"cast:{name}" in reasons}
    if "malformed" in reasons:
        texts["_malformed"] = values.pop("_malformed")
    row = dict.fromkeys(("id", "month", "amount", "delay", "place", "hidden_name"))
    return {
        "source_file": file,
        "source_position": at,
        "reasons": list(reasons),
        "row": json.dumps({**row, **values}),
        "unreadable": json.dumps(texts) if texts else None,
    }


def put(table: Table, rows: list[Stored]) -> None:
    table.create(SCHEMA)
    with table.attempt() as attempt:
        files = attempt.write_arrow(pa.Table.from_pylist(rows, schema=SCHEMA))
        commit(table, files, attempt=attempt)


@pytest.fixture
def pipeline(tmp_path: Path) -> Pipeline:
    return examples.pipeline(tmp_path, CHANGES)


def test_counts_and_first_rows_of_each_reason_are_those_of_plain_python_and_polars(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_BATCH_ROWS", 7)
    seed = 4
    choose = random.Random(seed)  # noqa: S311 (not for secrets)
    names = ["duplicate", "rule:near", "cast:amount", "required:id"]
    rows = [
        stored(at, *sorted(choose.sample(names, choose.choice([1, 1, 2, 3]))), file=f"{at % 3}.csv")
        for at in range(100)
    ]
    rows.append(stored(None, "duplicate", file="0.csv"))
    choose.shuffle(rows)
    table = Lake(pipeline.lake).table("quarantine")
    for start in range(0, len(rows), 30):
        put(table, rows[start : start + 30])
    found = look_into(table.snapshot(), pipeline, reason=None, limit=4)
    told: dict[str, list[tuple[str, float]]] = defaultdict(list)
    for row in rows:
        for reason in row["reasons"]:
            at = row["source_position"]
            told[reason].append((row["source_file"], float("inf") if at is None else at))
    counts = pl.read_delta(table.root).explode("reasons")["reasons"].value_counts()
    assert {each.reason: each.rows for each in found.reasons} == dict(counts.iter_rows())
    assert found.rows == len(rows)
    for each in found.reasons:
        first = [(row.source_file, row.source_position) for row in each.examples]
        assert first == sorted(told[each.reason])[:4]
    assert [each.rows for each in found.reasons] == sorted(counts["count"].to_list(), reverse=True)
    one = look_into(table.snapshot(), pipeline, reason="duplicate", limit=0)
    assert [(each.reason, each.examples) for each in one.reasons] == [("duplicate", [])]
    with pytest.raises(ConfigError, match=r"no row is in quarantine for 'late'\. Reasons: cast:am"):
        look_into(table.snapshot(), pipeline, reason="late", limit=1)


HOSTILE = "\x1b[2J[red]x[/red]\r\n:id:\u202e"
ROWS = [
    stored(1, "cast:amount", "rule:near", id=7, amount="much", place=HOSTILE, hidden_name="CANARY"),
    stored(2, "malformed", _malformed=f"1;{HOSTILE};CANARY"),
    stored(3, "cast:hidden_name", hidden_name="CANARY", id=8),
    stored(4, "rule:near", id=9, delay=77.5, place="y" * 10_000),
    stored(5, "duplicate", id=9, place="[link=x]", file="[bold]\x07.csv"),
]


def lakestorm(*arguments: str) -> tuple[int, str]:
    ran = CliRunner().invoke(main, arguments)
    return ran.exit_code, ran.output


def test_the_command_shows_text_from_data_safely_and_starts_no_spark(
    pipeline: Pipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cli, "spark_session", lambda *_: pytest.fail("Spark"))
    yaml = str(tmp_path / "pipeline.yaml")
    code, told = lakestorm("quarantine", yaml)
    assert (code, told) == (
        1,
        "lakestorm: TableNotFoundError: table quarantine: is not in the lake. Run the stage that "
        "writes it first, or correct the setting `lake`.\n",
    )
    put(Lake(pipeline.lake).table("quarantine"), ROWS)
    code, told = lakestorm("quarantine", yaml)
    assert code == 0
    assert "CANARY" not in told
    assert all(line.isprintable() for line in told.splitlines())
    assert "quarantine, version 1: 5 rows" in told
    for part in (
        "amount=much id=7",
        f"_malformed={HIDDEN}",
        "[2J[red]x[/red] :id:",
        "[link=x]",
        "[bold] .csv:5",
    ):
        assert part in told, part
    # What the rule asks for comes first, and nothing is longer than its place.
    assert f"delay=77.5 place={'y' * 10}" in told
    assert "y" * WIDTH not in told
    assert lakestorm("quarantine", yaml, "--replay", "--limit", "1")[0] == 1


def test_with_json_programs_get_whole_values_but_no_sensitive_ones(
    pipeline: Pipeline, tmp_path: Path
) -> None:
    put(Lake(pipeline.lake).table("quarantine"), ROWS)
    yaml = str(tmp_path / "pipeline.yaml")
    code, told = lakestorm("quarantine", yaml, "--json", "--limit", "1", "--reason", "rule:near")
    assert (code, told.count("\n")) == (0, 1)
    assert "CANARY" not in told
    (reason,) = json.loads(told)["quarantine"]["reasons"]
    (example,) = reason["examples"]
    assert (reason["reason"], reason["rows"]) == ("rule:near", 2)
    assert example["source_position"] == 1
    assert example["row"]["place"] == HOSTILE
    assert example["row"]["hidden_name"] == HIDDEN
    assert example["unreadable"] == {"amount": "much"}
    everything = json.loads(lakestorm("quarantine", yaml, "--json")[1])["quarantine"]
    assert Counter({each["reason"]: each["rows"] for each in everything["reasons"]}) == Counter(
        reason for row in ROWS for reason in row["reasons"]
    )
    assert "CANARY" not in json.dumps(everything)


def test_a_replay_ends_with_one_json_object(
    spark: SparkSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    examples.write_raw(tmp_path / "raw" / "1.parquet", examples.some_rows(0, 12, 1))
    pipeline = examples.pipeline(
        tmp_path, {"clean.rules": {"few": {"check": "id < 5", "action": "quarantine"}}}
    )
    clean(spark, pipeline, Lake(pipeline.lake))
    monkeypatch.setattr(cli, "_spark", lambda *_: nullcontext(spark))  # it would be stopped
    ran = CliRunner().invoke(
        main,
        [
            *("quarantine", str(tmp_path / "pipeline.yaml"), "--replay", "--json"),
            *("--set", "clean.rules.few.check='id <> 7'"),
        ],
    )
    assert ran.exit_code == 0, ran.output
    (stage,) = json.loads(ran.stdout)["stages"]
    assert (
        stage.items()
        >= {
            "stage": "replay",
            "rows_in": 7,
            "rows_out": 6,
            "rows_quarantined": 1,
            "rows_dropped": 0,
            "counts": {"quarantine rule:few": 1},
        }.items()
    )
    assert examples.ids(Lake(pipeline.lake), "clean") == Counter(set(range(12)) - {7})
