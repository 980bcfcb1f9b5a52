from __future__ import annotations

import json
import math
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

from pipeline.errors import ModelError, RowError, SpecError
from pipeline.serving.scorer import Scorer
from tests.command import ENVIRONMENT

KEYS = ["time_hour", "carrier", "flight", "origin", "dest"]
SAID = [*KEYS, "score", "model_name", "model_version", "spec_hash", "scored_at"]


@pytest.fixture(scope="module")
def clean(scored: Path, scorer: Scorer) -> pl.DataFrame:
    return pl.read_delta(str(scored / "clean")).select(
        *scorer.given.names, *(key for key in KEYS if key not in scorer.given.names)
    )


def test_scores_are_those_of_the_lake(scored: Path, scorer: Scorer, clean: pl.DataFrame) -> None:
    there = pl.read_delta(str(scored / "predictions"))
    here = scorer.score(clean)
    assert isinstance(here, pl.DataFrame)
    both = here.join(there, on=KEYS, how="inner", suffix="_there", validate="1:1")
    assert len(here) == len(there) == len(both) == len(clean)
    # Other batches sum in another order.
    np.testing.assert_allclose(both["score"], both["score_there"], rtol=0, atol=1e-6)
    assert both["spec_hash"].to_list() == both["spec_hash_there"].to_list()
    assert here.columns == SAID


def test_features_are_those_of_the_lake(scored: Path, scorer: Scorer, clean: pl.DataFrame) -> None:
    spec = scorer.bundle.spec
    there = pl.read_delta(str(scored / spec.table)).sort(KEYS)
    rows = clean.sort(KEYS)
    here = pl.from_arrow(scorer.features(rows.to_arrow()))
    assert isinstance(here, pl.DataFrame)
    for name in spec.feature_columns:
        one, other = here[name].to_numpy(), there[name].to_numpy()
        if spec.parts_by_column[name].ulps:
            np.testing.assert_array_max_ulp(one, other, spec.parts_by_column[name].ulps)
        else:
            np.testing.assert_array_equal(one, other, err_msg=name)


def test_all_forms_of_rows_give_the_same(scorer: Scorer, clean: pl.DataFrame) -> None:
    few = clean.head(7)
    wanted = scorer.score(few)["score"].to_list()
    as_dicts = scorer.score(few.to_dicts())
    assert [row["score"] for row in as_dicts] == pytest.approx(wanted, abs=1e-6)
    assert list(as_dicts[0]) == SAID
    alone = scorer.score(few.to_dicts()[3])
    assert alone["score"] == pytest.approx(wanted[3], abs=1e-6)
    assert (alone["flight"], alone["model_name"]) == (few["flight"][3], "flights")
    frame = scorer.score(few.to_pandas())
    assert isinstance(frame, pd.DataFrame)
    assert frame["score"].to_list() == pytest.approx(wanted, abs=1e-6)
    table = scorer.score(few.to_arrow())
    assert isinstance(table, pa.Table)
    assert table["score"].to_pylist() == pytest.approx(wanted, abs=1e-6)
    assert scorer.score([]) == []
    assert scorer.score(few.to_arrow().slice(0, 0)).num_rows == 0


def test_keys_are_not_needed(scorer: Scorer, clean: pl.DataFrame) -> None:
    row = {name: clean[name][0] for name in scorer.given.names}
    assert "time_hour" not in row
    found = scorer.score(row)
    assert "time_hour" not in found
    assert 0 < found["score"] < 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"distance": "far"}, r"^row 0, field distance: is 'far'"),
        ({"month": 2.5}, r"^row 0, field month: is 2\.5"),
        ({"month": 2**40}, r"^row 0, field month: is 1099511627776"),
        ({"carrier": 3}, r"^row 0, field carrier: is 3"),
        ({"distance": ...}, r"^row 0, field distance: is Ellipsis"),
    ],
)
def test_a_wrong_value_is_named(
    scorer: Scorer, clean: pl.DataFrame, change: dict[str, Any], message: str
) -> None:
    with pytest.raises(RowError, match=message):
        scorer.score({**clean.to_dicts()[0], **change})


def test_a_missing_field_is_named(scorer: Scorer, clean: pl.DataFrame) -> None:
    row = clean.to_dicts()[0]
    del row["temp"]
    with pytest.raises(RowError, match=r"^row 0, field temp: is missing"):
        scorer.score([row])
    with pytest.raises(RowError, match=r"^field temp: is missing; given are "):
        scorer.score(clean.drop("temp"))
    with pytest.raises(RowError, match=r"^rows: are int"):
        scorer.score(3)


def test_nulls_and_what_is_no_number_are_missing(scorer: Scorer, clean: pl.DataFrame) -> None:
    row = clean.to_dicts()[0]
    missing = scorer.score({**row, "temp": None})["score"]
    for value in (math.nan, math.inf, 1e300):
        assert scorer.score({**row, "temp": value})["score"] == missing
    everything = dict.fromkeys(row)
    assert 0 < scorer.score(everything)["score"] < 1


def test_threads_may_share_a_scorer(scorer: Scorer, clean: pl.DataFrame) -> None:
    wanted = scorer.score(clean.head(50))["score"].to_list()
    found: dict[int, list[float]] = {}

    def run(place: int) -> None:
        found[place] = scorer.score(clean.head(50))["score"].to_list()

    threads = [threading.Thread(target=run, args=(place,)) for place in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(found[place] == wanted for place in range(4))


def test_no_java_is_started(scored: Path) -> None:
    program = """
import sys, psutil
from pipeline.serving.scorer import Scorer
scorer = Scorer.load("flights@champion", sys.argv[1])
row = {field.name: None for field in scorer.given}
print(scorer.score(row)["score"])
assert not psutil.Process().children(recursive=True)
from pyspark import SparkContext
assert SparkContext._gateway is None and SparkContext._jvm is None
"""
    done = subprocess.run(
        [sys.executable, "-c", program, str(scored)],
        env={**ENVIRONMENT, "JAVA_HOME": "/nowhere"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert 0 < float(done.stdout) < 1


def test_what_is_not_there_is_told(scored: Path) -> None:
    with pytest.raises(ModelError, match="has no version or alias 'nobody'"):
        Scorer.load("flights@nobody", str(scored))


def test_a_model_for_spark_only_says_why(scorer: Scorer) -> None:
    assert scorer.bundle.local is not None
    local = scorer.bundle.local.model_copy(update={"spark_only": "derive.x: 'crc32(s)': no"})
    with pytest.raises(SpecError, match=r"is for Spark only: derive\.x: 'crc32\(s\)': no"):
        Scorer(replace(scorer.bundle, local=local), "flights", 1)
    with pytest.raises(SpecError, match="was saved without how its features are made"):
        Scorer(replace(scorer.bundle, local=None), "flights", 1)


def test_mlflow_loads_and_scores_it(scored: Path, scorer: Scorer, clean: pl.DataFrame) -> None:
    program = """
import sys, mlflow, pandas as pd
from pipeline.training.tracking import own_uri
mlflow.set_tracking_uri(own_uri(sys.argv[1]))
model = mlflow.pyfunc.load_model("models:/flights@champion")
print(model.predict(pd.read_pickle(sys.argv[2]))["score"].tolist())
"""
    few = scored.parent / "few.pickle"
    clean.head(20).to_pandas().to_pickle(few)
    done = subprocess.run(
        [sys.executable, "-c", program, str(scored), str(few)],
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    wanted = scorer.score(clean.head(20))["score"].to_list()
    assert json.loads(done.stdout.splitlines()[-1]) == pytest.approx(wanted, abs=1e-6)
