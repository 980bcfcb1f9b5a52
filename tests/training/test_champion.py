from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import log_loss, roc_auc_score

from pipeline.features.spec import FeatureSpec
from pipeline.lake import Lake, Snapshot
from pipeline.training import champion, stage
from pipeline.training.bundle import Bundle
from pipeline.training.champion import Arena, compare, judge
from pipeline.training.metrics import Metrics
from pipeline.training.networks import build
from pipeline.training.ranks import Ranks
from pipeline.training.registry import Registry
from tests.training import examples

SPEC, OTHER = examples.spec(), examples.spec(numeric=2, cardinalities=())
COUNTS = {"train": 300, "validation": 200, "test": 100}


def measured(value: float, rows: int = 4) -> Metrics:
    return Metrics(values={"auroc": value, "log_loss": value}, rows=rows)


@given(st.floats(0, 1), st.floats(0, 1), st.sampled_from(["auroc", "log_loss"]))
def test_of_two_at_most_one_wins_and_a_tie_keeps_the_champion(
    one: float, two: float, metric: str
) -> None:
    forth = judge(metric, measured(one), measured(two)).promote
    back = judge(metric, measured(two), measured(one)).promote
    assert forth + back == (one != two)
    assert forth == ((one > two) if metric == "auroc" else (one < two))
    assert not judge(metric, measured(one), measured(one)).promote


def test_without_a_figure_or_on_other_rows_nobody_wins() -> None:
    assert not judge("auroc", measured(math.nan), measured(0.5)).promote
    assert not judge("auroc", measured(0.5), measured(math.nan)).promote
    assert not judge("auroc", measured(0.9, rows=3), measured(0.5)).promote


def untrained(lake: Lake, spec: FeatureSpec, seed: int, version: int | None = None) -> Bundle:
    """A network of random weights, said to be trained on a version of the features."""
    if version is None:
        version = lake.table(spec.table).snapshot().version
    facts = examples.facts(spec, version)
    return Bundle(module=build(facts.architecture, seed).eval(), spec=spec, facts=facts)


class Judged:
    """Takes the place of `judge` and keeps what it was given."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.metrics: tuple[Metrics, Metrics] | None = None
        monkeypatch.setattr(champion, "judge", self)

    def __call__(self, metric: str, challenger: Metrics, champion: Metrics) -> champion.Verdict:
        self.metrics = (challenger, champion)
        return judge(metric, challenger, champion)


@pytest.fixture
def judged(monkeypatch: pytest.MonkeyPatch) -> Judged:
    return Judged(monkeypatch)


@pytest.fixture
def plain(tmp_path: Path) -> Lake:
    return Lake(tmp_path)


def arena(lake: Lake) -> Arena:
    def features_for(spec: FeatureSpec) -> Snapshot:
        return lake.table(spec.table).snapshot()

    return Arena(
        lake=lake,
        features_for=features_for,
        metric="auroc",
        seed=0,
        ranks=Ranks(),
        workers_count=1,
    )


def expected(bundle: Bundle, ids: range) -> tuple[float, float]:
    """AUROC and log-loss on some validation ids, computed without the lake."""
    table = examples.rows(COUNTS["train"], COUNTS["validation"], bundle.spec)
    table = table.slice(ids.start - COUNTS["train"], len(ids))
    with torch.inference_mode():
        logits = bundle.module(examples.inputs(bundle.spec, table))[:, 0].double().numpy()
    labels = table["late"].to_numpy()
    return roc_auc_score(labels, logits), log_loss(labels, 1 / (1 + np.exp(-logits)))


def check(judged: Judged, bundles: tuple[Bundle, Bundle], ids: range) -> None:
    assert judged.metrics is not None
    for found, bundle in zip(judged.metrics, bundles, strict=True):
        auroc, loss = expected(bundle, ids)
        assert found.rows == len(ids)
        assert found.values["auroc"] == pytest.approx(auroc, rel=1e-5)
        assert found.values["log_loss"] == pytest.approx(loss, rel=1e-5)


def test_models_of_one_spec_and_version_meet_on_all_validation_rows(
    plain: Lake, judged: Judged
) -> None:
    examples.write_features(plain, SPEC, COUNTS)
    bundles = untrained(plain, SPEC, 1), untrained(plain, SPEC, 2)
    compare(*bundles, arena(plain))
    check(judged, bundles, range(300, 500))


def test_models_of_two_specs_are_each_scored_with_their_own(plain: Lake, judged: Judged) -> None:
    examples.write_features(plain, SPEC, COUNTS)
    examples.write_features(plain, OTHER, COUNTS)
    bundles = untrained(plain, SPEC, 1), untrained(plain, OTHER, 2)
    compare(*bundles, arena(plain))
    check(judged, bundles, range(300, 500))


@pytest.mark.parametrize("champions", [SPEC, OTHER])
def test_rows_that_the_champion_was_trained_on_are_left_out(
    plain: Lake, judged: Judged, champions: FeatureSpec
) -> None:
    # The champion was trained on ids 0 to 449, of which the challenger validates on 300 to 499.
    examples.write_features(plain, champions, {"train": 450})
    trained_on = plain.table(champions.table).snapshot().version
    examples.write_features(plain, champions, COUNTS)
    examples.write_features(plain, SPEC, COUNTS)
    bundles = untrained(plain, SPEC, 1), untrained(plain, champions, 2, trained_on)
    compare(*bundles, arena(plain))
    check(judged, bundles, range(450, 500))


def test_rows_without_features_under_the_champions_spec_are_left_out(
    plain: Lake, judged: Judged
) -> None:
    examples.write_features(plain, SPEC, COUNTS)
    examples.write_features(plain, OTHER, {"train": 300})
    bundles = untrained(plain, SPEC, 1), untrained(plain, OTHER, 2)
    verdict = compare(*bundles, arena(plain))
    assert judged.metrics is not None
    assert [found.rows for found in judged.metrics] == [0, 0]
    assert not verdict.promote


def test_a_champion_whose_training_rows_are_gone_or_named_otherwise_stays(plain: Lake) -> None:
    examples.write_features(plain, SPEC, COUNTS)
    examples.write_features(plain, OTHER, COUNTS)
    challenger = untrained(plain, SPEC, 1)
    gone = compare(challenger, untrained(plain, OTHER, 2, version=77), arena(plain))
    assert not gone.promote
    assert "no longer" in gone.reason
    named = examples.spec(numeric=1, keys=("id", "num_n0"))
    examples.write_features(plain, named, COUNTS)
    otherwise = compare(challenger, untrained(plain, named, 2), arena(plain))
    assert not otherwise.promote
    assert "other keys" in otherwise.reason
    for path in Path(plain.root, OTHER.table).glob("split=train/*/*.parquet"):
        path.unlink()
    removed = compare(challenger, untrained(plain, OTHER, 2), arena(plain))
    assert "no longer" in removed.reason


def test_a_model_of_a_new_spec_replaces_a_worse_champion_of_an_old_one(lake: Lake) -> None:
    asked = []

    def features_for(spec: FeatureSpec) -> Snapshot:
        asked.append(spec)
        return lake.table(spec.table).snapshot()

    for spec in (OTHER, SPEC):
        examples.write_features(lake, spec, COUNTS)
    pipeline = examples.pipeline(lake, epochs=6)
    stage.train(pipeline, lake, OTHER, features_for=features_for)
    outcome = stage.train(pipeline, lake, SPEC, features_for=features_for)
    assert asked == [OTHER]
    assert outcome.version == 2
    assert "beats version 1" in outcome.note
    assert "on 200 validation rows" in outcome.note
    assert Registry(lake, "small").champion() == 2
