"""Drift against NumPy's and Polars' reading of the same tables, by no code of the pipeline."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
import pytest
from click.testing import CliRunner
from deltalake import write_deltalake
from pyspark.sql import SparkSession

from pipeline.cli import main
from pipeline.errors import DriftError
from pipeline.lake import Lake
from pipeline.scoring import models, stage
from pipeline.scoring.periods import Span
from pipeline.scoring.stage import score
from pipeline.training.bundle import Bundle
from pipeline.training.registry import Registry, load_registered
from tests.flights import FLIGHTS, small_pipeline

LEAST, FLOOR = 0.05, 1e-4
NEVER_WARN = ("score.drift.psi.warn=null", "score.drift.missing_rate.warn=null")


@pytest.fixture(scope="module")
def scored(
    spark: SparkSession, trained: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Lake, str]:
    """A lake whose rows are all scored, and what the stage noted."""
    root = tmp_path_factory.mktemp("scored") / "lake"
    shutil.copytree(trained, root)
    return Lake(root), score(spark, small_pipeline(root), Lake(root)).note


@pytest.fixture
def lake(scored: tuple[Lake, str], tmp_path: Path) -> Lake:
    """A copy of its own for each test."""
    shutil.copytree(scored[0].root, tmp_path / "lake")
    return Lake(tmp_path / "lake")


def champion(lake: Lake) -> Bundle:
    return load_registered(lake, "flights", "champion")[0]


def table(lake: Lake, name: str) -> pl.DataFrame:
    return pl.read_delta(lake.table(name).root)


def features_of(lake: Lake) -> pl.DataFrame:
    return table(lake, champion(lake).spec.table)


def steps(values: npt.NDArray[Any], parts: int) -> npt.NDArray[np.float64]:
    """A number for each value's place: its power of two, then which of its parts; 0 for 0."""
    mantissa, exponent = np.frexp(np.abs(values.astype(np.float64)))
    place = (exponent + 1000) * parts + np.floor((2 * mantissa - 1) * parts)
    return np.where(values == 0, 0, np.sign(values) * place)


def psi(before: Sequence[float], after: Sequence[float]) -> float:
    p, q = np.maximum(before, FLOOR), np.maximum(after, FLOOR)
    return float(((q - p) * np.log(q / p)).sum())


def psi_of_numbers(train: npt.NDArray[Any], now: npt.NDArray[Any], parts: int = 8) -> float:
    """As docs/drift.md describes it."""
    before, after = steps(train, parts), steps(now, parts)
    values, rows = np.unique(before, return_counts=True)
    lasts, held = [], 0
    for place, share in enumerate(rows / len(before)):
        held += share
        following = rows[place + 1] / len(before) if place + 1 < len(rows) else 1
        if held >= LEAST or following >= LEAST:
            lasts.append(values[place])
            held = 0
    edges = [-np.inf, np.nextafter(values[0], -np.inf), *lasts, np.inf]
    shares = [
        [((side > low) & (side <= high)).mean() for low, high in pairwise(edges)]
        for side in (before, after)
    ]
    return psi(*shares)


def psi_of_ids(train: Sequence[int], now: Sequence[int]) -> float:
    before, after = Counter(train), Counter(now)
    groups: list[set[int]] = [set()]
    for id_, _ in sorted(before.items(), key=lambda item: (-item[1], item[0])):
        groups[-1].add(id_)
        if sum(before[one] for one in groups[-1]) >= LEAST * len(train):
            groups.append(set())
    groups[-1] |= set(after) - set(before)
    shares = [
        [sum(side[id_] for id_ in group) / sum(side.values()) for group in groups]
        for side in (before, after)
    ]
    return psi(*shares)


def digests(lake: Lake) -> dict[str, str]:
    """Each file under `predictions`, its log included, and what is in it."""
    root = Path(lake.table("predictions").root)
    return {
        path.relative_to(root).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in root.rglob("*")
        if path.is_file()
    }


def arrive(lake: Lake, rows: int, shift: float = 4.0) -> pl.DataFrame:
    """Features of new rows like those of the training, but for their distance, and some seats."""
    bundle = champion(lake)
    bit = 1 << bundle.spec.imputed_columns.index("seats")
    train = features_of(lake).filter(pl.col("split") == "train")
    came = train.sample(rows, seed=7).with_columns(
        num_distance=(pl.col("num_distance") + shift).cast(pl.Float32),
        _missing_0=pl.when(pl.int_range(pl.len()) % 2 == 0)
        .then(pl.col("_missing_0") | pl.lit(bit))
        .otherwise(pl.col("_missing_0")),
        flight=pl.col("flight") + 100_000,
        split=pl.lit("rest"),
        period=pl.lit("2014-01"),
    )
    root = lake.table(bundle.spec.table).root
    write_deltalake(root, came.to_arrow(), partition_by=["split", "period"], mode="append")
    return came


def measured(lake: Lake, newest: bool = True) -> pl.DataFrame:
    found = table(lake, "drift")
    assert (
        found.select("model_name", "model_version", "source_version", "scope", "feature", "kind")
        .is_unique()
        .all()
    )
    last = found["source_version"].max()
    return found.filter(pl.col("source_version") == last) if newest else found


def test_the_reference_is_the_train_split_by_other_means(scored: tuple[Lake, str]) -> None:
    lake, _ = scored
    bundle = champion(lake)
    assert bundle.reference is not None
    inputs, scores = bundle.reference.inputs, bundle.reference.scores
    train = features_of(lake).filter(pl.col("split") == "train")
    assert inputs.rows == scores.rows == train.height
    assert set(inputs.bins) == set(bundle.spec.feature_columns)
    for name in bundle.spec.numeric_columns:
        _, rows = np.unique(steps(train[name].to_numpy(), 8), return_counts=True)
        assert list(inputs.bins[name].values()) == rows.tolist(), name
    for name in bundle.spec.categorical_columns:
        assert inputs.bins[name] == Counter(train[name].to_list()), name
    clean = table(lake, "clean").join(train, on=list(bundle.spec.keys), how="semi")
    for name in ("distance", "temp", "wind_gust", "wind_dir", "pressure", "seats"):
        assert inputs.missing[name] == clean[name].null_count(), name
    assert inputs.missing["wind_gust"] > inputs.missing["seats"] > inputs.missing["distance"] == 0
    said = table(lake, "predictions").join(train, on=list(bundle.spec.keys), how="semi")
    _, rows = np.unique(steps(said["score"].to_numpy(), 32), return_counts=True)
    # In other blocks the network rounds otherwise.
    held = list(scores.bins["score"].values())
    assert sum(held) == train.height
    assert np.abs(np.array(held) - rows).sum() <= 4


def test_rows_like_those_of_the_training_drift_little(scored: tuple[Lake, str]) -> None:
    lake, _ = scored
    spec, found = champion(lake).spec, measured(lake)
    rows, said = features_of(lake), table(lake, "predictions")
    train = rows.filter(pl.col("split") == "train")
    assert found["feature"].to_list() == [*spec.feature_columns, "score"]
    assert found["rows"].unique().to_list() == [rows.height]
    assert found["scope"].unique().to_list() == ["new"]
    assert found["measured_at"].n_unique() == 1
    by_name = {row["feature"]: row for row in found.iter_rows(named=True)}
    for name in spec.numeric_columns:
        expected = psi_of_numbers(train[name].to_numpy(), rows[name].to_numpy())
        assert by_name[name]["psi"] == pytest.approx(expected, rel=1e-6, abs=1e-9), name
    for name in spec.categorical_columns:
        expected = psi_of_ids(train[name].to_list(), rows[name].to_list())
        assert by_name[name]["psi"] == pytest.approx(expected, rel=1e-6, abs=1e-9), name
    before = said.join(train, on=list(spec.keys), how="semi")["score"].to_numpy()
    expected = psi_of_numbers(before, said["score"].to_numpy(), 32)
    assert by_name["score"]["psi"] == pytest.approx(expected, abs=1e-3)
    for name in ("num_distance", "cat_carrier", "score"):
        assert (by_name[name]["psi"] < 0.05, by_name[name]["verdict"]) == (True, "ok")
    clean = table(lake, "clean")
    for name in ("temp", "wind_gust", "seats"):
        assert by_name[f"num_{name}"]["missing_rate"] == clean[name].null_count() / clean.height
    engine = by_name["cat_engine"]
    assert engine["missing_rate"] == (rows["cat_engine"] == 0).to_numpy().mean() > 0
    assert engine["unknown_rate"] == (rows["cat_engine"] == 1).mean()
    assert engine["reference_missing_rate"] == (train["cat_engine"] == 0).mean()


def test_a_shifted_feature_fails_before_anything_is_published(
    spark: SparkSession, lake: Lake
) -> None:
    train = features_of(lake).filter(pl.col("split") == "train")
    came, before = arrive(lake, 2000), digests(lake)
    root = Path(lake.root)
    strict = small_pipeline(root, "score.drift.psi.fail=1", "score.drift.missing_rate.fail=0.6")
    with pytest.raises(DriftError, match=r"num_distance: PSI is .*score\.drift\.psi\.fail is 1, o"):
        score(spark, strict, lake)
    assert digests(lake) == before
    found = measured(lake)
    by_name = {row["feature"]: row for row in found.iter_rows(named=True)}
    shifted = by_name["num_distance"]
    expected = psi_of_numbers(train["num_distance"].to_numpy(), came["num_distance"].to_numpy())
    assert shifted["psi"] == pytest.approx(expected)
    assert (shifted["verdict"], expected > 2) == ("fail", True)
    others = found.filter((pl.col("feature") != "num_distance") & (pl.col("kind") == "input"))
    assert others["psi"].to_numpy().max() < 0.05
    # Half of the rows lack seats, whatever they held before.
    lacking = (
        came["_missing_0"].to_numpy() >> champion(lake).spec.imputed_columns.index("seats")
    ) & 1
    assert by_name["num_seats"]["missing_rate"] == lacking.mean() >= 0.5
    assert others.filter(pl.col("verdict") == "warn")["feature"].to_list() == ["num_seats"]
    # Another threshold, on the other measure.
    strict = small_pipeline(root, "score.drift.missing_rate.fail=0.2")
    with pytest.raises(DriftError, match=r"num_seats: missing rate rose by .*missing_rate\.fail"):
        score(spark, strict, lake)
    assert digests(lake) == before
    # With the thresholds lifted it is published, with warnings.
    outcome = score(spark, small_pipeline(root), lake)
    assert outcome.counts["scored"] == 2000
    assert outcome.counts["drifted"] >= 2
    assert "drift: num_distance of flights@1, num_seats of flights@1" in outcome.note
    assert table(lake, "predictions").height == features_of(lake).height
    found = measured(lake)
    assert found.filter(pl.col("feature") == "num_distance")["verdict"].to_list() == ["warn"]
    assert found.height == others.height + 2


class Killed(BaseException):
    """As the process ends where it stands."""


def test_a_run_killed_after_its_drift_was_told_tells_it_once(
    spark: SparkSession, lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    arrive(lake, 500)
    commit = stage._commit

    def killed(*_: Any) -> int:
        raise Killed

    # Of so few rows nothing is said, whatever the threshold.
    pipeline = small_pipeline(Path(lake.root), "score.drift.psi.fail=1")
    monkeypatch.setattr(stage, "_commit", killed)
    before = digests(lake)
    with pytest.raises(Killed):
        score(spark, pipeline, lake)
    assert measured(lake)["rows"].unique().to_list() == [500]
    assert digests(lake) == before
    monkeypatch.setattr(stage, "_commit", commit)
    outcome = score(spark, pipeline, lake)
    assert outcome.counts == {"scored": 500}
    found = measured(lake)
    assert found["verdict"].unique().to_list() == ["few rows"]
    assert found.filter(pl.col("feature") == "num_distance")["psi"].item() > 2
    assert score(spark, pipeline, lake).unchanged
    assert measured(lake).equals(found)


def test_periods_scored_again_and_shadows_have_rows_of_their_own(
    spark: SparkSession, lake: Lake
) -> None:
    root, before = Path(lake.root), measured(lake)
    score(spark, small_pipeline(root), lake, span=Span("2013-10-01", "2013-11-30"))
    found = measured(lake, newest=False)
    again = found.filter(pl.col("scope") == "2013-10 to 2013-11")
    assert again["feature"].to_list() == before["feature"].to_list()
    rows = features_of(lake).filter(pl.col("period").is_in(["2013-10", "2013-11"]))
    assert again["rows"].unique().to_list() == [rows.height]
    assert found.filter(pl.col("scope") == "new").equals(before)
    # A shadow: the same network, registered once more.
    registry = Registry(lake, "flights")
    registry.register(str(registry._client.get_model_version("flights", "1").run_id))
    strict = ("score.drift.psi.fail=0.000001", *NEVER_WARN)
    pipeline = small_pipeline(root, "score.shadows=['flights@2']", *strict)
    outcome = score(spark, pipeline, lake)  # a shadow decides nothing
    assert outcome.counts["scored"] == features_of(lake).height
    both = measured(lake).filter(pl.col("scope") == "new")
    shadow = both.filter(pl.col("model_version") == 2)
    assert shadow["psi"].to_list() == both.filter(pl.col("model_version") == 1)["psi"].to_list()
    assert "fail" in shadow["verdict"].to_list()
    with pytest.raises(DriftError, match="model flights@2"):
        score(spark, pipeline, lake, models=["2"], span=Span("2013-10", "2013-10"))


def test_a_model_without_a_reference_scores_and_says_so(
    spark: SparkSession, trained_lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    def loaded(*given: Any) -> tuple[Bundle, int]:
        bundle, version = load_registered(*given)
        return replace(bundle, reference=None), version

    monkeypatch.setattr(models, "load_registered", loaded)
    outcome = score(spark, small_pipeline(Path(trained_lake.root)), trained_lake)
    assert "no drift is measured for flights@1" in outcome.note
    assert outcome.counts == {"scored": outcome.rows_out}
    assert not trained_lake.table("drift").exists


def test_the_command_shows_the_newest_pass(scored: tuple[Lake, str], tmp_path: Path) -> None:
    def lakestorm(root: Path | str, *options: str) -> str:
        given = ["drift", str(FLIGHTS), "--set", f"lake={root}", *options]
        ran = CliRunner().invoke(main, given)
        assert ran.exit_code == 0, ran.output
        return ran.output

    lake, _ = scored
    shown = lakestorm(lake.root)
    assert "drift of flights@1" in shown
    assert all(name in shown for name in ("num_distance", "cat_carrier", "score (scores)"))
    [told] = json.loads(lakestorm(lake.root, "--json"))["drift"]
    assert (told["model_name"], told["model_version"], told["scope"]) == ("flights", 1, "new")
    found = measured(lake)
    assert [each["psi"] for each in told["features"]] == found["psi"].to_list()
    assert "No drift was measured" in lakestorm(tmp_path)
