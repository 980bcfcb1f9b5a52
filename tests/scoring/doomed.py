"""Incremental runs in processes of their own, each with its Spark, that stop where they are told.

    python -m tests.scoring.doomed

reads two lines of JSON for each run: to start its process, which makes itself ready, and what to
run and the phase in which to stop until somebody kills it. It forks, so that what takes seconds is
imported once, and prints each run's process id and, when it has ended, its exit code. A run says
through a pipe where it is; its executors do alike.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from pyspark.sql import SparkSession

from pipeline.clean import increment
from pipeline.lake import Lake
from pipeline.operate.walk import Asked, walk
from pipeline.scoring import stage, task
from pipeline.scoring.plan import ScoreTask
from pipeline.session import spark_session
from pipeline.training.tracking import import_quietly
from tests.flights import small_pipeline

PHASES = (
    "planning",
    "tasks running",
    "task commit",
    "before the Delta commit",
    "after the Delta commit",
    "before the checkpoint",
)
"""In the order of the issue; the last is of `clean`, whose commit is done and whose checkpoint does
not know it, so that nothing of it is scored yet."""

STAGES = ("clean", "featurize", "score")
CLEANING = PHASES[5]
CORES = 1
"""A run imports torch once a core, which takes it longer than all else."""

Order = dict[str, Any]


class Watch:
    """Stops a run in its phase; goes with the tasks to the executors.

    Args:
        phase: Where.
        stays: Whether the run stays there for good, or only says so.
        pipe: Where it says so.
    """

    def __init__(self, phase: str, stays: bool, pipe: str) -> None:
        self._phase, self._stays, self._pipe = phase, stays, pipe

    def reach(self, phase: str) -> None:
        if self._phase == phase:
            Path(self._pipe).write_text(phase)
            while self._stays:
                signal.pause()

    def before(self, phase: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, which begins by reaching a phase."""

        def called(*arguments: Any, **named: Any) -> Any:
            self.reach(phase)
            return function(*arguments, **named)

        return called

    def after(self, phase: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, which ends by reaching a phase."""

        def called(*arguments: Any, **named: Any) -> Any:
            result = function(*arguments, **named)
            self.reach(phase)
            return result

        return called


_predict, _score_tasks = task.predict, task.score_tasks


def score_tasks(watch: Watch, job: task.Job, tasks: Iterator[ScoreTask]) -> Iterator[task.Scored]:
    """`score_tasks`, which reaches its phases on the executor: among rows, and with files whole."""
    task.predict = watch.before("tasks running", _predict)
    for scored in _score_tasks(job, tasks):
        watch.reach("task commit")
        yield scored


def run(spark: SparkSession, order: Order, watch: Watch) -> None:
    """Runs stages on what came, past all phases."""
    scoring: Any = stage
    scoring.plan_tasks = watch.before("planning", scoring.plan_tasks)
    scoring.score_tasks = partial(score_tasks, watch)
    scoring.commit = watch.before(PHASES[3], watch.after(PHASES[4], scoring.commit))
    cleaning: Any = increment._Increment
    cleaning._on_batch = watch.after(CLEANING, cleaning._on_batch)
    pipeline = small_pipeline(Path(order["lake"]), *order["changes"])
    lake = Lake(order["lake"])
    for outcome in walk(spark, pipeline, lake, order["stages"], Asked(incremental=True)):
        sys.stdout.write(f"{outcome}\n")


def ready() -> SparkSession:
    """A Spark whose Python workers have imported what they need."""
    spark = spark_session("doomed", f"local[{CORES}]")
    nothing = spark.sparkContext.parallelize(range(CORES), CORES)
    nothing.mapPartitions(lambda _: [task.Scored.__name__]).collect()
    return spark


def live(says: str, pipe: str, orders: int) -> None:
    """A run's own process, from its start to its end."""
    try:
        os.setsid()
        said = os.open(says, os.O_WRONLY)
        os.dup2(said, 1)
        os.dup2(said, 2)
        spark = ready()
        with os.fdopen(orders) as lines:
            line = lines.readline()
        if line:  # else nobody needs it any more
            order: Order = json.loads(line)
            run(spark, order, Watch(order["phase"], order["stays"], pipe))
    except BaseException:  # noqa: BLE001 - told, and the end of this process
        traceback.print_exc()
    finally:
        with suppress(OSError):  # nobody reads any more where it did not stay
            os.write(os.open(pipe, os.O_WRONLY | os.O_NONBLOCK), b"ended")
        sys.stdout.flush()
        os._exit(0)


def main() -> None:
    import_quietly()
    for line in sys.stdin:
        started: Order = json.loads(line)
        orders, order = os.pipe()
        child = os.fork()
        if not child:
            os.close(order)
            live(started["says"], started["pipe"], orders)
        os.close(orders)
        tell(child)
        # Until there is an order or nobody is left to give one: the run then ends by itself.
        with os.fdopen(order, "w") as gives:
            gives.write(sys.stdin.readline())
        tell(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))


def tell(number: int) -> None:
    sys.stdout.write(f"{number}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
