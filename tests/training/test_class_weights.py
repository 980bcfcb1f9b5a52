from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from sklearn.utils.class_weight import compute_class_weight

from pipeline.config import Pipeline, load_pipeline
from pipeline.errors import ConfigError, TrainingError
from pipeline.lake import Lake
from pipeline.training.class_weights import balanced, class_weights_of
from pipeline.training.job import Job
from tests.training import examples

SPEC = examples.spec(cardinalities=())
CLASSES: dict[str, Any] = {"task": "multiclass", "expression": "id", "classes": ["a", "b", "7"]}


def described(weights: Any, label: dict[str, Any] | None = None) -> Pipeline:
    given = examples.pipeline(Lake("anywhere")).model_dump(mode="json", exclude_defaults=True)
    given["train"]["class_weights"] = weights
    if label is not None:
        given["features"]["label"] = label
    return Pipeline.model_validate(given)


def test_balanced_is_scikit_learns() -> None:
    labels = np.random.default_rng(1).choice(4, 1000, p=[0.7, 0.2, 0.07, 0.03])
    expected = compute_class_weight("balanced", classes=np.arange(4), y=labels)
    assert balanced(np.bincount(labels), "abcd") == pytest.approx(expected.tolist(), rel=1e-15)
    with pytest.raises(TrainingError, match="class 'c' has no row in the train split"):
        balanced(np.array([3, 2, 0]), "abc")


def test_the_labels_of_the_train_split_are_counted_once(tmp_path: Path) -> None:
    lake = Lake(tmp_path)
    examples.write_features(lake, SPEC, {"train": 300, "validation": 90})
    examples.write_features(lake, SPEC, {"train": 200, "validation": 90}, 1000, "append")
    pipeline = examples.pipeline(lake, class_weights="balanced")
    version = lake.table(SPEC.table).snapshot().version
    job = Job(pipeline=pipeline, lake=lake, spec=SPEC, features_version=version)
    labels = job.split("train").arrow(["late"])["late"].to_numpy()
    assert len(labels) == 500
    expected = compute_class_weight("balanced", classes=np.array([0.0, 1.0]), y=labels)
    weighed = job.weighing()
    assert weighed.class_weights == pytest.approx(expected.tolist())
    assert weighed.objective.class_weights == weighed.class_weights
    weighed.folder.mkdir(parents=True)
    read = Job.read(weighed.write())
    assert read.class_weights == weighed.class_weights
    assert read.weighing() is read, "a rank counts nothing"
    assert read.fingerprint == job.fingerprint
    plain = Job(
        pipeline=examples.pipeline(lake), lake=lake, spec=SPEC, features_version=version
    ).weighing()
    assert plain.class_weights == ()
    assert plain.fingerprint != job.fingerprint


@pytest.mark.parametrize(
    ("label", "given", "expected"),
    [
        (None, {0: 1, 1: 5}, (1.0, 5.0)),
        (None, {False: 0.5, True: 2}, (0.5, 2.0)),
        (None, {"1": 3}, (1.0, 3.0)),
        (None, {"true": 3}, (1.0, 3.0)),
        (CLASSES, {7: 3, "a": 0.25}, (0.25, 1.0, 3.0)),
    ],
)
def test_classes_are_named_as_yaml_reads_them(
    label: dict[str, Any] | None, given: Any, expected: tuple[float, ...], tmp_path: Path
) -> None:
    pipeline = described(given, label)
    again = Pipeline.model_validate_json(pipeline.model_dump_json())
    assert again == pipeline
    lake = Lake(tmp_path)
    examples.write_features(lake, SPEC, {"train": 10})
    train = lake.table(SPEC.table).snapshot()
    setting = pipeline.train.class_weights
    assert class_weights_of(setting, pipeline.features.label, train) == expected


@pytest.mark.parametrize(
    ("label", "given", "told"),
    [
        (None, "even", "'even' is neither balanced nor a mapping of class to weight"),
        (None, {}, "{} is neither balanced nor"),
        (None, {"1": -1}, "the weight of class '1' is -1, not a number above 0"),
        (None, {"1": 0}, "the weight of class '1' is 0, not a number above 0"),
        (None, {"1": float("inf")}, "the weight of class '1' is inf"),
        (None, {"1": 10**400}, "the weight of class '1' is not between 1e-09 and"),
        (None, {"1": 1e-50}, "the weight of class '1' is not between 1e-09 and"),
        (None, {"1": True}, "the weight of class '1' is True"),
        (None, {"1": 2, 1: 3}, "names a class twice: 1, 1"),
        (None, {"1": 2, "true": 3}, "1, true name a class twice"),
        (None, {"2": 2}, "there is no class '2', only 0, false, 1, true"),
        (CLASSES, {"A": 2}, "there is no class 'A', only a, b, 7"),
        ({"task": "regression", "expression": "id"}, "balanced", "says nothing to the task regr"),
        ({"task": "multilabel", "expressions": {"x": "id"}}, {"x": 2}, "says nothing to the task"),
    ],
)
def test_weights_that_cannot_be_are_refused(
    label: dict[str, Any] | None, given: Any, told: str
) -> None:
    with pytest.raises(ValueError, match=told.replace("{", r"\{")):
        described(given, label)


def test_a_task_that_does_not_exist_is_refused_with_those_that_do() -> None:
    with pytest.raises(ValueError, match=r"no task 'regresion', only binary, .*mean regression\?"):
        described(None, {"task": "regresion", "expression": "id"})


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("balanced", "balanced"),
        ("{0: 1, 1: 4.5}", {"0": 1.0, "1": 4.5}),
        ("{false: 1, true: 4.5}", {"false": 1.0, "true": 4.5}),
        ("{true: 2}", {"true": 2.0}),
    ],
)
def test_a_file_may_name_classes_as_numbers_or_truths(
    tmp_path: Path, written: str, expected: Any
) -> None:
    file = tmp_path / "small.yaml"
    given = described(None).model_dump(mode="json", exclude_defaults=True)
    given["train"].pop("class_weights", None)
    text = yaml.safe_dump(given, sort_keys=False)
    file.write_text(text.replace("\ntrain:\n", f"\ntrain:\n  class_weights: {written}\n"))
    assert load_pipeline(file).train.class_weights == expected


def test_a_file_that_is_wrong_is_one_clear_error(tmp_path: Path) -> None:
    file = tmp_path / "small.yaml"
    given = described(None).model_dump(mode="json", exclude_defaults=True)
    for section, key, value, told in (
        ("train", "class_weights", {"2": 1}, r"there is no class '2', only 0, false, 1, true"),
        ("train", "class_weights", {"1": "x"}, r"class_weights: .*the weight of class '1' is 'x'"),
        ("features", "weight", "", r"features\.weight"),
    ):
        wrong = {**given, section: {**given[section], key: value}}
        file.write_text(yaml.safe_dump(wrong, sort_keys=False))
        with pytest.raises(ConfigError, match=told):
            load_pipeline(file)
    label = {"task": "regresion", "expression": "id"}
    wrong = {**given, "features": {**given["features"], "label": label}}
    file.write_text(yaml.safe_dump(wrong, sort_keys=False))
    told = (
        r"features\.label\.task: .*no task 'regresion', only binary, multiclass, multilabel, regr"
    )
    with pytest.raises(ConfigError, match=told):
        load_pipeline(file)
