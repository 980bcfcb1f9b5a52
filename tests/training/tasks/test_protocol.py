"""What every task promises the rest of the system, asked of each in `TASKS`."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from pyspark.sql import SparkSession
from pyspark.sql.types import ArrayType, BinaryType, DoubleType, StringType, StructField, StructType
from torch import Tensor

from pipeline.config import Label
from pipeline.lake.schema import to_spark
from pipeline.operate.report.measured import Measured
from pipeline.operate.report.stage import _PARTS
from pipeline.training.histograms import Tally, score_columns
from pipeline.training.metrics import Meter
from pipeline.training.objective import Objective
from pipeline.training.splits import Rows
from pipeline.training.tasks import LOSSES, METRICS, TASKS

SETTINGS: dict[str, Any] = {
    "expression": "delay",
    "classes": ("a", "b", "c"),
    "expressions": {"x": "delay > 1", "y": "delay > 2"},
}
ROWS, PIXELS, LATENT = 40, 6, 2


def label_of(name: str) -> Label:
    """A label with all that its task asks for."""
    return Label(task=name, **{asked: SETTINGS[asked] for asked in TASKS[name].asks})


def example(name: str, weights: Tensor | None = None) -> tuple[Tensor, Rows]:
    """Outputs of a network, and rows with labels that the task allows."""
    random = np.random.default_rng(7)
    label, task = label_of(name), TASKS[name]
    width = task.outputs(label) or PIXELS + 2 * LATENT
    outputs = torch.tensor(random.normal(size=(ROWS, width)), dtype=torch.float32)
    classes = task.class_names(label)
    labels: Any = random.integers(0, 5, ROWS).astype(np.float32)  # numbers that are counts, too
    if classes:
        labels = random.integers(0, len(classes), ROWS).astype(np.int32)
    elif task.label_is_matrix:
        labels = random.integers(0, 2, (ROWS, len(task.columns(label)))).astype(np.float32)
    image = torch.tensor(random.integers(0, 256, (ROWS, 2, 3)), dtype=torch.uint8)
    return outputs, Rows(
        inputs={"image": image},
        labels=None if task.rebuilds else torch.tensor(labels),
        weights=weights,
        rows=ROWS,
    )


each = pytest.mark.parametrize("name", TASKS)


@each
def test_a_label_needs_what_its_task_asks_for_and_nothing_else(name: str) -> None:
    given = {asked: SETTINGS[asked] for asked in TASKS[name].asks}
    for setting, value in SETTINGS.items():
        if setting in given:
            rest = {key: given[key] for key in given.keys() - {setting}}
            with pytest.raises(ValueError, match=f"{setting} is missing for the task {name}"):
                Label(task=name, **rest)
        else:
            more = {**given, setting: value}
            with pytest.raises(ValueError, match=f"{setting} says nothing to the task {name}"):
                Label(task=name, **more)
    label = label_of(name)
    assert len(label.columns) == len(TASKS[name].expressions(label))
    assert (label.outputs == 0) == TASKS[name].rebuilds == (label.columns == ())


@pytest.mark.parametrize(("name", "loss"), [(n, loss) for n in TASKS for loss in LOSSES[n]])
def test_every_loss_has_a_gradient_and_weighs_rows(name: str, loss: str) -> None:
    objective = Objective.of(name, loss, None)

    def learned(weights: Tensor | None, kept: slice = slice(None)) -> tuple[Tensor, Tensor]:
        outputs, rows = example(name, weights)
        outputs = outputs[kept].requires_grad_()
        [part] = [rows] if kept == slice(None) else rows.pieces(2)[:1]
        total = objective.loss_sum(outputs, part)
        total.backward()
        assert outputs.grad is not None
        return total.detach(), outputs.grad

    plain, gradient = learned(None)
    assert math.isfinite(plain)
    assert torch.isfinite(gradient).all()
    assert gradient.abs().sum() > 0
    # Weights of 1 are no weights, to the last bit; so are weights of 2 of twice the loss.
    for factor in (1.0, 2.0):
        same, same_gradient = learned(torch.full((ROWS,), factor))
        assert torch.equal(same, factor * plain)
        assert torch.equal(same_gradient, factor * gradient)
    half = torch.cat([torch.ones(ROWS // 2), torch.zeros(ROWS // 2)])
    total, own = learned(half)
    first, of_first = learned(None, slice(ROWS // 2))
    torch.testing.assert_close(total, first)
    torch.testing.assert_close(own[: ROWS // 2], of_first)
    assert (own[ROWS // 2 :] == 0).all()


@each
def test_every_metric_is_computed_and_known_by_its_name(name: str) -> None:
    objective, meter = Objective.of(name, None, None), Meter(name)
    outputs, rows = example(name)
    meter.update(objective.evidence(outputs, rows))
    metrics = meter.compute()
    assert tuple(metrics.values) == METRICS[name]
    assert all(math.isfinite(value) for value in metrics.values.values())
    assert objective.metric == METRICS[name][0]
    assert objective.loss == LOSSES[name][0]
    words = TASKS[name].words
    assert words.loss_metric in (None, *METRICS[name])
    weighted = example(name, torch.rand(ROWS))[1]
    assert torch.equal(objective.evidence(outputs, weighted), objective.evidence(outputs, rows))


def test_tasks_that_share_a_metric_agree_on_what_is_better() -> None:
    told: dict[str, set[tuple[bool, str | None]]] = {}
    for task in TASKS.values():
        for metric in task.metrics:
            told.setdefault(metric.name, set()).add((metric.lower_is_better, metric.shown))
    assert {name: facts for name, facts in told.items() if len(facts) > 1} == {}


@each
def test_predictions_are_of_the_types_that_their_columns_have(name: str) -> None:
    outputs, rows = example(name)
    said = Objective.of(name, None, None).predictions(outputs, rows)
    columns = TASKS[name].prediction_columns()
    assert said.keys() == columns.keys()
    for column, kind in columns.items():
        tensor = said[column]
        assert len(tensor) == ROWS
        assert tensor.ndim == (2 if pa.types.is_list(kind) else 1)
        assert tensor.is_floating_point() != pa.types.is_string(kind)
        if pa.types.is_string(kind):
            assert set(tensor.tolist()) <= set(range(len(label_of(name).classes)))
    label = label_of(name)
    tally = Tally(score_columns(name, label.classes, label.columns))
    tally.add(said, ROWS)
    assert all(sum(bins.values()) == ROWS for bins in tally.histograms().bins.values())


@each
def test_on_spark_a_task_has_a_score_and_pairs_and_tells_bad_labels(
    spark: SparkSession, name: str
) -> None:
    task, label = TASKS[name], label_of(name)
    schema = pa.schema(list(task.prediction_columns().items()))
    frame = spark.createDataFrame([], to_spark(schema))
    assert frame.select(task.score()).schema[0].dataType == DoubleType()
    clean = spark.createDataFrame([], "delay double")
    labels = []
    for place, (setting, text) in enumerate(task.expressions(label)):
        assert setting.split(".")[0] in task.asks
        value = task.label_value(clean[text] if text in clean.columns else clean.delay > 1, label)
        assert task.accepts(clean.schema["delay"].dataType)
        assert not task.accepts(BinaryType())
        assert not task.accepts(ArrayType(StringType()))
        assert clean.select(task.is_bad_label(value)).dtypes[0][1] == "boolean"
        labels.append(StructField(f"label{place}", clean.select(value).schema[0].dataType))
        told = task.bad_labels(label, 3)
        assert told.where.removeprefix("features.label.") in task.asks
        assert "in 3 rows" in told.problem
    joined = StructType([*to_spark(schema), *labels])
    if "score" not in schema.names:
        joined = joined.add("score", DoubleType())
    assert {*task.report_columns} <= {*schema.names}
    pairs = task.pairs(label)
    for predicted, observed in pairs:
        whole = spark.createDataFrame([], joined).withColumns(
            {"predicted": predicted.cast("double"), "observed": observed}
        )
        assert whole.schema["observed"].dataType == DoubleType()
        assert whole.select(task.pair_loss()).schema[0].dataType == DoubleType()
    assert {*task.report_parts} <= _PARTS.keys() <= {*Measured.__dataclass_fields__}


LIGHT = """
import sys
import {first}
import {second}
print([name for name in ("torch", "torchmetrics", "mlflow") if name in sys.modules])
"""


@pytest.mark.parametrize("last", [False, True])
def test_settings_are_checked_without_torch_whatever_is_imported_first(
    last: bool,
) -> None:
    names = ("pipeline.config", "pipeline.training.tasks")
    first, second = reversed(names) if last else names
    done = subprocess.run(
        [sys.executable, "-c", LIGHT.format(first=first, second=second)],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[3],
    )
    assert done.stdout.strip() == "[]"
