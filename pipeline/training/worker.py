"""What a worker runs: one rank of a training, from a job's file to its last checkpoint.

    python -m pipeline.training.worker JOB.json

torchrun's elastic agent starts it on one machine, Spark's TorchDistributor on a cluster. What ends
it is told in a report beside the job, so that the driver finds the first cause among all that
follows from it.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from pipeline.errors import TrainingError
from pipeline.features.prepared import TRAIN, VALIDATION
from pipeline.stream import Stream
from pipeline.training.causes import begin_attempt, reporting
from pipeline.training.checkpoint import CheckpointFolder
from pipeline.training.job import Job, choose_device, custom_class
from pipeline.training.loop import Fitted, Setting, fit
from pipeline.training.networks import build
from pipeline.training.progress import ProgressReport
from pipeline.training.ranks import Ranks, joined
from pipeline.training.registry import Registry
from pipeline.training.splits import evaluation_stream, layout_of


def work(path: str) -> None:
    """Takes this process's part in the job of that file.

    Raises:
        SystemExit: It ended early; the report tells why.
    """
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    rank = int(os.environ.get("RANK", "0"))
    # The job's folder: a file that cannot be read is a fault to report, too.
    with reporting(Path(path).parent, rank):
        job = Job.read(Path(path))
        begin_attempt(job.folder, rank, job.pipeline.train.max_restarts)
        device = choose_device(job.pipeline.train.device)
        with joined(device, job.pipeline.train.hang_seconds) as ranks:
            train_rank(job, ranks)


def train_rank(job: Job, ranks: Ranks, progress: ProgressReport | None = None) -> Fitted:
    """Trains as one of the ranks; the checkpoints in the job's folder hold the result.

    Args:
        job: What to train.
        ranks: This rank among the others.
        progress: Told of every step; by default the first rank shows it on standard error.

    Raises:
        TrainingError: A split has no rows, the loss is not a number, or it was asked to stop.
        LakestormError: Features cannot be read, a checkpoint cannot be written.
    """
    for split in (TRAIN, VALIDATION):
        if not job.split(split).rows:
            raise TrainingError(
                f"table {job.features.name}, split {split}",
                "has no rows",
                f"Choose features.splits.{split} so that rows with a label meet it.",
            )
    job = job.weighing()
    settings, seed = job.pipeline.train, job.pipeline.seed
    # Only the first rank imports MLflow, which takes seconds.
    logs = ranks.is_first and bool(job.run_id)
    registry = Registry(job.lake, job.pipeline.name) if logs else None
    validation_files = job.split(VALIDATION).uris()
    with (
        _threads_beside(settings.stream_workers),
        _train_stream(job, ranks) as batches,
        evaluation_stream(validation_files, job.spec, settings.stream_workers, ranks) as validation,
        progress or ProgressReport(settings.epochs, quiet=not ranks.is_first) as shown,
    ):
        return fit(
            build(job.architecture, seed, custom_class(job.pipeline)),
            batches,
            validation,
            Setting(
                settings=settings,
                objective=job.objective,
                seed=seed,
                checkpoints=checkpoints_of(job),
                progress=shown,
                ranks=ranks,
                on_history=lambda history: (
                    registry.log_history(job.run_id, history) if registry else None
                ),
            ),
        )


def checkpoints_of(job: Job) -> CheckpointFolder:
    """Where the job's checkpoints are."""
    return CheckpointFolder(job.folder, job.fingerprint, job.pipeline.train.checkpoints_kept)


def _train_stream(job: Job, ranks: Ranks) -> Stream:
    settings = job.pipeline.train
    return Stream(
        job.split(TRAIN).uris(),
        layout_of(job.spec, with_weight=True),
        rows_per_batch=settings.rows_per_batch,
        seed=job.pipeline.seed,
        rank=ranks.rank,
        world_size=ranks.world_size,
        shuffle_window_rows=settings.shuffle_window_rows,
        workers_count=settings.stream_workers,
        drop_last=settings.last_batch == "drop",
    )


@contextmanager
def _threads_beside(stream_workers: int) -> Iterator[None]:
    """Leaves the other ranks of this machine their cores, and the stream's threads one each.

    Torch's threads spin while they wait for each other: on 2 busy cores, 2 of them took 18 s for
    an epoch of the flights that 1 did in 1.7 s, and on 2 idle ones they were no faster.
    """
    before = torch.get_num_threads()
    ranks_here = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    torch.set_num_threads(max(1, before // ranks_here - stream_workers))
    try:
        yield
    finally:
        torch.set_num_threads(before)


if __name__ == "__main__":
    work(sys.argv[1])
