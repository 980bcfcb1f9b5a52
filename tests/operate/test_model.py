from __future__ import annotations

import math

import pytest

from pipeline.config import METRICS
from pipeline.lake import Lake
from pipeline.operate.report import model
from pipeline.operate.report.model import TrainedModel, trained_model
from tests.operate.examples import BINARY, SPEC, Small, pipeline


def _with_metric(lake: Lake, metric: str | None) -> TrainedModel:
    described = pipeline(lake)
    train = described.train.model_copy(update={"metric": metric})
    model, spec = trained_model(lake, described.model_copy(update={"train": train}))
    assert spec == SPEC
    return model


def test_the_pipelines_metric_tells_the_best_epoch_whichever_way_is_up(small: Small) -> None:
    by_default = _with_metric(small.lake, None)
    assert (by_default.version, by_default.aliases) == (1, ("champion",))
    assert [epoch.validation for epoch in by_default.epochs] == BINARY
    assert [epoch.number for epoch in by_default.epochs] == [1, 2, 3]
    best = {metric: _with_metric(small.lake, metric).best for metric in (None, "log_loss", "rmse")}
    # One of another task, such as the pipeline's next model will have, says nothing of this one.
    numbers = {metric: epoch and epoch.number for metric, epoch in best.items()}
    assert numbers == {None: 2, "log_loss": 3, "rmse": 2}


def test_a_metric_that_is_newer_than_the_model_leaves_its_epochs_as_they_are(
    small: Small, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = _with_metric(small.lake, "log_loss")
    names = METRICS["binary"]
    monkeypatch.setattr(model, "METRICS", {"binary": ("new", *names)})
    for chosen in ("new", None):  # neither as the one chosen nor as the first one does it decide
        after = _with_metric(small.lake, chosen)
        assert after.metric == "auroc"
        assert [epoch.train_loss for epoch in after.epochs] == [
            epoch.train_loss for epoch in before.epochs
        ]
        for epoch, known in zip(after.epochs, BINARY, strict=True):
            assert math.isnan(epoch.validation["new"])
            assert {name: epoch.validation[name] for name in names} == known
