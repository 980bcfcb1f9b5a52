"""Kinds of a user's own, named in the YAML: from there to the report."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from pyspark.sql import SparkSession

from pipeline.config import Pipeline
from pipeline.errors import ConfigError, SpecError
from pipeline.features import kinds
from pipeline.features.arrow import features_of
from pipeline.features.catalogue import newest_spec
from pipeline.lake import Lake
from pipeline.operate.walk import walk
from pipeline.session import CHECKOUT
from tests.clean import examples
from tests.command import ENVIRONMENT

OWN = "tests.features.own_kinds"
ROWS = 400
RAW = pa.schema([("id", pa.int64()), ("month", pa.int64()), ("x", pa.float64()), ("n", pa.int64())])
FEATURES: dict[str, Any] = {
    "keys": ["id"],
    "label": {"name": "late", "expression": "1 / (x + 2) > 0.3 AND n % 10 < 7"},
    "splits": {"train": "month <= 2", "validation": "month = 3", "test": "month = 4"},
    "leakage": [],
    "kinds": OWN,
    "numeric": {"x": {}},
    "reciprocal": {"x": {"at_zero": -1}},
    "digits": {"n": {}},
    "rows_per_row_group": 16,
}


@pytest.fixture(autouse=True)
def _as_in_a_new_process() -> Iterator[None]:
    """Other tests know our own kinds alone."""
    before = dict(kinds._TABLE)
    yield
    kinds._TABLE.clear()
    kinds._TABLE.update(before)


def pipeline(root: Path, **changes: Any) -> Pipeline:
    return examples.pipeline(
        root,
        {
            "source.columns": {
                "id": {"type": "bigint", "required": True},
                "month": {"type": "int", "required": True},
                "x": {"type": "double"},
                "n": {"type": "bigint"},
            },
            "features": {**FEATURES, **changes},
            "train": {
                "epochs": 2, "rows_per_batch": 32, "workers": 2, "max_restarts": 0,
                "model": {"hidden": [8], "embedding_dimension": 2}, "stream_workers": 1,
            },
            "score": {"drift": {"minimum_rows": 10}},
        },
    )  # fmt: skip


def rows() -> list[dict[str, Any]]:
    random = np.random.default_rng(1)
    return [
        {
            "id": number,
            "month": number % 4 + 1,
            "x": None if number % 50 == 3 else float(number % 20) / 4,
            "n": None if number % 60 == 7 else int(random.integers(-999, 1000)),
        }
        for number in range(ROWS)
    ]


@pytest.mark.long
def test_own_kinds_go_the_whole_way(
    spark: SparkSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two ranks and Spark's Python processes are others than this: each must register them."""
    monkeypatch.setenv("PYTHONPATH", str(CHECKOUT))
    examples.write_raw(tmp_path / "raw" / "a.parquet", rows(), RAW)
    described = pipeline(tmp_path)
    lake = Lake(described.lake)
    stages = ("clean", "featurize", "train", "score", "report")
    outcomes = {outcome.stage: outcome for outcome in walk(spark, described, lake, stages)}
    assert outcomes["score"].rows_out == ROWS

    spec = newest_spec(lake, described.name)
    assert [part.kind for part in spec.parts] == ["numeric", "reciprocal", "digits"]
    assert spec.numeric_columns == ("num_x", "reciprocal_x")
    assert spec.categorical_columns == ("ones_n", "tens_n")
    assert spec.cardinalities == (12, 12)
    table = pl.read_delta(lake.table(spec.table).root).sort("id")
    for row, given in zip(table.iter_rows(named=True), rows(), strict=True):
        x, n = given["x"], abs(given["n"] or 0)
        assert row["reciprocal_x"] == (float(np.float32(1 / x)) if x else -1.0)
        assert (row["ones_n"], row["tens_n"]) == (n % 10 + 2, n // 10 % 10 + 2)
        assert row["_missing_0"] == (x is None)
    made = features_of(pa.Table.from_pylist(rows(), schema=RAW), spec)
    for name in spec.feature_columns:
        assert made[name].to_pylist() == pytest.approx(table[name].to_list(), rel=1e-6)

    drift = pl.read_delta(lake.table("drift").root)
    told = {row["feature"]: row for row in drift.iter_rows(named=True)}
    missing = sum(given["x"] is None for given in rows()) / ROWS
    assert told["reciprocal_x"]["missing_rate"] == pytest.approx(missing)
    assert told["tens_n"]["unknown_rate"] is None
    (page,) = Path(lake.root).rglob("*.html")
    assert re.search(r"digit \d", page.read_text("utf-8"))

    _require_the_clear_error_elsewhere(lake, described)


def _require_the_clear_error_elsewhere(lake: Lake, described: Pipeline) -> None:
    """In a process where nobody registered the kinds."""
    program = (
        "import sys\nfrom pipeline.errors import SpecError\nfrom pipeline.lake import Lake\n"
        "from pipeline.features.catalogue import newest_spec\n"
        "try:\n    newest_spec(Lake(sys.argv[1]), sys.argv[2])\n"
        "except SpecError as error:\n    print(error)\n"
    )
    told = subprocess.run(
        [sys.executable, "-c", program, lake.root, described.name],
        env=ENVIRONMENT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert re.search(
        r"^feature spec, parts.*there is no kind 'reciprocal', only numeric, .*; name the module "
        r"of your own kinds in the YAML: features\.kinds\. ",
        told.stdout,
    ), told.stdout


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        (
            {"kinds": "tests.features.no_such"},
            r"^features\.kinds: tests\.features\.no_such: raises ModuleNotFoundError: .*PYTHONPATH",
        ),
        ({"kinds": "raising"}, r"^features\.kinds: raising: raises ZeroDivisionError: division"),
        ({"kinds": "leaving"}, r"^features\.kinds: leaving: raises SystemExit: 3\. "),
        ({"kinds": "empty"}, r"^features\.kinds: empty: has no KINDS, a list of pipeline\.feat"),
        ({"kinds": "numbers_again"}, r"^features\.kinds: .*names a kind 'numeric', which there is"),
        ({"kinds": "misnamed"}, r"^features\.kinds: .*names a kind 'rows_per_row_group', which no"),
        ({"kinds": "dotted"}, r"^features\.kinds: .*names a kind 'a\.b', which no section can"),
        ({"kinds": "shadowing"}, r"^features\.kinds: .*names a kind 'asked', which no section can"),
        ({"kinds": ""}, r"^features\.kinds: "),
        (
            {"reciprocal": {"x": {"at_zer": 1}}},
            r"^features\.reciprocal\.x\.at_zer: unknown setting\. Did you mean at_zero\? Allowed "
            r"here: at_zero\.",
        ),
        (
            {"digits": {"n": {"offset": 0}}},
            r"^features\.digits\.n\.offset: Input should be greater than 0 \(value: 0\)\. Correct",
        ),
        (
            {"reciproca": {"x": {}}},
            r"^features\.reciproca: unknown setting\. Did you mean reciprocal\? .*digits,",
        ),
        ({"digits": {"m": {}}}, r"features\.digits: there is no column 'm'"),
        ({"leakage": ["n"]}, r"features: digits\.n is listed under leakage"),
        ({"kinds": None}, r"^features\.(reciprocal|digits): unknown setting\. "),
    ],
)
def test_what_is_wrong_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], told: str
) -> None:
    modules = {
        "raising": "1 / 0",
        "leaving": "raise SystemExit(3)",
        "empty": "KINDS = ['reciprocal']",
        "numbers_again": _renamed("numeric"),
        "misnamed": _renamed("rows_per_row_group"),
        "dotted": _renamed("a.b"),
        "shadowing": _renamed("asked"),
    }
    for name, text in modules.items():
        (tmp_path / f"{name}.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ConfigError, match=told):
        pipeline(tmp_path, **changes)


def _renamed(name: str) -> str:
    return (
        f"from dataclasses import replace\nfrom {OWN} import KINDS\n"
        f"KINDS = [replace(KINDS[0], name={name!r})]"
    )


def test_a_column_that_is_no_number_is_refused(spark: SparkSession, tmp_path: Path) -> None:
    examples.write_raw(tmp_path / "raw" / "a.parquet", rows(), RAW)
    described = pipeline(tmp_path, digits={"s": {}}, derive={"s": "string(n)"})
    with pytest.raises(SpecError, match=r"column s: is string, and its reciprocal is to be a num"):
        for _ in walk(spark, described, Lake(described.lake), ("clean", "featurize")):
            pass
