from __future__ import annotations

import shutil
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from pipeline.lake import Lake
from tests.flights import FLIGHTS, small_raw

LAKESTORM = Path(sys.executable).with_name("lakestorm")


def lakestorm(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(LAKESTORM), *arguments], cwd=cwd, capture_output=True, text=True, check=False
    )


def complaint(done: subprocess.CompletedProcess[str]) -> str:
    """The one line of a user's mistake."""
    assert done.returncode == 1
    assert "Traceback" not in done.stdout + done.stderr
    lines = [line for line in done.stderr.splitlines() if line.startswith("lakestorm: ")]
    assert len(lines) == 1, done.stderr
    return lines[0]


def test_help_names_the_stages(tmp_path: Path) -> None:
    done = lakestorm("--help", cwd=tmp_path)
    assert done.returncode == 0
    for stage in ("clean", "featurize", "train", "score", "report", "run"):
        assert f"  {stage} " in done.stdout


def test_a_wrong_setting_is_one_line(tmp_path: Path) -> None:
    done = lakestorm("run", str(FLIGHTS), "--set", "train.epoch=3", cwd=tmp_path)
    assert complaint(done).startswith("lakestorm: ConfigError: train.epoch: unknown setting.")
    assert list(tmp_path.iterdir()) == []


def test_a_lake_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("")
    done = lakestorm("clean", str(FLIGHTS), "--set", "lake=taken", cwd=tmp_path)
    assert "LakeNotWritableError" in complaint(done)


def test_no_raw_files_is_one_line(tmp_path: Path) -> None:
    done = lakestorm("clean", str(FLIGHTS), "--set", "source.sample=null", cwd=tmp_path)
    assert "source.path: there is no parquet file in lake/raw/flights" in complaint(done)


@pytest.mark.parametrize(
    ("stage", "told"),
    [
        pytest.param("featurize", "table clean: is not in the lake", marks=pytest.mark.long),
        pytest.param(
            "train", "pipeline flights: has no fitted feature spec", marks=pytest.mark.long
        ),
        pytest.param("score", "flights", marks=pytest.mark.long),
    ],
)
def test_a_stage_without_the_one_before_says_so(tmp_path: Path, stage: str, told: str) -> None:
    assert told in complaint(lakestorm(stage, str(FLIGHTS), cwd=tmp_path))


def test_old_or_no_java_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    java = tmp_path / "jre" / "bin" / "java"
    java.parent.mkdir(parents=True)
    java.write_text("#!/bin/sh\necho 'openjdk version \"1.8.0_292\"' >&2\n")
    java.chmod(0o755)
    monkeypatch.setenv("JAVA_HOME", str(tmp_path / "jre"))
    told = complaint(lakestorm("clean", str(FLIGHTS), cwd=tmp_path))
    assert "Java: Spark needs version 17 or newer, there is version 8" in told
    shutil.rmtree(tmp_path / "jre")
    assert "there is none" in complaint(lakestorm("clean", str(FLIGHTS), cwd=tmp_path))


@pytest.mark.long
def test_a_spark_that_dies_is_one_line_and_leaves_nothing_half_written(tmp_path: Path) -> None:
    small_raw(tmp_path / "lake")
    command = [str(LAKESTORM), "clean", str(FLIGHTS), "--set", "source.sample=null"]
    with subprocess.Popen(
        command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        # Made when the stage begins to write.
        begun = tmp_path / "lake" / "quarantine" / "_delta_log"
        while not begun.exists() and process.poll() is None:
            time.sleep(0.05)
        for child in psutil.Process(process.pid).children(recursive=True):
            if child.name() == "java":
                child.kill()
        out, err = process.communicate()
    told = complaint(subprocess.CompletedProcess(command, process.returncode, out, err))
    assert told.startswith("lakestorm: EnvironmentFault: Spark: its process ended before")
    assert Lake(tmp_path / "lake").table("clean").snapshot().rows == 0
