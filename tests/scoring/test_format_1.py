"""What a lakestorm wrote when feature specs had format 1 still loads, and scores as it did.

The lakes under tests/data/format_1 are stored as that lakestorm left them; nothing here is made
by today's code but what is compared with them.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from pyspark.sql import SparkSession

from pipeline.features.catalogue import newest_spec, spec_of_hash
from pipeline.features.spec import FeatureSpec
from pipeline.operate.walk import STAGES, walk
from pipeline.outcome import Outcome
from pipeline.training.registry import load_registered
from tests.scoring.format_1 import NAMES, StoredLake, unpack

# When and by which commit, which is another one each time.
OF_THE_RUN = {"scored_at", "source_version", "measured_at"}
NAMED = pytest.mark.parametrize("name", NAMES)


@pytest.fixture
def stored(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> StoredLake:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return unpack(name, tmp_path)


def stored_spec(stored: StoredLake) -> dict[str, Any]:
    """The row of the table `specs`, read by a second engine."""
    [row] = pl.read_delta(stored.lake.table("specs").root).to_dicts()
    return row


def features_table(stored: StoredLake) -> str:
    return f"features/{stored_spec(stored)['spec_hash']}"


def read(stored: StoredLake, table: str) -> pl.DataFrame:
    """A table by a second engine."""
    name = features_table(stored) if table == "features" else table
    return pl.read_delta(stored.lake.table(name).root)


def rows_of(frame: pl.DataFrame) -> Counter[str]:
    """The rows as a multiset; the text of a number tells each of its bits."""
    return Counter(map(repr, frame.iter_rows()))


def require_equal_predictions(found: pl.DataFrame, expected: pl.DataFrame, keys: list[str]) -> None:
    """Row for row; numbers as near as other processors come."""
    assert found.schema == expected.schema
    found, expected = found.sort(keys), expected.sort(keys)
    for name in (name for name in expected.columns if name not in OF_THE_RUN):
        left, right = found[name], expected[name]
        if left.dtype == pl.List(pl.Float32):
            assert left.list.len().to_list() == right.list.len().to_list()
            left, right = left.explode(), right.explode()
        if left.dtype.is_float():
            np.testing.assert_allclose(
                left.to_numpy(), right.to_numpy(), rtol=1e-6, atol=1e-6, err_msg=name
            )
        else:
            assert left.to_list() == right.to_list(), name


def require_equal_drift(found: pl.DataFrame, expected: pl.DataFrame) -> None:
    """The last pass of both, feature for feature; a score may fall into the bin beside."""
    assert found.schema == expected.schema
    for row, other in zip(last_pass(found), last_pass(expected), strict=True):
        if row["kind"] == "score":
            assert row["psi"] == pytest.approx(other["psi"], abs=0.05)
        else:
            assert row == pytest.approx(other)  # what is no number is equal


def last_pass(drift: pl.DataFrame) -> list[dict[str, Any]]:
    """What was measured of the newest features."""
    newest = drift.filter(pl.col("source_version") == pl.col("source_version").max())
    return newest.drop(OF_THE_RUN, strict=False).sort("kind", "feature").to_dicts()


def digests(stored: StoredLake, table: str) -> dict[str, str]:
    """The files of a table, and what is in them."""
    root = Path(stored.lake.table(table).root)
    return {
        str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in root.rglob("*.parquet")
    }


def walked(spark: SparkSession, stored: StoredLake) -> dict[str, Outcome]:
    """What a schedule of `stages: [clean, score]` runs."""
    stages = ("clean", "score")
    outcomes = walk(spark, stored.pipeline, stored.lake, stages, stored.asked)
    return {outcome.stage: outcome for outcome in outcomes}


@NAMED
def test_the_stored_spec_is_what_it_was_and_has_its_hash(stored: StoredLake) -> None:
    row = stored_spec(stored)
    assert json.loads(row["spec"])["format"] == 1
    spec = FeatureSpec.from_json(row["spec"])
    assert spec.hash == row["spec_hash"]
    assert spec.table == features_table(stored)
    again = FeatureSpec.from_json(spec.to_json())
    assert (again, again.hash) == (spec, row["spec_hash"])
    assert newest_spec(stored.lake, stored.name) == spec
    assert spec_of_hash(stored.lake, stored.name, row["spec_hash"]) == spec
    bundle, version = load_registered(stored.lake, stored.name, "champion")
    assert (bundle.spec, bundle.facts.spec_hash, version) == (spec, row["spec_hash"], 1)
    assert bundle.reference is not None


@NAMED
def test_features_predictions_and_drift_are_made_again_as_they_were(
    spark: SparkSession, stored: StoredLake
) -> None:
    before = {table: read(stored, table) for table in ("features", "predictions", "drift")}
    for table in (features_table(stored), "predictions", "drift"):
        shutil.rmtree(stored.lake.table(table).root)
    outcome = STAGES["score"](spark, stored.pipeline, stored.lake)
    assert outcome.rows_out == before["features"].height > 100
    features = read(stored, "features")
    assert features.schema == before["features"].schema
    assert rows_of(features) == rows_of(before["features"])
    keys = list(stored.pipeline.features.keys)
    require_equal_predictions(read(stored, "predictions"), before["predictions"], keys)
    require_equal_drift(read(stored, "drift"), before["drift"])


@NAMED
def test_late_rows_are_scored_by_the_stored_model_into_the_stored_tables(
    spark: SparkSession, stored: StoredLake
) -> None:
    assert all(outcome.unchanged for outcome in walked(spark, stored).values())
    before, files = read(stored, "predictions").height, digests(stored, "predictions")
    stored.deliver_late_rows()
    outcomes = walked(spark, stored)
    assert not any(outcome.unchanged for outcome in outcomes.values())
    assert outcomes["score"].rows_out > before + 20
    assert files.items() <= digests(stored, "predictions").items()
    expected = {
        table: pl.read_parquet(stored.expected(table))
        for table in ("features", "predictions", "drift")
    }
    features = read(stored, "features")
    assert features.schema == expected["features"].schema
    assert rows_of(features) == rows_of(expected["features"])
    keys = list(stored.pipeline.features.keys)
    predictions = read(stored, "predictions")
    require_equal_predictions(predictions, expected["predictions"], keys)
    assert set(predictions["model_version"]) == {1}
    require_equal_drift(read(stored, "drift"), expected["drift"])
    assert read(stored, "drift")["source_version"].n_unique() == 2
    assert all(outcome.unchanged for outcome in walked(spark, stored).values())
