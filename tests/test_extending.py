"""docs/extending.md is run as it stands: its files, its changes to lakestorm, one whole pipeline.

The page adds modules to lakestorm itself, so everything runs in a copy of the source tree.
"""

from __future__ import annotations

import contextlib
import math
import os
import re
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl
import pytest
import yaml
from pyarrow import orc
from sklearn.metrics import mean_poisson_deviance

from pipeline.session import CHECKOUT
from tests.command import LAKESTORM
from tests.operate.reader import Reader

PAGE = CHECKOUT / "docs" / "extending.md"
FILE = re.compile(r"^```(?:python|yaml)\n# (\S+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
CHANGE = re.compile(r"^```diff\n(.*?)^```$", re.MULTILINE | re.DOTALL)


class Example(NamedTuple):
    """The page, written out."""

    folder: Path
    """Holds the copy of `pipeline`, `my_package` and the YAML."""
    lake: Path


def write_out(folder: Path) -> None:
    """Copies lakestorm, and adds the page's files and changes in the page's order."""
    shutil.copytree(CHECKOUT / "pipeline", folder / "pipeline")
    (folder / "my_package").mkdir()
    (folder / "my_package" / "__init__.py").touch()
    text = PAGE.read_text("utf-8")
    files, changes = FILE.findall(text), CHANGE.findall(text)
    assert len(files) + len(changes) == text.count("```") / 2, "a block is neither file nor change"
    for name, content in files:
        assert not (folder / name).exists(), f"{name} is there already"
        (folder / name).write_text(content, "utf-8")
    for change in changes:
        apply(folder, change)


def apply(folder: Path, change: str) -> None:
    done = subprocess.run(
        ["git", "apply", "--unidiff-zero", "-"],
        cwd=folder,
        # Where the folder lies in a repository, git would leave out what is not of it.
        env={**os.environ, "GIT_CEILING_DIRECTORIES": str(folder.parent)},
        input=change,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{done.stderr}\n{change}"


def run(folder: Path, *command: str) -> str:
    done = subprocess.run(
        command,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(folder)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stdout


def test_what_is_added_to_lakestorm_is_a_module_and_a_line() -> None:
    text = PAGE.read_text("utf-8")
    modules = [name for name, _ in FILE.findall(text) if name.startswith("pipeline/")]
    changes = [change for change in CHANGE.findall(text) if change.startswith("--- a/pipeline/")]
    assert len(modules) == len(changes) > 0
    for change in changes:
        lines = change.splitlines()[2:]
        assert not any(line.startswith(("-", "+++")) for line in lines), change
        added = [line for line in lines if line.startswith("+")]
        imports = [line for line in added if line.startswith("+from pipeline.")]
        assert len(added) - len(imports) == 1 >= len(imports), change


@pytest.fixture(scope="module")
def example(tmp_path_factory: pytest.TempPathFactory) -> Example:
    """The page's pipeline, after its run."""
    folder = tmp_path_factory.mktemp("extending")
    write_out(folder)
    where = run(folder, sys.executable, "-P", "-c", "import pipeline; print(pipeline.__file__)")
    assert Path(where.strip()).parent == folder / "pipeline"  # not the checkout
    run(folder, sys.executable, "-m", "my_package.data")
    run(folder, *LAKESTORM, "run", "machines.yaml")
    lake: str = yaml.safe_load((folder / "machines.yaml").read_text("utf-8"))["lake"]
    return Example(folder, folder / lake)


def table(example: Example, name: str) -> pl.DataFrame:
    return pl.read_delta(str(example.lake / name))


def test_the_page_runs_as_it_stands(example: Example) -> None:
    told = run(example.folder, sys.executable, "-m", "my_package.check")
    rows = table(example, "clean").height
    assert told == f"{rows} rows, maxabs_pressure, maxabs_temperature, cat_machine: equal\n"

    for stated in ("my_package.kinds", "my_package.networks:Products"):
        assert stated in PAGE.read_text("utf-8")


def test_the_format_of_the_page_reads_the_source(example: Example) -> None:
    assert described(example)["source"]["format"] == "orc"
    clean = table(example, "clean").drop("period").sort("id")
    assert clean.rows() == plausible(example).select(clean.columns).sort("id").rows()


def test_the_action_of_the_page_sets_rows_aside(example: Example) -> None:
    assert described(example)["clean"]["rules"]["plausible"]["action"] == "quarantine_few"
    aside = table(example, "quarantine")
    wanted = raw(example).join(plausible(example), on="id", how="anti")
    assert 0 < wanted.height < 0.05 * raw(example).height
    assert sorted(aside["row"].str.json_path_match("$.id").cast(int)) == sorted(wanted["id"])
    assert aside["reasons"].to_list() == [["rule:plausible"]] * wanted.height


def test_the_task_of_the_page_learns_counts(example: Example) -> None:
    assert described(example)["features"]["label"]["task"] == "count"
    train, test = rows_of(example, "train"), rows_of(example, "test")
    assert (test["score"] > 0).all()
    usual = np.full(test.height, train["stops"].mean())
    # Far better than to expect everywhere what the train rows had in the mean.
    assert deviance(test["stops"], test["score"]) < 0.8 * deviance(test["stops"], usual)
    with contextlib.closing(sqlite3.connect(example.lake / "mlflow.db")) as runs:
        [(told,)] = runs.execute("SELECT value FROM metrics WHERE key = 'final/test/deviance'")
    assert told == pytest.approx(deviance(test["stops"], test["score"]), rel=1e-5)
    assert "Predicted and observed counts of test rows" in report(example)


def test_the_metric_of_the_page_decides_which_epoch_is_kept(example: Example) -> None:
    assert described(example)["train"]["metric"] == "wmape"
    with contextlib.closing(sqlite3.connect(example.lake / "mlflow.db")) as runs:
        of_epochs = runs.execute(
            "SELECT value FROM metrics WHERE key = 'validation/wmape' ORDER BY step"
        ).fetchall()
        [(told,)] = runs.execute("SELECT value FROM metrics WHERE key = 'final/test/wmape'")
    kept = of_epochs.index(min(of_epochs)) + 1
    assert len(of_epochs) > 1
    assert f"{kept} was kept, the one with the best validation weighted MAPE" in report(example)
    test = rows_of(example, "test")
    stops, score = test["stops"].to_numpy(), test["score"].to_numpy()
    wrong = np.abs(score - stops).sum() / stops.sum()
    assert told == pytest.approx(wrong, rel=1e-5)
    assert f"{told:.4f} weighted MAPE on test" in report(example)


def test_the_chart_of_the_page_shows_counts_beside_expected_ones(example: Example) -> None:
    test = rows_of(example, "test")
    means = test["score"].to_numpy().astype(float)
    section = report(example).partition("Test rows by count ")[2]
    for count in range(9):
        came = (test["stops"] == count).sum()
        assert f" {count}: observed {came} " in section
        [expected] = re.findall(rf" {count}: expected (\S+)", section)
        probabilities = means**count * np.exp(-means) / math.factorial(count)
        assert float(expected) == pytest.approx(probabilities.sum(), rel=1e-3)


def rows_of(example: Example, split: str) -> pl.DataFrame:
    """The rows of `clean` in a split, with what was predicted for them."""
    days = {"train": pl.col("day") < 8, "test": pl.col("day") >= 10}
    rows = table(example, "clean").filter(days[split])
    return rows.join(table(example, "predictions"), on="id", how="inner", validate="1:1")


def deviance(counts: Any, means: Any) -> float:
    """Of Poisson's distribution, as scikit-learn has it."""
    return float(mean_poisson_deviance(np.asarray(counts), np.asarray(means, float)))


def report(example: Example) -> str:
    """The text of the page in the lake."""
    return Reader((example.lake / "reports" / "machines.html").read_text("utf-8")).shown


def described(example: Example) -> dict[str, Any]:
    """The page's YAML, with the changes to it."""
    loaded: dict[str, Any] = yaml.safe_load((example.folder / "machines.yaml").read_text("utf-8"))
    return loaded


def raw(example: Example) -> pl.DataFrame:
    rows = pl.from_arrow(orc.read_table(example.folder / "raw" / "machines.orc"))
    assert isinstance(rows, pl.DataFrame)
    return rows


def plausible(example: Example) -> pl.DataFrame:
    """The rows that the page's rule lets pass."""
    return raw(example).filter(pl.col("temperature") > 25)
