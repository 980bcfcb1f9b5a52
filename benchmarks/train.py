"""Claim: training from the stream is as fast as from memory; one worker waits little for data.

The network of the flights' demo is trained on its features: from the stream, by the same loop on
tensors that lie in memory already, and by the same loop on a plain torch DataLoader over a
map-style data set of the same Parquet files. Then by one rank and by two, each its own process.

usage: python benchmarks/train.py [--rounds 5] [--lake FOLDER]
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from io import StringIO
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch.utils.data import DataLoader, Dataset, RandomSampler

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # for `benchmarks`

from pipeline.config import load_pipeline
from pipeline.features.catalogue import newest_spec
from pipeline.features.prepared import TRAIN
from pipeline.lake import Lake
from pipeline.operate.walk import walk
from pipeline.session import spark_session
from pipeline.stream import Batch, Stream
from pipeline.training.job import Job, choose_device
from pipeline.training.loop import Setting, fit
from pipeline.training.networks import build
from pipeline.training.progress import ProgressReport
from pipeline.training.ranks import joined
from pipeline.training.splits import evaluation_stream, layout_of
from pipeline.training.worker import checkpoints_of, train_rank

FLIGHTS = Path(__file__).resolve().parents[1] / "conf" / "pipelines" / "flights.yaml"
EPOCHS = 3
"""Of each run; the first one, which warms caches and threads, is not counted."""


@dataclass
class Reading:
    """Epochs of one way of training."""

    rows_per_second: list[float] = field(default_factory=list)
    wait_shares: list[float] = field(default_factory=list)


class Timing(ProgressReport):
    """Shows nothing; keeps each epoch's figures as they are after its last step."""

    def __init__(self) -> None:
        super().__init__(EPOCHS, Console(file=StringIO()), quiet=True)
        self.reading = Reading()
        self._steps = 0

    def begin_epoch(self, epoch: int, steps: int, steps_done: int) -> None:
        """Waits for the last of these steps."""
        super().begin_epoch(epoch, steps, steps_done)
        self._epoch, self._steps = epoch, steps - steps_done

    def step(self, rows: int, loss: float) -> None:
        """Takes the figures when the epoch's last step is done."""
        super().step(rows, loss)
        self._steps -= 1
        if not self._steps and self._epoch:
            self.reading.rows_per_second.append(self.rows_per_second)
            self.reading.wait_shares.append(self.wait_share)


class InMemory(Stream):
    """The loop's stream, whose batches are cut out of tensors that lie in memory."""

    def __init__(self, job: Job, files: list[str]) -> None:
        super().__init__(
            files, layout_of(job.spec), rows_per_batch=job.pipeline.train.rows_per_batch
        )
        with Stream(files, layout_of(job.spec), rows_per_batch=self.rows, shuffle=False) as whole:
            [batch] = whole.epoch(0)
        self._whole = {name: tensor.contiguous() for name, tensor in batch.tensors.items()}
        self._size = job.pipeline.train.rows_per_batch

    def epoch(self, epoch: int, *, then: int | None = None) -> Iterator[Batch]:  # noqa: ARG002
        """Yields the rows in a new order."""
        order = torch.randperm(self.rows, generator=torch.Generator().manual_seed(epoch))
        for step, chosen in enumerate(torch.split(order, self._size)):
            tensors = {name: tensor[chosen] for name, tensor in self._whole.items()}
            yield Batch(tensors, {}, len(chosen), step, len(chosen))


class Rows(Dataset[dict[str, torch.Tensor]]):
    """What torch's tutorials do: one row an index, of tensors read from the Parquet files."""

    def __init__(self, whole: dict[str, torch.Tensor]) -> None:
        self._whole = whole

    def __len__(self) -> int:
        return len(self._whole["label"])

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {name: tensor[index] for name, tensor in self._whole.items()}


class ByDataLoader(InMemory):
    """The loop's stream, whose batches come from a plain DataLoader."""

    def epoch(self, epoch: int, *, then: int | None = None) -> Iterator[Batch]:  # noqa: ARG002
        """Yields the rows in a new order."""
        rows = Rows(self._whole)
        sampler = RandomSampler(rows, generator=torch.Generator().manual_seed(epoch))
        for step, tensors in enumerate(DataLoader(rows, self._size, sampler=sampler)):
            count = len(tensors["label"])
            yield Batch(tensors, {}, count, step, count)


def read(job: Job, batches: Stream) -> Reading:
    """Trains in this process, with as many threads as a worker has."""
    settings = job.pipeline.train
    timing = Timing()
    torch.set_num_threads(1)
    checkpoints_of(job).remove()
    with evaluation_stream(batches_of(job)[:1], job.spec, 1) as validation, timing, batches:
        fit(
            build(job.architecture, job.pipeline.seed),
            batches,
            validation,
            Setting(
                settings=settings,
                objective=job.objective,
                seed=job.pipeline.seed,
                checkpoints=checkpoints_of(job),
                progress=timing,
            ),
        )
    return timing.reading


def batches_of(job: Job) -> list[str]:
    """Files of the train split."""
    return list(job.split(TRAIN).uris())


def streamed(job: Job) -> Stream:
    """The stream as a worker opens it."""
    settings = job.pipeline.train
    return Stream(
        batches_of(job),
        layout_of(job.spec),
        rows_per_batch=settings.rows_per_batch,
        seed=job.pipeline.seed,
        shuffle_window_rows=settings.shuffle_window_rows,
        workers_count=settings.stream_workers,
    )


def ranks(job: Job, count: int, out: Path) -> Reading:
    """Trains by so many processes; the first tells what it saw."""
    checkpoints_of(job).remove()
    job.folder.mkdir(parents=True)
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(count)]
    subprocess.run(
        [sys.executable, *torchrun, __file__, "--rank", str(job.write()), str(out)],
        check=True,
        env={**os.environ, "TORCH_CPP_LOG_LEVEL": "ERROR"},
    )
    return Reading(**json.loads(out.read_text()))


def rank(job_file: str, out: str) -> None:
    """One of the processes that `ranks` starts."""
    job, timing = Job.read(Path(job_file)), Timing()
    with joined(choose_device("cpu"), 600) as place:
        train_rank(job, place, timing)
    if place.is_first:
        Path(out).write_text(json.dumps(timing.reading.__dict__))


def features(lake: str) -> Job:
    """The flights' features, made unless the lake has them, and the job to train on them."""
    changes = [f"lake={lake}", f"train.epochs={EPOCHS}", "train.patience_epochs=99"]
    pipeline = load_pipeline(FLIGHTS, [*changes, "train.checkpoint_every_steps=100000"])
    spark = spark_session("benchmark train")
    try:
        for outcome in walk(spark, pipeline, Lake(lake), ("clean", "featurize")):
            print(f"{outcome.stage}: {outcome.rows_out:,} rows", flush=True)
    finally:
        spark.stop()
    spec = newest_spec(Lake(lake), pipeline.name)
    version = Lake(lake).table(spec.table).snapshot().version
    return Job(pipeline=pipeline, lake=Lake(lake), spec=spec, features_version=version)


def main() -> None:
    """Measures all ways in turn, several times, and prints a table and a JSON line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--lake", help="keeps the features for the next time")
    parser.add_argument("--rank", nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.rank:
        rank(*given.rank)
        return
    with tempfile.TemporaryDirectory() as folder:
        job = features(given.lake or f"{folder}/lake")
        ways: dict[str, Any] = {
            "stream": lambda: read(job, streamed(job)),
            "memory": lambda: read(job, InMemory(job, batches_of(job))),
            "DataLoader": lambda: read(job, ByDataLoader(job, batches_of(job))),
            "1 rank": lambda: ranks(job, 1, Path(folder) / "told"),
            "2 ranks": lambda: ranks(job, 2, Path(folder) / "told"),
        }
        found: dict[str, list[Reading]] = {name: [] for name in ways}
        for round_number in range(given.rounds):
            for name, way in ways.items():
                found[name].append(way())
                print(f"round {round_number + 1}: {name}", flush=True)
        checkpoints_of(job).remove()
    show(found)


def show(found: dict[str, list[Reading]]) -> None:
    """Prints what was measured: medians over all epochs of all rounds."""
    rows, waits = {}, {}
    print(f"\n{'way':12} {'rows/s':>10} {'lowest':>10} {'highest':>10} {'waiting':>8}")
    for name, readings in found.items():
        each = [value for reading in readings for value in reading.rows_per_second]
        rows[name] = statistics.median(each)
        waits[name] = statistics.median(w for reading in readings for w in reading.wait_shares)
        print(
            f"{name:12} {rows[name]:10,.0f} {min(each):10,.0f} {max(each):10,.0f} "
            f"{waits[name]:8.1%}"
        )
    told = {
        "stream_rows_s": round(rows["stream"]),
        "memory_rows_s": round(rows["memory"]),
        "dataloader_rows_s": round(rows["DataLoader"]),
        "ratio_memory": round(rows["stream"] / rows["memory"], 3),
        "ratio_dataloader": round(rows["stream"] / rows["DataLoader"], 2),
        "data_wait_share": round(waits["stream"], 4),
        "workers_2_speedup": round(rows["2 ranks"] / rows["1 rank"], 3),
    }
    print(json.dumps(told))


if __name__ == "__main__":
    main()
