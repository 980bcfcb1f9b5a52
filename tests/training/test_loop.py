from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from io import StringIO
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rich.console import Console

from pipeline.config import Mlp, Model, Train
from pipeline.errors import StoppedError, TrainingError
from pipeline.stream import Stream
from pipeline.training.checkpoint import CheckpointFolder
from pipeline.training.loop import Fitted, Setting, evaluate, fit
from pipeline.training.networks import architecture_of, build
from pipeline.training.objective import Objective
from pipeline.training.progress import ProgressReport
from pipeline.training.ranks import Ranks
from pipeline.training.splits import evaluation_stream, layout_of, shapes_of
from tests.training import examples

SPEC = examples.spec()
BINARY = Objective.of("binary", None, None)
SETTINGS = Train(
    model=Mlp(hidden=(8,), embedding_dimension=3, dropout=0.2),
    epochs=3,
    rows_per_batch=64,
    learning_rate=0.02,
    weight_decay=0.01,
    checkpoint_every_steps=4,
    shuffle_window_rows=200,
    patience_epochs=3,
)


class Interrupted(Exception):
    """Stands for whatever ends a process."""


class Interrupting(ProgressReport):
    """Ends the run after a number of steps; counts them."""

    def __init__(self, after: int | None = None) -> None:
        super().__init__(SETTINGS.epochs, Console(file=StringIO()))
        self.steps = 0
        self._after = after

    def step(self, rows: int, loss: float) -> None:
        super().step(rows, loss)
        self.steps += 1
        if self.steps == self._after:
            raise Interrupted


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    folder = tmp_path_factory.mktemp("features")
    made = {}
    for first_id, (split, count) in enumerate({"train": 1000, "validation": 300}.items()):
        made[split] = [str(folder / f"{split}.parquet")]
        table = examples.rows(first_id * 10_000, count, SPEC)
        pq.write_table(table, made[split][0], row_group_size=60)
    return made


def network(model: Model = SETTINGS.model) -> torch.nn.Module:
    return build(architecture_of(model, shapes_of(SPEC), 1), seed=3)


@contextmanager
def streams(files: dict[str, list[str]]) -> Iterator[tuple[Stream, Stream]]:
    with (
        Stream(
            files["train"],
            layout_of(SPEC),
            rows_per_batch=SETTINGS.rows_per_batch,
            seed=3,
            shuffle_window_rows=SETTINGS.shuffle_window_rows,
            canonical_shards=2,
        ) as train,
        evaluation_stream(files["validation"], SPEC, 1) as validation,
    ):
        yield train, validation


def setting_of(folder: Path, progress: ProgressReport, **changes: Any) -> Setting:
    return Setting(
        settings=SETTINGS.model_copy(update=changes),
        objective=BINARY,
        seed=3,
        checkpoints=CheckpointFolder(folder, "f"),
        progress=progress,
    )


def run(
    files: dict[str, list[str]], folder: Path, after: int | None = None, **changes: Any
) -> tuple[Fitted, Interrupting]:
    progress = Interrupting(after)
    with streams(files) as (train, validation), progress:
        fitted = fit(
            network(changes.get("model", SETTINGS.model)),
            train,
            validation,
            setting_of(folder, progress, **changes),
        )
    return fitted, progress


@pytest.fixture(scope="module")
def undisturbed(
    files: dict[str, list[str]], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Fitted, int]:
    fitted, progress = run(files, tmp_path_factory.mktemp("undisturbed"))
    return fitted, progress.steps


def same(one: Fitted, other: Fitted) -> bool:
    weights = all(torch.equal(one.weights[name], other.weights[name]) for name in one.weights)
    return weights and one.history == other.history


def test_training_learns(undisturbed: tuple[Fitted, int]) -> None:
    fitted, steps = undisturbed
    assert steps == 3 * 16  # 1,000 rows in batches of 64, the last one smaller
    assert fitted.history[-1].train_loss < fitted.history[0].train_loss
    assert fitted.best.validation.values["auroc"] > 0.8


@settings(
    max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(after=st.lists(st.integers(1, 20), max_size=4))
def test_a_run_interrupted_anywhere_ends_bit_for_bit_as_one_left_alone(
    files: dict[str, list[str]],
    undisturbed: tuple[Fitted, int],
    tmp_path_factory: pytest.TempPathFactory,
    after: list[int],
) -> None:
    folder = tmp_path_factory.mktemp("run")
    torch.manual_seed(len(after))  # of the caller: must not matter
    for steps in after:
        try:
            run(files, folder, after=steps)
        except Interrupted:
            continue
    fitted, _ = run(files, folder)
    assert same(fitted, undisturbed[0])


def test_resuming_repeats_no_more_than_the_steps_since_the_checkpoint(
    files: dict[str, list[str]], undisturbed: tuple[Fitted, int], tmp_path: Path
) -> None:
    with pytest.raises(Interrupted):
        run(files, tmp_path, after=23)  # checkpoints at 4, 8, 12, 16 and 20
    _, progress = run(files, tmp_path)
    assert progress.steps == undisturbed[1] - 20
    _, progress = run(files, tmp_path)
    assert progress.steps == 0


def test_asked_to_stop_it_writes_a_checkpoint_and_goes_on_from_there(
    files: dict[str, list[str]], undisturbed: tuple[Fitted, int], tmp_path: Path
) -> None:
    class Asking(Interrupting):
        def step(self, rows: int, loss: float) -> None:
            super().step(rows, loss)
            if self.steps == 22:
                os.kill(os.getpid(), signal.SIGTERM)

    before = signal.getsignal(signal.SIGTERM)
    told = r"step 23, epoch 2: .* asked to stop"
    with (
        streams(files) as (train, validation),
        Asking() as progress,
        pytest.raises(StoppedError, match=told),
    ):
        fit(network(), train, validation, setting_of(tmp_path, progress))
    assert signal.getsignal(signal.SIGTERM) == before
    fitted, rest = run(files, tmp_path)
    assert rest.steps == undisturbed[1] - 23
    assert same(fitted, undisturbed[0])


def test_a_batch_taken_in_parts_gives_the_same_gradient(
    files: dict[str, list[str]], tmp_path: Path
) -> None:
    exact: dict[str, Any] = {
        "model": Mlp(hidden=(8,), embedding_dimension=3),
        "precision": "float64",
        "epochs": 1,
    }
    whole, parts = (
        run(files, tmp_path / str(count), accumulate=count, **exact)[0] for count in (1, 5)
    )
    assert whole.history[0].train_loss == pytest.approx(parts.history[0].train_loss, rel=1e-9)
    for name, weight in whole.weights.items():
        assert weight.dtype == torch.float64
        torch.testing.assert_close(weight, parts.weights[name], rtol=1e-7, atol=1e-9)


def test_a_long_gradient_is_shortened(files: dict[str, list[str]], tmp_path: Path) -> None:
    # Plain descent: no weight goes further in a step than the rate times the longest gradient.
    plain: dict[str, Any] = {
        "optimiser": "sgd",
        "momentum": 0.0,
        "weight_decay": 0.0,
        "learning_rate": 1.0,
    }
    start = network().state_dict()
    fitted, progress = run(files, tmp_path, epochs=1, clip_norm=1e-4, **plain)
    moved = sum((fitted.weights[name] - start[name]).square().sum() for name in start)
    assert 0 < float(moved) ** 0.5 <= progress.steps * 1e-4 * 1.001


# What torch.compile calls, torch is about to drop.
of_torch_itself = pytest.mark.filterwarnings("ignore:.*is deprecated:DeprecationWarning")


@pytest.mark.parametrize(
    "changes",
    [
        {"precision": "bf16"},
        {"optimiser": "sgd", "learning_rate": 0.1},
        {"optimiser": "adam", "schedule": "cosine", "warmup_steps": 5},
        {"schedule": "one_cycle"},
        pytest.param({"compile": True}, marks=[pytest.mark.long, of_torch_itself]),
    ],
)
def test_every_way_of_training_learns(
    files: dict[str, list[str]], tmp_path: Path, changes: dict[str, Any]
) -> None:
    fitted, _ = run(files, tmp_path, **changes)
    assert fitted.history[-1].train_loss < fitted.history[0].train_loss
    assert fitted.best.validation.values["auroc"] > 0.75


def test_the_callers_random_numbers_are_left_alone(
    files: dict[str, list[str]], tmp_path: Path
) -> None:
    before = torch.get_rng_state()
    run(files, tmp_path, epochs=1)
    assert torch.equal(torch.get_rng_state(), before)


def test_the_weights_are_those_of_the_best_epoch(
    files: dict[str, list[str]], tmp_path: Path
) -> None:
    # A rate far too high, so that later epochs are worse than earlier ones.
    fitted, _ = run(files, tmp_path, epochs=8, learning_rate=0.8)
    assert fitted.best.validation.values["auroc"] == max(
        r.validation.values["auroc"] for r in fitted.history
    )
    assert fitted.best is not fitted.history[-1]
    module = network()
    module.load_state_dict(fitted.weights)
    with streams(files) as (_, validation):
        assert evaluate(module, validation, Ranks(), BINARY, seed=3) == fitted.best.validation


def test_it_stops_early_when_validation_gets_no_better(
    files: dict[str, list[str]], tmp_path: Path
) -> None:
    fitted, _ = run(files, tmp_path, epochs=50, learning_rate=0.8, patience_epochs=2)
    assert len(fitted.history) < 50
    assert fitted.history[-1].epoch - fitted.best.epoch == 2


def test_a_loss_that_is_not_a_number_stops_with_its_step(
    files: dict[str, list[str]], tmp_path: Path
) -> None:
    table = pq.read_table(files["train"][0])
    values = table["num_n0"].to_pylist()
    values[500] = float("nan")
    column = pa.array(values, pa.float32())
    poisoned = tmp_path / "poisoned.parquet"
    pq.write_table(table.set_column(1, "num_n0", column), poisoned, row_group_size=60)
    with pytest.raises(
        TrainingError, match=r"step \d+, epoch 1: the loss is nan.*poisoned\.parquet row group 8 "
    ):
        run({**files, "train": [str(poisoned)]}, tmp_path / "run")


def test_a_validation_split_of_one_class_is_an_error(
    files: dict[str, list[str]], tmp_path: Path
) -> None:
    table = pq.read_table(files["validation"][0])
    one = table.filter(pa.compute.equal(table["late"], 1.0))
    pq.write_table(one, tmp_path / "one.parquet")
    with pytest.raises(TrainingError, match=r"features\.splits\.validation"):
        run({**files, "validation": [str(tmp_path / "one.parquet")]}, tmp_path / "run")


def test_an_epoch_without_a_full_batch_is_an_error_where_the_last_is_dropped(
    files: dict[str, list[str]], tmp_path: Path
) -> None:
    setting = setting_of(tmp_path, Interrupting(), rows_per_batch=1_001, last_batch="drop")
    with (
        streams(files) as (_, validation),
        Stream(files["train"], layout_of(SPEC), rows_per_batch=1_001, drop_last=True) as train,
        pytest.raises(TrainingError, match="1000 train rows do not fill a batch of 1001"),
    ):
        fit(network(), train, validation, setting)


def test_without_a_terminal_each_epoch_is_one_line(
    files: dict[str, list[str]], tmp_path: Path
) -> None:
    shown = StringIO()
    with streams(files) as (train, validation), ProgressReport(2, Console(file=shown)) as progress:
        fit(
            network(),
            train,
            validation,
            setting_of(tmp_path, progress, epochs=2),
        )
    lines = shown.getvalue().splitlines()
    assert [line[:9] for line in lines] == ["epoch 1/2", "epoch 2/2"]
    assert all("auroc 0." in line for line in lines)
    assert "\x1b" not in shown.getvalue()
