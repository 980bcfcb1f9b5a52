"""Weights of rows and of classes in the loss: against plain NumPy, and in whole trainings."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from pipeline.config import Mlp
from pipeline.errors import TrainingError
from pipeline.lake import Lake
from pipeline.stream import Stream
from pipeline.training import causes, stage
from pipeline.training.checkpoint import CheckpointFolder
from pipeline.training.job import Job
from pipeline.training.loop import Fitted, fit, fitted_of
from pipeline.training.objective import Objective
from pipeline.training.registry import Registry
from pipeline.training.splits import Rows, evaluation_stream, layout_of
from pipeline.training.worker import checkpoints_of
from tests.training import examples
from tests.training.test_loop import (
    SETTINGS,
    Interrupted,
    Interrupting,
    network,
    same,
    setting_of,
)

SPEC = examples.spec()
WEIGHTED = SPEC.model_copy(update={"weight": "amount"})
RANDOM = np.random.default_rng(11)
COUNT = 9
OUT = RANDOM.normal(size=(COUNT, 4))
FLAGS = RANDOM.integers(0, 2, COUNT)
CLASSES = RANDOM.integers(0, 4, COUNT)
WEIGHTS = RANDOM.exponential(size=COUNT).astype(np.float32)
OF_CLASS = (0.5, 3.0, 1.0, 2.0)


def rows(labels: Any, weights: Any) -> Rows:
    weights = None if weights is None else torch.tensor(weights)
    return Rows(inputs={}, labels=torch.tensor(labels), weights=weights, rows=COUNT)


@pytest.mark.parametrize("by_row", [False, True])
@pytest.mark.parametrize("by_class", [False, True])
def test_the_loss_and_its_gradient_are_numpys(by_row: bool, by_class: bool) -> None:
    own = WEIGHTS.astype(float) if by_row else np.ones(COUNT)
    given = WEIGHTS if by_row else None

    def learned(task: str, outputs: Any, labels: Any, classes: int) -> tuple[float, Any, Any]:
        of_class = OF_CLASS[:classes] if by_class else ()
        objective = Objective.of(task, None, None, of_class)
        out = torch.tensor(outputs, requires_grad=True)
        total = objective.loss_sum(out, rows(labels, given))
        total.backward()
        assert out.grad is not None
        found = objective.weights(rows(labels, given))
        return total.item(), out.grad.numpy(), None if found is None else found.numpy()

    weights = own * (np.array(OF_CLASS)[CLASSES] if by_class else 1)
    shares = np.exp(OUT) / np.exp(OUT).sum(1, keepdims=True)
    total, gradient, used = learned("multiclass", OUT, CLASSES, 4)
    assert total == pytest.approx(-(weights * np.log(shares[np.arange(COUNT), CLASSES])).sum())
    np.testing.assert_allclose(gradient, weights[:, None] * (shares - np.eye(4)[CLASSES]))
    weights = own * (np.array(OF_CLASS)[FLAGS] if by_class else 1)
    total, gradient, used = learned("binary", OUT[:, :1], FLAGS.astype(np.float32), 2)
    logits = OUT[:, 0]
    assert total == pytest.approx((weights * (np.logaddexp(0, logits) - FLAGS * logits)).sum())
    np.testing.assert_allclose(gradient[:, 0], weights * (1 / (1 + np.exp(-logits)) - FLAGS))
    assert (used is None) == (not by_row and not by_class)
    assert used is None or used == pytest.approx(weights, rel=1e-6)


# --- whole trainings ------------------------------------------------------------------------------

Weigh = Callable[[pa.Table], Any]
EXACT: dict[str, Any] = {"model": Mlp(hidden=(8,), embedding_dimension=3), "precision": "float64"}


def write(folder: Path, weigh: Weigh | None, kept: Any = None) -> dict[str, list[str]]:
    """The files of a small data set, the train split with weights."""
    made = {}
    for first_id, (split, count) in enumerate({"train": 600, "validation": 200}.items()):
        table = examples.rows(first_id * 10_000, count, SPEC)
        if split == "train" and weigh is not None:
            weights = pa.array(np.asarray(weigh(table), np.float32))
            table = table.append_column("_weight", weights)
            table = table if kept is None else table.filter(kept)
        made[split] = [str(folder / f"{split}.parquet")]
        pq.write_table(table, made[split][0], row_group_size=60)
    return made


def trained(
    files: dict[str, list[str]],
    folder: Path,
    *,
    weighted: bool = True,
    class_weights: tuple[float, ...] = (),
    after: int | None = None,
    shuffle: bool = True,
    **changes: Any,
) -> Fitted:
    spec = WEIGHTED if weighted else SPEC
    settings = SETTINGS.model_copy(update=changes)
    how = setting_of(folder, Interrupting(after), **changes)
    how = how.__class__(
        **{**vars(how), "objective": Objective.of("binary", None, None, class_weights)}
    )
    with (
        Stream(
            files["train"],
            layout_of(spec, with_weight=True),
            rows_per_batch=settings.rows_per_batch,
            seed=3,
            shuffle=shuffle,
            shuffle_window_rows=200,
            canonical_shards=2,
        ) as train,
        evaluation_stream(files["validation"], spec, 1) as validation,
        how.progress,
    ):
        return fit(network(settings.model), train, validation, how)


def test_weights_of_1_are_no_weights_to_the_last_bit(tmp_path: Path) -> None:
    files = write(tmp_path, lambda table: np.ones(len(table)))
    without = trained(files, tmp_path / "without", weighted=False)
    assert same(trained(files, tmp_path / "rows"), without)
    assert same(trained(files, tmp_path / "classes", class_weights=(1.0, 1.0)), without)
    doubled = trained(files, tmp_path / "doubled", class_weights=(2.0, 2.0))
    assert same(doubled, without), "the loss is divided by the sum of the weights"


def test_a_row_of_weight_2_is_that_row_twice(tmp_path: Path) -> None:
    # Whole batches: each step is the whole train split, so that its rows may stand anywhere.
    exact = {**EXACT, "rows_per_batch": 4096, "epochs": 4, "shuffle": False}
    for name in "abc":
        (tmp_path / name).mkdir()
    weights = write(tmp_path / "a", lambda table: 1 + np.arange(len(table)) % 3)
    found = trained(weights, tmp_path / "weighed", **exact)
    copies = write(tmp_path / "b", None)
    table = pq.read_table(copies["train"][0])
    again = table.take(np.repeat(np.arange(len(table)), 1 + np.arange(len(table)) % 3))
    pq.write_table(again, copies["train"][0], row_group_size=60)
    expected = trained(copies, tmp_path / "copied", weighted=False, **exact)
    require_close(found, expected)
    # Rows of weight 0 might as well not be there.
    zeros = write(tmp_path / "c", lambda table: np.arange(len(table)) % 3)
    found = trained(zeros, tmp_path / "zero", **exact)
    table = pq.read_table(zeros["train"][0])
    pq.write_table(table.filter(pa.array(np.arange(len(table)) % 3 > 0)), zeros["train"][0])
    require_close(found, trained(zeros, tmp_path / "gone", **exact))


def require_close(found: Fitted, expected: Fitted) -> None:
    for one, other in zip(found.history, expected.history, strict=True):
        assert one.train_loss == pytest.approx(other.train_loss, rel=1e-9)
    for name, weight in expected.weights.items():
        torch.testing.assert_close(found.weights[name], weight, rtol=1e-7, atol=1e-9)


def test_a_weighted_batch_taken_in_parts_gives_the_same_gradient(tmp_path: Path) -> None:
    files = write(tmp_path, lambda table: np.exp(table["num_n1"].to_numpy()))
    whole, parts = (
        trained(files, tmp_path / str(n), class_weights=(1.0, 3.0), accumulate=n, epochs=1, **EXACT)
        for n in (1, 5)
    )
    require_close(parts, whole)


def test_class_weights_are_row_weights_by_label(tmp_path: Path) -> None:
    files = write(tmp_path, lambda table: np.where(table["late"].to_numpy() > 0.5, 4.0, 0.5))
    by_row = trained(files, tmp_path / "rows")
    assert same(trained(files, tmp_path / "c", weighted=False, class_weights=(0.5, 4.0)), by_row)
    plain = trained(files, tmp_path / "plain", weighted=False)
    assert not same(plain, by_row)
    # Metrics stay unweighted: of a network that learns nothing they are the same.
    still = [
        trained(files, tmp_path / name, weighted=weighted, learning_rate=1e-30, weight_decay=0.0)
        for name, weighted in (("still", True), ("still plain", False))
    ]
    assert still[0].best.validation == still[1].best.validation
    assert still[0].best.train_loss != still[1].best.train_loss


def test_batches_that_weigh_nothing_move_no_weight(tmp_path: Path) -> None:
    # In the files' order, the middle of the train split has no weight at all.
    files = write(tmp_path, lambda table: abs(np.arange(len(table)) - 300) > 250)
    with Stream(
        files["train"],
        layout_of(WEIGHTED, with_weight=True),
        rows_per_batch=SETTINGS.rows_per_batch,
        shuffle=False,
        canonical_shards=2,
    ) as stream:
        moving = [bool(batch.tensors["weight"].sum() > 0) for batch in stream.epoch(0)]
    assert len({*moving}) == 2
    found = trained(files, tmp_path / "some", shuffle=False, epochs=1)
    state = CheckpointFolder(tmp_path / "some", "f").load()
    assert state is not None
    assert state["position"]["step"] == len(moving)
    assert state["optimiser"]["state"][0]["step"] == sum(moving)
    assert found.history[0].steps_skipped == 0, "nothing was wrong with them"
    nothing = write(tmp_path, lambda table: np.zeros(len(table)))
    with pytest.raises(TrainingError, match="all its rows weigh 0"):
        trained(nothing, tmp_path / "nothing")


@pytest.mark.parametrize("after", [(5, 17), (23, 2, 9)])
def test_a_weighted_run_that_is_interrupted_ends_bit_for_bit_as_one_left_alone(
    tmp_path: Path, after: tuple[int, ...]
) -> None:
    files = write(tmp_path, lambda table: np.exp(table["num_n1"].to_numpy()))
    expected = trained(files, tmp_path / "undisturbed", class_weights=(1.0, 3.0))
    folder = tmp_path / "run"
    for steps in after:
        with pytest.raises(Interrupted):
            trained(files, folder, class_weights=(1.0, 3.0), after=steps)
    assert same(trained(files, folder, class_weights=(1.0, 3.0)), expected)


def test_a_weighted_training_ends_in_a_model_like_any_other(lake: Lake) -> None:
    examples.write_features(lake, WEIGHTED, {"train": 700, "validation": 200, "test": 100})
    pipeline = examples.pipeline(lake, class_weights="balanced", epochs=6)
    done = stage.train(pipeline, lake, WEIGHTED, features_for=lambda _: pytest.fail("not needed"))
    assert done.metrics is not None
    assert done.metrics["test"]["rows"] == 100
    assert done.metrics["test"]["auroc"] > 0.8
    bundle, _ = Registry(lake, "small").load(str(done.version))
    assert bundle.spec == WEIGHTED
    assert bundle.reference is not None
    assert bundle.reference.inputs.rows == 700
    assert "class_weights" not in bundle.facts.to_dict()
    again = stage.train(pipeline, lake, WEIGHTED, features_for=lambda _: pytest.fail("not needed"))
    assert again.unchanged


@pytest.mark.long
def test_two_ranks_divide_by_the_weights_of_both(tmp_path: Path) -> None:
    lake = Lake(tmp_path / "lake")
    examples.write_features(lake, WEIGHTED, {"train": 700, "validation": 100, "test": 100})
    fitted = []
    for workers in (1, 2):
        settings = {**EXACT, "model": {"hidden": [8], "embedding_dimension": 3}, "epochs": 2}
        pipeline = examples.pipeline(lake, **settings, class_weights="balanced", workers=workers)
        version = lake.table(WEIGHTED.table).snapshot().version
        job = Job(pipeline=pipeline, lake=lake, spec=WEIGHTED, features_version=version).weighing()
        job.folder.mkdir(parents=True, exist_ok=True)
        causes.clear(job.folder)
        torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(workers)]
        subprocess.run(
            [sys.executable, *torchrun, "-m", "pipeline.training.worker", str(job.write())],
            check=True,
            env={**os.environ, "OMP_NUM_THREADS": "1", "TORCH_CPP_LOG_LEVEL": "ERROR"},
        )
        fitted.append(fitted_of(checkpoints_of(job)))
        checkpoints_of(job).remove()
    require_close(*fitted)
