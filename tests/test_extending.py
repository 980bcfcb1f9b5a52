"""docs/extending.md is run as it stands: data, a kind, a network, the whole pipeline, the check."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest
import yaml

from pipeline.session import CHECKOUT
from tests.command import LAKESTORM

PAGE = CHECKOUT / "docs" / "extending.md"
BLOCK = re.compile(r"^```(?:python|yaml)\n# (\S+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The files of the page, under the names that it gives them."""
    text = PAGE.read_text("utf-8")
    blocks = BLOCK.findall(text)
    assert len(blocks) == text.count("```") / 2, "a block has no name"
    (tmp_path / "my_package").mkdir()
    (tmp_path / "my_package" / "__init__.py").touch()
    for name, content in blocks:
        (tmp_path / name).write_text(content, "utf-8")
    return tmp_path


def run(folder: Path, *command: str) -> str:
    done = subprocess.run(
        command,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(folder), str(CHECKOUT)])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stdout


def test_the_page_runs_as_it_stands(folder: Path) -> None:
    run(folder, sys.executable, "-m", "my_package.data")
    run(folder, *LAKESTORM, "run", "machines.yaml")
    told = run(folder, sys.executable, "-m", "my_package.check")
    assert told == "1200 rows, maxabs_pressure, maxabs_temperature, cat_machine: equal\n"

    described = yaml.safe_load((folder / "machines.yaml").read_text("utf-8"))
    predictions = pl.read_delta(str(folder / described["lake"] / "predictions"))
    raw = pl.read_parquet(folder / "raw" / "machines.parquet")
    joined = raw.join(predictions, on="id", how="left", validate="1:1").filter(pl.col("day") >= 10)
    right = (joined["score"] > 0.5).cast(pl.Int32) == joined["failed"]
    assert right.mean() > 0.8  # type: ignore[operator]
    for stated in ("my_package.kinds", "my_package.networks:Products"):
        assert stated in PAGE.read_text("utf-8")
