"""Incremental runs in processes of their own, each with its Spark, that stop where they are told.

    python -m tests.scoring.doomed

reads a line of JSON for each run: what to run, and the phase in which to stop until somebody kills
it. It forks, so that what takes seconds is imported once, and prints each run's process id and,
when it has ended, its exit code. A run says through a pipe where it is; its executors do alike.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

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

STAGES = ("clean", "score")
_PHASE, _STAYS, _PIPE = (f"LAKESTORM_TEST_{name}" for name in ("PHASE", "STAYS", "PIPE"))


def reach(phase: str) -> None:
    """Says so if this is where the run is to be killed, and stays here for good if it is told."""
    if os.environ[_PHASE] == phase:
        Path(os.environ[_PIPE]).write_text(phase)
        while os.environ[_STAYS]:
            signal.pause()


def before(phase: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, which begins by reaching a phase."""

    def called(*arguments: Any, **named: Any) -> Any:
        reach(phase)
        return function(*arguments, **named)

    return called


def after(phase: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, which ends by reaching a phase."""

    def called(*arguments: Any, **named: Any) -> Any:
        result = function(*arguments, **named)
        reach(phase)
        return result

    return called


_predict, _score_tasks = task.predict, task.score_tasks


def score_tasks(job: task.Job, tasks: Iterator[ScoreTask]) -> Iterator[task.Scored]:
    """`score_tasks`, which reaches its phases on the executor: among rows, and with files whole."""
    task.predict = before("tasks running", _predict)
    for scored in _score_tasks(job, tasks):
        reach("task commit")
        yield scored


def run(lake: str, changes: list[str]) -> None:
    """Cleans and scores what came, past all phases."""
    scoring: Any = stage
    scoring.plan_tasks = before("planning", scoring.plan_tasks)
    scoring.score_tasks = score_tasks
    scoring.commit = before(PHASES[3], after(PHASES[4], scoring.commit))
    cleaning: Any = increment._Increment
    cleaning._on_batch = after(PHASES[5], cleaning._on_batch)
    spark = spark_session("doomed", "local[2]")
    pipeline = small_pipeline(Path(lake), *changes)
    for outcome in walk(spark, pipeline, Lake(lake), STAGES, Asked(incremental=True)):
        sys.stdout.write(f"{outcome}\n")


def begin(order: dict[str, Any]) -> int:
    """Starts a run in a process of its own, the first of a group; its id."""
    child = os.fork()
    if child:
        return child
    try:
        os.setsid()
        said = os.open(order["says"], os.O_WRONLY)
        os.dup2(said, 1)
        os.dup2(said, 2)
        os.environ.update({_PHASE: order["phase"], _STAYS: order["stays"], _PIPE: order["pipe"]})
        run(order["lake"], order["changes"])
    except BaseException:  # noqa: BLE001 - told, and the end of this process
        traceback.print_exc()
    finally:
        with suppress(OSError):  # nobody reads any more where it did not stay
            os.write(os.open(order["pipe"], os.O_WRONLY | os.O_NONBLOCK), b"ended")
        sys.stdout.flush()
        os._exit(0)


def main() -> None:
    import_quietly()
    for line in sys.stdin:
        child = begin(json.loads(line))
        tell(child)
        tell(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))


def tell(number: int) -> None:
    sys.stdout.write(f"{number}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
