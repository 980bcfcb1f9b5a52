from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sk

from pipeline.config import TaskName
from pipeline.training.metrics import Meter, is_better
from pipeline.training.tasks import TASKS
from pipeline.training.tasks.multiclass import f1

# Few values, so that ties are frequent; large ones, which float32 probabilities would tie.
predictions = st.lists(
    st.tuples(st.sampled_from([-40.0, -2.0, -0.5, 0.0, 0.25, 0.5, 0.75, 3.0, 25.0]), st.booleans()),
    min_size=1,
    max_size=60,
)


def pairs_won(scores: list[float], labels: list[bool]) -> float:
    """AUROC by its definition: the share of (positive, negative) pairs in the right order."""
    positive = [s for s, label in zip(scores, labels, strict=True) if label]
    negative = [s for s, label in zip(scores, labels, strict=True) if not label]
    won = [1.0 if p > n else 0.5 if p == n else 0.0 for p in positive for n in negative]
    return sum(won) / len(won) if won else math.nan


@settings(max_examples=60, deadline=None)
@given(predictions, st.integers(1, 20))
def test_metrics_are_exact_however_rows_are_batched(
    rows: list[tuple[float, bool]], size: int
) -> None:
    logits, labels = [row[0] for row in rows], [row[1] for row in rows]
    meter = Meter("binary")
    for start in range(0, len(rows), size):
        outputs = torch.tensor(logits[start : start + size], dtype=torch.float64).reshape(-1, 1)
        truth = torch.tensor(labels[start : start + size], dtype=torch.float32)
        meter.update(TASKS["binary"].evidence("bce", outputs, truth))
    metrics = meter.compute()
    signs = np.where(labels, -1.0, 1.0)
    assert metrics.rows == len(rows)
    assert metrics.values["auroc"] == pytest.approx(
        pairs_won(logits, labels), abs=1e-12, nan_ok=True
    )
    expected = np.logaddexp(0, signs * np.array(logits)).mean()
    assert metrics.values["log_loss"] == pytest.approx(expected, rel=1e-12)
    right = [(logit > 0) == label for logit, label in rows]
    assert metrics.values["accuracy"] == pytest.approx(np.mean(right), rel=1e-12)


def test_no_rows_give_no_figures() -> None:
    metrics = Meter("binary").compute()
    assert metrics.rows == 0
    assert math.isnan(metrics.values["auroc"])
    assert math.isnan(metrics.values["log_loss"])


@pytest.mark.parametrize("task", sorted(TASKS))
def test_outputs_that_are_no_numbers_give_no_figures(task: TaskName) -> None:
    """Ranks and most probable classes of NaN would look as good as any."""
    definition, loss = TASKS[task], next(iter(TASKS[task].losses))
    outputs = torch.zeros(4, 2 if task == "multiclass" else 1, dtype=torch.float64)
    truth = torch.tensor([0.0, 1.0, 0.0, 1.0]).reshape(4, -1)
    if task == "reconstruction":
        outputs = torch.zeros(4, 3, dtype=torch.float64)
    elif task in ("binary", "multiclass"):
        truth = truth[:, 0]
    for broken in (False, True):
        meter = Meter(task)
        outputs[2] = math.nan if broken else 0
        meter.update(definition.evidence(loss, outputs, truth))
        metrics = meter.compute()
        assert metrics.rows == 4
        assert all(map(math.isnan, metrics.values.values())) == broken


def test_f1_of_a_million_classes() -> None:
    """A count for each pair of classes would take 8 TB."""
    random = np.random.default_rng(0)
    labels = random.integers(0, 1_000_000, 200)
    said = np.where(random.random(200) < 0.7, labels, random.integers(0, 1_000_000, 200))
    rows = torch.tensor(np.stack([np.zeros(200), said, labels], axis=1))
    assert f1(rows) == pytest.approx(sk.f1_score(labels, said, average="macro"), abs=1e-12)


CLASSES = 4


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 40), st.integers(1, 20), st.integers(0, 2**31 - 1))
def test_metrics_of_every_task_are_scikit_learns(rows: int, size: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    several = random.normal(size=(rows, CLASSES)).astype(np.float32)
    of_class = random.integers(0, CLASSES, rows)
    flags = (random.random((rows, CLASSES)) < 0.5).astype(np.float32)
    values = random.normal(size=rows).astype(np.float32)

    def measured(task: TaskName, outputs: Any, labels: Any) -> Mapping[str, float]:
        meter = Meter(task)
        for start in range(0, rows, size):
            part = slice(start, start + size)
            own, truth = torch.tensor(outputs[part]).double(), torch.tensor(labels[part])
            meter.update(TASKS[task].evidence("", own, truth))
        assert meter.compute().rows == rows
        return meter.compute().values

    exact = several.astype(np.float64)
    found = measured("multiclass", several, of_class)
    shares = np.exp(exact) / np.exp(exact).sum(1, keepdims=True)
    assert found["accuracy"] == pytest.approx(np.mean(exact.argmax(1) == of_class))
    assert found["log_loss"] == pytest.approx(-np.log(shares[np.arange(rows), of_class]).mean())
    assert found["f1"] == pytest.approx(
        sk.f1_score(of_class, exact.argmax(1), average="macro"), abs=1e-12
    )
    found = measured("multilabel", several, flags)
    assert found["accuracy"] == pytest.approx(np.mean((exact > 0) == (flags > 0.5)))
    if (flags.min(0) < flags.max(0)).all():
        assert found["auroc"] == pytest.approx(sk.roc_auc_score(flags, exact), abs=1e-12)
    found = measured("regression", several[:, :1], values)
    guess, truth = exact[:, 0], values.astype(np.float64)
    assert found["rmse"] == pytest.approx(sk.root_mean_squared_error(truth, guess))
    assert found["mae"] == pytest.approx(sk.mean_absolute_error(truth, guess))
    if rows > 1:
        assert found["r2"] == pytest.approx(sk.r2_score(truth, guess), rel=1e-5)


@pytest.mark.parametrize(("metric", "higher"), [("auroc", True), ("rmse", False), ("f1", True)])
def test_better_is_higher_or_lower_by_the_metric(metric: str, higher: bool) -> None:
    assert is_better(metric, 0.7, 0.5) == higher
    assert is_better(metric, 0.5, 0.7) != higher
    assert not is_better(metric, 0.5, 0.5)
    assert is_better(metric, 0.5, math.nan)
    assert not is_better(metric, math.nan, 0.5)
