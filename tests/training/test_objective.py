from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from pipeline.config import LOSSES, TaskName
from pipeline.training.objective import Objective
from pipeline.training.splits import Rows

RANDOM = np.random.default_rng(3)
OUT = RANDOM.normal(size=(5, 4))
FLAGS = (RANDOM.random((5, 4)) < 0.5).astype(float)
VALUES = RANDOM.normal(size=5)
CLASSES = RANDOM.integers(0, 4, 5)
PIXELS = RANDOM.integers(0, 256, (5, 2, 3))
LATENT = 2


def bce(logits: Any, labels: Any) -> Any:
    return np.logaddexp(0, logits) - labels * logits


def sigmoid(logits: Any) -> Any:
    return 1 / (1 + np.exp(-logits))


def rows(labels: Any, rows: int = 5) -> Rows:
    inputs = {"image": torch.tensor(PIXELS[:rows], dtype=torch.uint8)}
    return Rows(
        inputs=inputs, labels=None if labels is None else torch.tensor(labels[:rows]), rows=rows
    )


def softmax(logits: Any) -> Any:
    return np.exp(logits) / np.exp(logits).sum(1, keepdims=True)


ERRORS = OUT[:, 0] - VALUES
MEAN, LOG_VARIANCE = RANDOM.normal(size=(2, 5, LATENT))
REBUILT = RANDOM.normal(size=(5, 6))
KL = 0.5 * (MEAN**2 + np.exp(LOG_VARIANCE) - 1 - LOG_VARIANCE).sum()
TARGET = PIXELS.reshape(5, 6) / 255
CODED = np.concatenate([REBUILT, MEAN, LOG_VARIANCE], axis=1)
HUBER = np.where(np.abs(ERRORS) < 1, ERRORS**2 / 2, np.abs(ERRORS) - 0.5)

CASES: list[tuple[TaskName, str, Any, Any, float]] = [
    ("binary", "bce", OUT[:, :1], FLAGS[:, 0], bce(OUT[:, 0], FLAGS[:, 0]).sum()),
    (
        "multiclass",
        "cross_entropy",
        OUT,
        CLASSES,
        -np.log(softmax(OUT)[np.arange(5), CLASSES]).sum(),
    ),
    ("multilabel", "bce", OUT, FLAGS, bce(OUT, FLAGS).sum() / 4),
    ("regression", "mse", OUT[:, :1], VALUES, (ERRORS**2).sum()),
    ("regression", "mae", OUT[:, :1], VALUES, np.abs(ERRORS).sum()),
    ("regression", "huber", OUT[:, :1], VALUES, HUBER.sum()),
    ("reconstruction", "bce", CODED, None, bce(REBUILT, TARGET).sum() + KL),
    ("reconstruction", "mse", CODED, None, ((REBUILT - TARGET) ** 2).sum() + KL),
]


@pytest.mark.parametrize(("task", "loss", "outputs", "labels", "expected"), CASES)
def test_the_loss_is_numpys_sum_over_rows(
    task: TaskName, loss: str, outputs: Any, labels: Any, expected: float
) -> None:
    objective = Objective.of(task, loss, None)
    out = torch.tensor(outputs, requires_grad=True)
    assert objective.loss_sum(out, rows(labels)).item() == pytest.approx(expected)
    nothing = objective.loss_sum(out[:0], rows(labels, 0))
    nothing.backward()
    assert nothing.item() == 0
    assert out.grad is not None
    assert (out.grad == 0).all()


def test_every_loss_of_every_task_is_among_the_cases() -> None:
    assert {(task, loss) for task, losses in LOSSES.items() for loss in losses} == {
        case[:2] for case in CASES
    }


def test_predictions_are_numpys() -> None:
    def told(task: TaskName, outputs: Any) -> dict[str, Any]:
        objective = Objective.of(task, None, None)
        found = objective.predictions(torch.tensor(outputs), rows(None))
        return {name: values.numpy() for name, values in found.items()}

    np.testing.assert_allclose(told("binary", OUT[:, :1])["score"], sigmoid(OUT[:, 0]))
    np.testing.assert_allclose(told("regression", OUT[:, :1])["score"], OUT[:, 0])
    np.testing.assert_allclose(told("multilabel", OUT)["probabilities"], sigmoid(OUT))
    found = told("multiclass", OUT)
    np.testing.assert_allclose(found["probabilities"], softmax(OUT))
    np.testing.assert_array_equal(found["class"], OUT.argmax(1))
    np.testing.assert_allclose(found["score"], softmax(OUT).max(1))
    found = told("reconstruction", CODED)
    np.testing.assert_array_equal(found["latent"], MEAN)
    assert found["score"].sum() == pytest.approx(bce(REBUILT, TARGET).sum() + KL)
