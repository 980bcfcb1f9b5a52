"""`lakestorm doctor` on a real Spark, and what it says of executors unlike the driver."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from pyspark.sql import SparkSession

from pipeline.cli import main
from pipeline.operate import doctor
from pipeline.operate.doctor import Meeting, Place, compared
from tests.flights import FLIGHTS


@pytest.fixture
def session(spark: SparkSession, monkeypatch: pytest.MonkeyPatch) -> None:
    """The tests' own Spark, which goes on afterwards."""
    monkeypatch.setattr(doctor, "spark_session", lambda *_: spark)
    monkeypatch.setattr(type(spark), "stop", lambda _: None)


def findings(lake: Path | str) -> tuple[int, list[dict[str, Any]]]:
    done = CliRunner().invoke(main, ["doctor", str(FLIGHTS), "--set", f"lake={lake}", "--json"])
    return done.exit_code, json.loads(done.stdout.splitlines()[-1])["findings"]


@pytest.mark.usefixtures("session")
def test_nothing_is_wrong_here_and_nothing_is_left(tmp_path: Path) -> None:
    code, found = findings(tmp_path / "lake")
    assert code == 0
    checks = [each["check"] for each in found]
    assert checks == [
        *("lake", "disk of the lake", "MLflow", "Spark", "executors", "versions"),
        *("lake on executors", "temporary files", "memory"),
    ]
    assert not [each for each in found if each["state"] == "fail"]
    assert not list((tmp_path / "lake").glob(".doctor*"))


@pytest.mark.usefixtures("session")
def test_a_lake_that_cannot_be_written_is_told_with_its_remedy(tmp_path: Path) -> None:
    (tmp_path / "lake").write_text("a file, not a folder")
    code, found = findings(tmp_path / "lake")
    assert code == 1
    [fault] = [each for each in found if each["state"] == "fail"]
    assert fault["check"] == "lake"
    assert str(tmp_path / "lake") in fault["found"]
    assert fault["remedy"].startswith("Make the folder writable")


@pytest.mark.usefixtures("session")
def test_mlflow_that_does_not_answer_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://user:pass@127.0.0.1:9")
    code, found = findings(tmp_path / "lake")
    assert code == 1
    [fault] = [each for each in found if each["state"] == "fail"]
    assert fault["check"] == "MLflow"
    assert "MLFLOW_TRACKING_URI" in fault["remedy"]
    assert "pass" not in fault["found"]


def test_executors_unlike_the_driver_are_told(tmp_path: Path) -> None:
    here = Place.here(Meeting(tmp_path, None))
    assert here.lake == ""
    assert [path.name for path in tmp_path.iterdir()] == [here.host]
    older = replace(here, host="older", packages={**here.packages, "pyarrow": "14.0"})
    python = replace(here, host="python", python="3.10.1")
    apart = replace(here, host="apart")
    blind = Place.here(Meeting(tmp_path / "nowhere", None))
    blind = replace(blind, host="blind")
    found = list(
        compared(here, [here, older, python, apart, blind], {here.host, "older", "python"})
    )
    assert [(each.check, each.state) for each in found] == [
        ("versions", "fail"),
        ("versions", "fail"),
        ("lake on executors", "fail"),
        ("lake on executors", "fail"),
    ]
    assert found[0].found == f"older has pyarrow 14.0, not {here.packages['pyarrow']}"
    assert found[1].found == f"python has Python 3.10.1, not {here.python}"
    assert found[2].found == "apart: wrote into another folder of the same name"
    assert found[3].found.startswith(f"blind: {tmp_path} is not there")
    assert {each.state for each in compared(here, [here], {here.host})} == {"ok"}
