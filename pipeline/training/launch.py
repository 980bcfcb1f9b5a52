"""Starts the ranks of a training, and starts them again when one is lost.

On one machine torchrun's elastic agent runs them, on a cluster Spark's TorchDistributor, one
barrier task a rank; all of them run `pipeline.training.worker`. Restarts are counted here and not
by the agent: what a rank says is its own fault, such as a loss that is no number, would only come
again.

Source: https://docs.pytorch.org/docs/stable/elastic/run.html and
https://spark.apache.org/docs/latest/api/python/reference/api/pyspark.ml.torch.distributor.TorchDistributor.html
"""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from py4j.protocol import Py4JJavaError
from pyspark.errors import PySparkException
from pyspark.ml.torch.distributor import TorchDistributor
from pyspark.sql import SparkSession
from torch.distributed.elastic.multiprocessing import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from pipeline.errors import ConfigError, StoppedError, WorkerLostError
from pipeline.training import causes, worker
from pipeline.training.job import Job, choose_device
from pipeline.training.ranks import STORE, Ranks

log = logging.getLogger(__name__)

_EXECUTORS_SECONDS = 60
_LEAVE_SECONDS = 10
"""What a rank has to write its checkpoint when it is asked to stop."""


def run_job(job: Job, spark: SparkSession | None = None) -> None:
    """Trains; the newest checkpoint in the job's folder then holds the result.

    One worker without restarts trains in this very process.

    Args:
        job: What to train; its folder is on a disk that every worker sees.
        spark: The session whose executors train; None: processes of this machine.

    Raises:
        LakestormError: What ended the last attempt: its first cause.
    """
    settings = job.pipeline.train
    if settings.workers == 1 and settings.max_restarts == 0:
        worker.train_rank(job, Ranks(device=choose_device(settings.device)))
        return
    causes.clear(job.folder)
    path = job.write()
    attempt = _on_this_machine
    if spark is not None and not str(spark.sparkContext.master).startswith("local"):
        attempt = partial(_on_spark, spark)
    for restart in range(settings.max_restarts + 1):
        ended = attempt(path, settings.workers)
        if ended is None:
            return
        cause = causes.first_cause(job.folder, ended, settings.hang_seconds)
        if not isinstance(cause, WorkerLostError):
            raise cause
        if causes.attempts(job.folder) > settings.max_restarts:  # Spark may have tried more
            break
        if restart < settings.max_restarts:
            log.warning("%s. Restart %d of %d.", cause, restart + 1, settings.max_restarts)
    raise WorkerLostError(
        cause.where, f"{cause.problem}; restarted {settings.max_restarts} times", cause.remedy
    )


def _on_this_machine(path: Path, workers: int) -> Mapping[int, int] | None:
    """Runs all ranks once; returns None if they finished, else who was seen to end first."""
    # The agent and the ranks meet in files: torch's own store listens on every interface.
    meeting, ranks_meeting = path.with_name("agents.store"), path.with_name("ranks.store")
    for store in (meeting, ranks_meeting):
        store.unlink(missing_ok=True)
    for_ranks = {
        "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1",
        STORE: str(ranks_meeting),
        # DDP's warning that `find_unused_parameters` costs a little: it is wanted, see loop.py.
        "TORCH_CPP_LOG_LEVEL": os.environ.get("TORCH_CPP_LOG_LEVEL", "ERROR"),
    }
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=workers,
        run_id=path.parent.name,
        max_restarts=0,
        rdzv_backend="c10d",
        rdzv_endpoint=str(meeting),
        rdzv_configs={"store_type": "file"},
        local_addr="localhost",
        shutdown_timeout=_LEAVE_SECONDS,
    )
    try:
        with _environment(for_ranks):
            elastic_launch(config, sys.executable)("-m", "pipeline.training.worker", str(path))
    except ChildFailedError as error:
        return {rank: failure.exitcode for rank, failure in error.failures.items()}
    except SignalException as error:
        raise StoppedError(
            f"run {path.parent.name}",
            f"was asked to stop by {error.sigval.name}, and wrote a checkpoint if it had begun",
            "Start it again: it goes on from its newest checkpoint.",
        ) from error
    return None


@contextmanager
def _environment(settings: Mapping[str, str]) -> Iterator[None]:
    """Environment variables for processes that are started within; gone afterwards."""
    before = {name: os.environ.get(name) for name in settings}
    os.environ.update(settings)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


def _on_spark(spark: SparkSession, path: Path, workers: int) -> Mapping[int, int] | None:
    """Runs all ranks as one barrier stage; which ended first is not told by Spark."""
    _await_slots(spark, workers)
    use_gpu = spark.conf.get("spark.task.resource.gpu.amount", None) is not None
    distributor = TorchDistributor(num_processes=workers, local_mode=False, use_gpu=use_gpu)
    try:
        distributor.run(worker.work, str(path))
    except (PySparkException, Py4JJavaError, RuntimeError) as error:
        log.warning("Spark ended the workers: %s", str(error).strip().splitlines()[0])
        return {}
    return None


def _await_slots(spark: SparkSession, workers: int) -> None:
    """Waits until executors have come for all ranks; Spark itself would wait for ten minutes.

    Raises:
        ConfigError: They do not come.
    """
    until = time.monotonic() + _EXECUTORS_SECONDS
    while (slots := spark.sparkContext.defaultParallelism) < workers:
        if time.monotonic() > until:
            raise ConfigError(
                "train.workers",
                f"is {workers}, and Spark has {slots} cores for tasks",
                "Set fewer workers, or ask Spark for more executors.",
            )
        time.sleep(0.5)
