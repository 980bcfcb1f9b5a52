"""What a service logs, and how it is compared with the lake."""

from __future__ import annotations

import json
import subprocess
import threading
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pytest

from pipeline.config import Pipeline
from pipeline.errors import ModelError, SourceError
from pipeline.features.agreement import greatest_difference
from pipeline.lake import Lake
from pipeline.operate.skew import listed, skew_grids
from pipeline.serving.log import LogLimits, ServiceLog, log_files, sensitive_features
from pipeline.serving.scorer import Scorer
from pipeline.serving.service import _logged
from pipeline.serving.skew import compare
from tests.command import ENVIRONMENT, LAKESTORM
from tests.flights import FLIGHTS, SMALL, small_pipeline

KEYS = ["time_hour", "carrier", "flight", "origin", "dest"]
ROWS = 50


@pytest.fixture(scope="module")
def pipeline(scored: Path) -> Pipeline:
    return small_pipeline(scored)


@pytest.fixture(scope="module")
def clean(scored: Path, scorer: Scorer) -> pl.DataFrame:
    names = dict.fromkeys([*scorer.given.names, *KEYS])
    return pl.read_delta(str(scored / "clean")).select(*names).sort(KEYS).head(ROWS)


def served(
    folder: Path, scorer: Scorer, pipeline: Pipeline, *batches: pl.DataFrame, **limits: Any
) -> ServiceLog:
    """Scores batches as a service does, and ends its log."""
    log = ServiceLog.of(folder, scorer, Lake.of(pipeline), pipeline, LogLimits(**limits))
    score = _logged(scorer, log)
    for batch in batches:
        score(batch.to_arrow())
    log.close()
    return log


def marked(pipeline: Pipeline, *names: str) -> Pipeline:
    """The same pipeline with sensitive columns."""
    columns = {
        name: column.model_copy(update={"sensitive": True}) if name in names else column
        for name, column in pipeline.source.columns.items()
    }
    source = pipeline.source.model_copy(update={"columns": columns})
    return pipeline.model_copy(update={"source": source})


def test_what_is_logged_is_what_the_lake_has(
    tmp_path: Path, scored: Path, scorer: Scorer, pipeline: Pipeline, clean: pl.DataFrame
) -> None:
    log = served(tmp_path, scorer, pipeline, clean.head(30), clean.tail(20))
    assert log.counts == {"written": ROWS, "dropped": 0, "without_key": 0}
    # Read back by another engine.
    (file,) = log_files(tmp_path)
    rows = pl.read_parquet(file).unnest("keys")
    there = pl.read_delta(str(scored / scorer.bundle.spec.table))
    both = rows.join(there, on=KEYS, suffix="_there", validate="1:1")
    assert len(both) == ROWS
    features = both["features"].struct.unnest()
    assert features.columns == list(scorer.bundle.spec.feature_columns)
    assert features["num_distance"].to_list() == both["num_distance"].to_list()
    assert features["cat_carrier"].to_list() == both["cat_carrier"].to_list()

    (found,) = compare(tmp_path, Lake.of(pipeline), pipeline)
    assert found.verdict == "same"
    assert (found.model, found.matched, found.scores_matched) == ("flights@1", ROWS, ROWS)
    assert found.not_logged == len(there) - ROWS
    assert {each.differ for each in (*found.features, *found.scores)} == {0}


def test_rows_that_differ_are_counted_with_examples(
    tmp_path: Path, scorer: Scorer, pipeline: Pipeline, clean: pl.DataFrame
) -> None:
    """Ten rows with another distance, one of them twice, and one that the lake has not."""
    far = clean.head(10).with_columns(distance=pl.col("distance") + 1000)
    foreign = clean.tail(1).with_columns(flight=pl.lit(99_999, pl.Int32))
    served(tmp_path, scorer, pipeline, far, far.head(1), clean.tail(20), foreign)
    (found,) = compare(tmp_path, Lake.of(pipeline), pipeline, examples=2)
    assert (found.verdict, found.logged, found.matched) == ("differ", 32, 31)
    differing = {each.column: each for each in found.features if each.differ}
    assert list(differing) == ["num_distance"]
    distance = differing["num_distance"]
    # The distance is scaled: the oracle is the spread that 1000 miles have among the features.
    made = scorer.features(pl.concat([clean.head(1), far.head(1)]).to_arrow())["num_distance"]
    assert (distance.rows, distance.differ) == (31, 11)
    assert distance.greatest == pytest.approx(made[1].as_py() - made[0].as_py(), rel=1e-4)
    assert len(distance.examples) == 2
    assert set(distance.examples[0]["key"]) == set(KEYS)
    assert found.scores[0].differ == 11
    told = "\n".join(line for line in skew_grids(found) if isinstance(line, str))
    assert "flights@1: differ. Of 32 logged rows 31 are in features/" in told
    assert "in the lake, for time_hour=2013-01-01" in told
    assert json.loads(json.dumps(listed([found])))[0]["verdict"] == "differ"


def test_keys_as_text_are_read_as_the_lake_has_them(
    tmp_path: Path, scorer: Scorer, pipeline: Pipeline, clean: pl.DataFrame
) -> None:
    texts = clean.head(9).with_columns(
        time_hour=pl.col("time_hour").dt.to_string("iso:strict"), flight=pl.col("flight")
    )
    wrong = texts.head(1).with_columns(time_hour=pl.lit("soon"))
    keyless = clean.head(4).drop("time_hour")
    log = served(tmp_path, scorer, pipeline, pl.concat([texts, wrong]), keyless)
    assert log.counts == {"written": 9, "dropped": 0, "without_key": 5}
    (found,) = compare(tmp_path, Lake.of(pipeline), pipeline)
    assert (found.verdict, found.matched) == ("same", 9)


def test_nothing_of_a_sensitive_column_is_logged(
    tmp_path: Path, scorer: Scorer, pipeline: Pipeline, clean: pl.DataFrame
) -> None:
    hidden = marked(pipeline, "distance", "day")
    withheld = sensitive_features(scorer.bundle.spec, hidden)
    assert withheld == ["num_distance", "sin_day_of_week", "cos_day_of_week", "cat_day_of_week"]
    served(tmp_path, scorer, hidden, clean)
    (file,) = log_files(tmp_path)
    assert not set(withheld) & set(pl.read_parquet(file)["features"].struct.fields)
    (found,) = compare(tmp_path, Lake.of(pipeline), hidden)
    assert (found.verdict, set(found.withheld)) == ("same", set(withheld))
    with pytest.raises(ModelError, match=r"^key flight: is sensitive"):
        served(tmp_path, scorer, marked(pipeline, "flight"), clean)


def test_a_log_is_bounded(
    tmp_path: Path, scorer: Scorer, pipeline: Pipeline, clean: pl.DataFrame
) -> None:
    served(tmp_path, scorer, pipeline, clean)
    (first,) = log_files(tmp_path)
    (tmp_path / "note.parquet").write_text("not ours")
    most = first.stat().st_size * 5 // 2
    for _ in range(4):
        served(tmp_path, scorer, pipeline, clean, bytes_on_disk=most)
    assert len(log_files(tmp_path)) == 2
    assert first not in log_files(tmp_path)
    assert (tmp_path / "note.parquet").exists()
    small = served(tmp_path / "small", scorer, pipeline, clean, bytes_in_memory=10)
    assert small.counts == {"written": 0, "dropped": ROWS, "without_key": 0}


def test_a_log_that_cannot_be_written_fails_no_request(
    tmp_path: Path,
    scorer: Scorer,
    pipeline: Pipeline,
    clean: pl.DataFrame,
    caplog: pytest.LogCaptureFixture,
) -> None:
    log = ServiceLog.of(tmp_path / "gone", scorer, Lake.of(pipeline), pipeline)
    (tmp_path / "gone").rmdir()
    assert _logged(scorer, log)(clean.to_arrow()).num_rows == ROWS
    log.close()
    assert log.counts == {"written": 0, "dropped": ROWS, "without_key": 0}
    assert "cannot be written, rows are dropped" in caplog.text


def test_rows_are_written_after_a_while(
    tmp_path: Path, scorer: Scorer, pipeline: Pipeline, clean: pl.DataFrame
) -> None:
    limits = LogLimits(seconds=0.2)
    log = ServiceLog.of(tmp_path, scorer, Lake.of(pipeline), pipeline, limits)
    _logged(scorer, log)(clean.to_arrow())
    done = threading.Event()
    for _ in range(100):
        if log_files(tmp_path) or done.wait(0.1):
            break
    assert len(log_files(tmp_path)) == 1
    log.close()


def test_a_wrong_log_is_told(
    tmp_path: Path, scorer: Scorer, pipeline: Pipeline, clean: pl.DataFrame
) -> None:
    lake = Lake.of(pipeline)
    with pytest.raises(SourceError, match="holds no file of a service"):
        compare(tmp_path / "none", lake, pipeline)
    served(tmp_path, scorer, pipeline, clean)
    (file,) = log_files(tmp_path)
    rows = pl.read_parquet(file)
    rows.with_columns(spec_hash=pl.lit("0123456789abcdef")).write_parquet(file)
    with pytest.raises(ModelError, match="was served with 0123456789abcdef"):
        compare(tmp_path, lake, pipeline)
    file.write_bytes(b"PAR1")
    with pytest.raises(SourceError, match="is no file of a service's log"):
        compare(tmp_path, lake, pipeline)


def test_the_command_ends_with_1_where_they_differ(
    tmp_path: Path, scored: Path, scorer: Scorer, pipeline: Pipeline, clean: pl.DataFrame
) -> None:
    served(tmp_path, scorer, pipeline, clean.head(3).with_columns(distance=pl.lit(1.0)))
    sets = [word for setting in (f"lake={scored}", *SMALL) for word in ("--set", setting)]
    command = [*LAKESTORM, "skew", str(FLIGHTS), "--log", str(tmp_path), *sets]
    done = subprocess.run(
        [*command, "--json"], env=ENVIRONMENT, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (1, "")
    (found,) = json.loads(done.stdout)["skew"]
    assert (found["verdict"], found["matched"]) == ("differ", 3)


def test_a_log_needs_the_contract(tmp_path: Path, scored: Path) -> None:
    command = [*LAKESTORM, "serve", "flights@champion", "--lake", str(scored)]
    done = subprocess.run(
        [*command, "--log", str(tmp_path)],
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "--log: needs to know which columns are sensitive" in done.stderr


@pytest.mark.parametrize(
    ("one", "other", "greatest"),
    [
        ([1.0, 2.0, None], [1.5, float("nan"), 3.0], 0.5),
        ([[1.0], [2.0, 4.0], None], [[1.0, 9.0], [2.0, 7.0], [1.0]], 3.0),
        ([1, 2], [5, 2], None),
        ([None], [1.0], None),
    ],
)
def test_the_greatest_difference(one: list[Any], other: list[Any], greatest: float | None) -> None:
    kind = pa.array(other).type
    columns = [pa.chunked_array([pa.array(values, kind)]) for values in (one, other)]
    assert greatest_difference(*columns) == greatest
