from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from benchmarks.corrupting import trial
from benchmarks.corrupting.catalogue import all_variants
from benchmarks.corrupting.good import good_rows, parquet
from benchmarks.corrupting.scene import Variant
from benchmarks.corrupting.trial import Trials, Verdict, is_alive
from pipeline.clean.stage import clean
from pipeline.config import Pipeline
from pipeline.errors import SourceError
from pipeline.lake import Lake
from pipeline.outcome import Outcome

SEED = 13
ENDS: dict[str, Verdict] = {
    "parquet/checked-pages-flipped/03": "refused",
    "parquet/checked-pages-flipped/05": "refused",
    "parquet/pages-flipped/01": "refused",
    "parquet/truncated/at-50-percent": "refused",
    "parquet/wrong-row-count/of-the-file,-less": "refused",
    "parquet/wrong-row-count/of-all-but-the-columns,-less": "refused",
    "parquet/other-types/month-as-double-with-fractions": "quarantined",
    "csv/ragged-lines/one-field-less": "quarantined",
    "csv/gzip/cut-at-half": "refused",
    "csv/another-format/HTML": "refused",
    "csv/line-endings/CRLF": "unharmed",
    "json/half-a-line/1-letter": "quarantined",
    "json/encoding/invalid-byte-late": "refused",
    "json/deep/1001-arrays-in-a-value": "quarantined",
    "json/out-of-range/id-of-2^63": "quarantined",
}
UNTOUCHED = Variant(format="parquet", kind="none", label="none", spoil=lambda _: None)
VARIANTS = {variant.name: variant for variant in all_variants()}


@pytest.fixture(scope="module")
def trials(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> Trials:
    return Trials(spark, tmp_path_factory.mktemp("broken"), seed=SEED)


@pytest.mark.parametrize(("name", "verdict"), ENDS.items())
def test_a_spoiled_file_makes_no_wrong_row(trials: Trials, name: str, verdict: Verdict) -> None:
    result = trials.run(VARIANTS[name])
    assert result.verdict == verdict, result.told


def test_every_variant_has_a_name_of_its_own() -> None:
    assert len(VARIANTS) == len(all_variants()) >= 200


def _raises(error: Exception) -> Callable[..., Any]:
    def stage(*_: Any) -> None:
        raise error

    return stage


def _leaves_a_file(_: SparkSession, pipeline: Pipeline, lake: Lake) -> None:
    (Path(lake.table("clean").root) / "left.parquet").write_bytes(b"")
    raise SourceError(f"file {pipeline.source.path[0]}/c.parquet", "is broken", "Mend it.")


def _takes_long(spark: SparkSession, *_: Any) -> None:
    spark.range(1).select(F.expr("java_method('java.lang.Thread', 'sleep', 5000L)")).collect()


def _changes_a_value(spark: SparkSession, pipeline: Pipeline, lake: Lake) -> Outcome:
    rows = good_rows(SEED)["a"]
    rows[5]["amount"] = 0.125
    (Path(pipeline.source.path[0]) / "a.parquet").write_bytes(parquet(rows))
    return clean(spark, pipeline, lake)


def _loses_a_row(spark: SparkSession, pipeline: Pipeline, lake: Lake) -> Outcome:
    path = Path(pipeline.source.path[0]) / "c.parquet"
    whole = path.read_bytes()
    path.write_bytes(parquet(good_rows(SEED)["c"][1:]))
    outcome = clean(spark, pipeline, lake)
    path.write_bytes(whole)
    return outcome


@pytest.mark.parametrize(
    ("stage", "verdict", "told"),
    [
        (_raises(KeyError("x")), "traceback", "KeyError"),
        (_raises(SourceError("source.path", "is broken", "Mend it.")), "unclear", "is broken"),
        (_leaves_a_file, "wrong", "not as before"),
        (_changes_a_value, "wrong", "1 rows that no engine reads"),
        (_loses_a_row, "wrong", "1 rows are lost"),
    ],
)
def test_a_stage_at_fault_is_found_out(
    trials: Trials,
    monkeypatch: pytest.MonkeyPatch,
    stage: Callable[..., Any],
    verdict: Verdict,
    told: str,
) -> None:
    trials.good_lake("parquet")
    monkeypatch.setattr(trial, "clean", stage)
    result = trials.run(UNTOUCHED)
    assert (result.verdict, told in result.told) == (verdict, True), result.told


def test_a_stage_that_takes_too_long_is_ended_and_spark_goes_on(
    spark: SparkSession, trials: Trials, monkeypatch: pytest.MonkeyPatch
) -> None:
    trials.good_lake("parquet")
    with monkeypatch.context() as patched:
        patched.setattr(trials, "limit_seconds", 1.0)
        patched.setattr(trial, "clean", _takes_long)
        result = trials.run(UNTOUCHED)
        assert result.verdict == "hang", result.told
    assert is_alive(spark)
    assert trials.run(UNTOUCHED).verdict == "unharmed"
