from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from mlflow import MlflowClient

from pipeline.errors import ConfigError, ModelError, TableNotFoundError, TrainingError
from pipeline.features.spec import FeatureSpec
from pipeline.lake import Lake, Snapshot
from pipeline.outcome import Outcome
from pipeline.training import stage
from pipeline.training.job import choose_device
from pipeline.training.registry import Registry, load_registered
from tests.training import examples
from tests.training.conftest import NewMlflow

SPEC = examples.spec()
COUNTS = {"train": 400, "validation": 200, "test": 100}


def never(_spec: FeatureSpec) -> Snapshot:
    raise AssertionError("features of another spec were asked for without need")


def train(lake: Lake, spec: FeatureSpec = SPEC, features_for: Any = never, **how: Any) -> Outcome:
    return stage.train(examples.pipeline(lake, **how), lake, spec, features_for=features_for)


class Killed(BaseException):
    """Stands for SIGKILL: nothing here may catch it and go on."""


def cut(call: Any, before: bool) -> Any:
    def until_killed(*args: Any, **kwargs: Any) -> None:
        if not before:
            call(*args, **kwargs)
        raise Killed

    return until_killed


@pytest.fixture
def filled(lake: Lake) -> Lake:
    examples.write_features(lake, SPEC, COUNTS)
    return lake


def test_the_first_model_is_registered_and_champion(filled: Lake) -> None:
    outcome = train(filled)
    assert (outcome.stage, outcome.table, outcome.version) == ("train", "small", 1)
    assert (outcome.rows_in, outcome.rows_out, outcome.unchanged) == (400, 400, False)
    assert {name: values["rows"] for name, values in outcome.metrics.items()} == {
        "validation": 200,
        "test": 100,
    }
    for values in outcome.metrics.values():
        assert set(values) == {"auroc", "log_loss", "accuracy", "rows"}
        assert values["auroc"] > 0.7
    bundle, version = load_registered(filled, "small", "champion")
    assert version == 1
    assert bundle.spec == SPEC
    assert bundle.facts.features_table == SPEC.table
    assert not bundle.module.training
    assert Registry(filled, "small").champion() == 1


def test_the_run_is_described_in_mlflow(filled: Lake) -> None:
    train(filled, epochs=2)
    client = Registry(filled, "small")._client
    [version] = client.search_model_versions("name='small'")
    run = client.get_run(str(version.run_id))
    assert run.info.status == "FINISHED"
    assert run.data.params["train.model.hidden"] == "[8]"
    assert run.data.params["seed"] == "5"
    assert run.data.tags["spec_hash"] == SPEC.hash
    assert run.data.tags["data_version"] == str(filled.table(SPEC.table).snapshot().version)
    for name in ("train/loss", "validation/auroc", "validation/log_loss", "validation/accuracy"):
        assert [m.step for m in client.get_metric_history(run.info.run_id, name)] == [0, 1]


def test_training_again_changes_nothing_and_says_so(filled: Lake) -> None:
    first = train(filled)
    again = train(filled, checkpoint_every_steps=7, stream_workers=1)
    assert again.unchanged
    assert (again.version, again.metrics) == (first.version, first.metrics)
    assert not train(filled, learning_rate=0.02).unchanged


def test_other_data_is_another_training_but_rows_outside_the_splits_are_not(filled: Lake) -> None:
    train(filled, epochs=1)
    examples.write_features(filled, SPEC, {"rest": 50}, first_id=9000, mode="append")
    assert train(filled, epochs=1).unchanged
    examples.write_features(filled, SPEC, {"train": 50}, first_id=10_000, mode="append")
    assert train(filled, epochs=1).version == 2


def test_a_stage_cut_off_at_any_mark_is_finished_by_the_next_call(
    filled: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(filled, epochs=1, learning_rate=1e-6)
    marks = ["log_artifacts", "set_tag", "create_model_version", "set_registered_model_alias"]
    marks += ["set_terminated", "set_model_version_tag"]
    for mark in marks:
        for before in (True, False):  # cut off just before the call, then just after it
            with monkeypatch.context() as patch:
                patch.setattr(MlflowClient, mark, cut(getattr(MlflowClient, mark), before))
                with pytest.raises(Killed):
                    train(filled)
            is_set = (marks.index(mark), not before) >= (3, True)
            assert Registry(filled, "small").champion() == (2 if is_set else 1)
    outcome = train(filled)
    assert outcome.unchanged
    assert (outcome.version, outcome.metrics["validation"]["rows"]) == (2, 200)
    assert load_registered(filled, "small", "champion")[1] == 2
    client = Registry(filled, "small")._client
    assert len(client.search_model_versions("name='small'")) == 2
    [experiment] = [e for e in client.search_experiments() if e.name == "small"]
    runs = client.search_runs([experiment.experiment_id])
    assert {run.info.status for run in runs} == {"FINISHED"}
    assert len(runs) == 2


def test_a_better_model_becomes_champion_and_a_worse_one_does_not(filled: Lake) -> None:
    train(filled, epochs=1, learning_rate=1e-5)
    better = train(filled)
    assert Registry(filled, "small").champion() == 2
    assert "version 2 beats version 1" in better.note
    worse = train(filled, epochs=1, learning_rate=1e-6)
    assert worse.version == 3
    assert Registry(filled, "small").champion() == 2
    assert "leaves 2 champion" in worse.note


def test_a_reference_that_is_not_there_is_answered_with_what_is(filled: Lake) -> None:
    with pytest.raises(ModelError, match=r"versions: none.*lakestorm train"):
        load_registered(filled, "small", "champion")
    train(filled, epochs=1)
    for reference in ("2", "best", "-1", "1.0"):
        with pytest.raises(ModelError, match=r"versions: 1; aliases: champion \(1\)"):
            load_registered(filled, "small", reference)
    assert load_registered(filled, "small", "1")[1] == 1


def test_a_damaged_registered_model_is_refused(filled: Lake) -> None:
    train(filled, epochs=1)
    [weights] = Path(filled.root).glob("mlflow-artifacts/*/artifacts/model/weights.safetensors")
    weights.write_bytes(weights.read_bytes()[:-1])
    with pytest.raises(ModelError, match="damaged"):
        load_registered(filled, "small", "champion")


@pytest.mark.parametrize("split", ["train", "validation"])
def test_an_empty_split_is_an_error_that_names_its_setting(lake: Lake, split: str) -> None:
    counts = {name: 0 if name == split else 100 for name in ("train", "validation", "test")}
    examples.write_features(lake, SPEC, counts)
    with pytest.raises(TrainingError, match=rf"features\.splits\.{split}"):
        train(lake)


def test_without_test_rows_their_metrics_are_no_numbers(lake: Lake) -> None:
    examples.write_features(lake, SPEC, {"train": 200, "validation": 100})
    for outcome in (train(lake, epochs=1), train(lake, epochs=1)):
        assert outcome.metrics["test"]["rows"] == 0
        assert math.isnan(outcome.metrics["test"]["auroc"])


def test_features_that_are_not_there_are_an_error(lake: Lake) -> None:
    with pytest.raises(TableNotFoundError):
        train(lake)


def test_a_gpu_that_is_not_there_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match=r"train\.device"):
        choose_device("cuda")
    assert choose_device("auto").type == "cpu"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert choose_device("auto").type == "cuda"
    assert choose_device("cpu").type == "cpu"


def test_a_registry_out_of_reach_is_an_error_without_its_password(
    filled: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://somebody:secret@127.0.0.1:9")
    with pytest.raises(ModelError, match="MLFLOW_TRACKING_URI") as caught:
        train(filled)
    assert "secret" not in str(caught.value)


def test_mlflow_keeps_quiet_and_leaves_nothing_in_the_working_directory(
    new_mlflow: NewMlflow,
) -> None:
    assert new_mlflow.shown == ""
    assert new_mlflow.left_in_working_directory == []
    assert [path.name for path in new_mlflow.database.parent.iterdir()] == ["mlflow.db"]
