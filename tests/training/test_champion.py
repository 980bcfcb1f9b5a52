from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipeline.features.spec import FeatureSpec
from pipeline.lake import Lake, Snapshot
from pipeline.training import champion, stage
from pipeline.training.bundle import Bundle, Facts
from pipeline.training.champion import Arena, Scored, compare, judge
from pipeline.training.model import Architecture, build
from pipeline.training.registry import Registry
from tests.training import examples

SPEC, OTHER = examples.spec(), examples.spec(numeric=2, cardinalities=())
COUNTS = {"train": 300, "validation": 200, "test": 100}


@given(st.permutations([0.1, 0.2, 0.3, 0.4]), st.permutations([0.1, 0.2, 0.3, 0.4]))
def test_of_two_at_most_one_wins_and_a_tie_keeps_the_champion(
    one: list[float], two: list[float]
) -> None:
    labels = [0, 0, 1, 1]
    forth = judge(Scored(scores=one, labels=labels), Scored(scores=two, labels=labels)).promote
    back = judge(Scored(scores=two, labels=labels), Scored(scores=one, labels=labels)).promote
    assert not (forth and back)
    assert not judge(Scored(scores=one, labels=labels), Scored(scores=one, labels=labels)).promote


def test_without_both_classes_nobody_wins() -> None:
    alone = Scored(scores=[0.9], labels=[1])
    nobody = Scored(scores=[], labels=[])
    assert not judge(alone, alone).promote
    assert not judge(nobody, nobody).promote


def untrained(lake: Lake, spec: FeatureSpec, seed: int, version: int | None = None) -> Bundle:
    """A network of random weights, said to be trained on a version of the features."""
    architecture = Architecture(
        family="mlp",
        numeric_width=len(spec.numeric_columns),
        cardinalities=spec.cardinalities,
        hidden=(4,),
        embedding_dimension=2,
        dropout=0.0,
    )
    if version is None:
        version = lake.table(spec.table).snapshot().version
    facts = Facts(
        architecture=architecture,
        spec_hash=spec.hash,
        features_table=spec.table,
        features_version=version,
        label="late",
    )
    return Bundle(module=build(architecture, seed).eval(), spec=spec, facts=facts)


class Judged:
    """Takes the place of `judge` and keeps what it was given."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.rows: tuple[Scored, Scored] | None = None
        monkeypatch.setattr(champion, "judge", self)

    def __call__(self, challenger: Scored, champion: Scored) -> champion.Verdict:
        self.rows = (challenger, champion)
        return judge(challenger, champion)


@pytest.fixture
def judged(monkeypatch: pytest.MonkeyPatch) -> Judged:
    return Judged(monkeypatch)


@pytest.fixture
def plain(tmp_path: Path) -> Lake:
    return Lake(tmp_path)


def arena(lake: Lake) -> Arena:
    def features_for(spec: FeatureSpec) -> Snapshot:
        return lake.table(spec.table).snapshot()

    return Arena(lake=lake, features_for=features_for, device=torch.device("cpu"), workers_count=1)


def expected(bundle: Bundle, ids: range) -> tuple[list[float], list[float]]:
    """Scores and labels of some validation ids, computed without the lake, sorted."""
    table = examples.rows(COUNTS["train"], COUNTS["validation"], bundle.spec)
    table = table.slice(ids.start - COUNTS["train"], len(ids))
    numeric = [torch.tensor(table[name].to_numpy()) for name in bundle.spec.numeric_columns]
    ids_of = [torch.tensor(table[name].to_numpy()) for name in bundle.spec.categorical_columns]
    empty = torch.empty((len(ids), 0), dtype=torch.int32)
    categorical = torch.stack(ids_of, dim=1) if ids_of else empty
    with torch.inference_mode():
        scores = bundle.module(torch.stack(numeric, dim=1), categorical)
    return sorted(scores.tolist()), sorted(table["late"].to_pylist())


def check(judged: Judged, bundles: tuple[Bundle, Bundle], ids: range) -> None:
    assert judged.rows is not None
    for found, bundle in zip(judged.rows, bundles, strict=True):
        scores, labels = expected(bundle, ids)
        assert sorted(torch.as_tensor(found.scores).tolist()) == pytest.approx(scores, rel=1e-5)
        assert sorted(torch.as_tensor(found.labels).tolist()) == labels


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
    assert judged.rows is not None
    assert [len(torch.as_tensor(found.scores)) for found in judged.rows] == [0, 0]
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
