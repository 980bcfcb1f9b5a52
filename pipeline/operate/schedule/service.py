"""The service itself: APScheduler in front of one runner, signals, and a single run by `--once`."""

from __future__ import annotations

import logging
import queue
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from types import FrameType
from typing import Any
from zoneinfo import ZoneInfo

from apscheduler.executors.pool import ThreadPoolExecutor
from apscheduler.schedulers.background import BackgroundScheduler

from pipeline.config import Pipeline, Schedule
from pipeline.cron import trigger
from pipeline.errors import ConfigError, ScheduleError
from pipeline.lake import Lake
from pipeline.operate.schedule.command import Command
from pipeline.operate.schedule.health import health_endpoint
from pipeline.operate.schedule.locks import only_service
from pipeline.operate.schedule.records import Run, RunTable
from pipeline.operate.schedule.runner import Runner
from pipeline.operate.schedule.status import Status

log = logging.getLogger(__name__)

# Between asking a run to end and ending it: a training writes its checkpoint.
TERMINATE_SECONDS = 60.0

_DONE = None
Told = queue.SimpleQueue[signal.Signals | None]
"""Signals, and `_DONE` when the work is done: the one queue that the main thread waits on."""


def serve(pipeline: Pipeline, lake: Lake, command: Command) -> None:
    """Runs the jobs at their times until SIGTERM or SIGINT.

    Args:
        pipeline: With its section `schedule`.
        lake: Its lake.
        command: What the process of a job is told to do.

    Raises:
        ConfigError: There is no such section, or the webhook's variable is not set.
        ScheduleError: A service of this pipeline runs already, or the health port is taken.
    """
    schedule = required(pipeline)
    lake.require_writable()
    status = Status(schedule.jobs)
    runner = Runner(pipeline.name, schedule, lake, command, status)
    with only_service(lake, pipeline.name), _signals() as told:
        runner.close_lost()
        runs = [run for run in RunTable(lake).read() if run.pipeline == pipeline.name]
        status.recall(runs)
        scheduler = scheduler_of(schedule, runner.run, runs)

        def report() -> tuple[bool, dict[str, Any]]:
            return _report(pipeline.name, status, scheduler)

        with health_endpoint(schedule.health_port, report) as address:
            log.info("pipeline %s, lake %s, %s", pipeline.name, lake.root, address)
            scheduler.start()
            for job in scheduler.get_jobs():
                log.info("job %s runs next at %s", job.id, job.next_run_time)
            told.get()
            scheduler.pause()
            runner.stop()
            # Not by shutdown(wait=True) at once: it keeps the locks that /health needs meanwhile.
            _begin(runner.wait, told)
            _end(runner, told, schedule.stop_grace_seconds)
            scheduler.shutdown()
    log.info("stopped")


def run_once(pipeline: Pipeline, lake: Lake, command: Command, name: str) -> Run:
    """Runs one job now, with its retries, and records it.

    Args:
        pipeline: With its section `schedule`.
        lake: Its lake.
        command: What the process of a job is told to do.
        name: The job.

    Raises:
        ConfigError: There is no such job.
        ScheduleError: It failed after its retries, or was stopped.
    """
    schedule = required(pipeline)
    if name not in schedule.jobs:
        raise ConfigError(
            "--once", f"there is no job {name!r}", f"Jobs: {', '.join(schedule.jobs)}."
        )
    lake.require_writable()
    runner = Runner(pipeline.name, schedule, lake, command, Status(schedule.jobs))
    ran: list[Run | None] = []
    with _signals() as told:
        _begin(lambda: ran.append(runner.run(name)), told)
        if told.get() is not _DONE:
            runner.stop()
            _end(runner, told, schedule.stop_grace_seconds)
    [run] = ran
    if run is None or run.outcome not in ("succeeded", "unchanged"):
        problem = "was stopped before it began" if run is None else f"{run.outcome}: {run.error}"
        raise ScheduleError(f"job {name}", problem, "See the log; it can be run again.")
    return run


def required(pipeline: Pipeline) -> Schedule:
    """The pipeline's schedule.

    Raises:
        ConfigError: It has none.
    """
    if pipeline.schedule is None:
        raise ConfigError(
            "schedule", "is missing", "Add it to the pipeline's YAML; see docs/schedule.md."
        )
    return pipeline.schedule


def scheduler_of(schedule: Schedule, run: Callable[[str], object], runs: Sequence[Run]) -> Any:
    """A scheduler of APScheduler that has the jobs and is not started.

    One worker thread: jobs of one pipeline write the same tables, see `RunLock`. A job that is due
    while another runs waits for the thread; while it waits or runs itself it is not due again.

    Args:
        schedule: The jobs.
        run: Called with a job's name.
        runs: What was run before. A job whose time came since its last run, such as while the
            service was down, is due at once, and once however often it was missed. A run that was
            interrupted does not count as one.
    """
    zone = ZoneInfo(schedule.time_zone)
    scheduler = BackgroundScheduler(timezone=zone, executors={"default": ThreadPoolExecutor(1)})
    now = datetime.now(zone)
    for name, job in schedule.jobs.items():
        begun = [r.started_at for r in runs if r.job == name and r.outcome != "interrupted"]
        oldest = now - timedelta(seconds=job.misfire_grace_seconds)
        since = max(max(begun) + timedelta(microseconds=1), oldest) if begun else now
        times = trigger(job.cron, zone)
        scheduler.add_job(
            run,
            times,
            args=[name],
            id=name,
            name=name,
            next_run_time=times.get_next_fire_time(None, since.astimezone(zone)),
            misfire_grace_time=job.misfire_grace_seconds,
            max_instances=1,
            coalesce=True,
        )
    return scheduler


def _report(pipeline: str, status: Status, scheduler: Any) -> tuple[bool, dict[str, Any]]:
    jobs = {}
    for name, job in status.jobs().items():
        planned = scheduler.get_job(name)
        jobs[name] = {
            "next_run": _iso(planned.next_run_time if planned else None),
            "last_outcome": job.last_outcome,
            "last_ended": _iso(job.last_ended),
            "consecutive_failures": job.consecutive_failures,
            "running_since": _iso(job.running_since),
        }
    well = not status.failing
    return well, {"status": "ok" if well else "failing", "pipeline": pipeline, "jobs": jobs}


def _iso(moment: datetime | None) -> str | None:
    return moment.astimezone(UTC).isoformat(timespec="seconds") if moment else None


@contextmanager
def _signals() -> Iterator[Told]:
    """SIGTERM and SIGINT as entries of a queue.

    A handler may interrupt any line, and must not take a lock that this line holds: of Python's
    means to wake a thread only SimpleQueue.put is made for that.
    """
    told: Told = queue.SimpleQueue()

    def tell(number: int, _frame: FrameType | None) -> None:
        told.put(signal.Signals(number))

    before = {number: signal.signal(number, tell) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield told
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _begin(work: Callable[[], object], told: Told) -> None:
    """Starts work in a thread, which tells when it is done."""

    def do() -> None:
        try:
            work()
        finally:
            told.put(_DONE)

    threading.Thread(target=do, name="run", daemon=True).start()


def _end(runner: Runner, told: Told, grace_seconds: float) -> None:
    """Waits for what runs; when its time is over or another signal comes, is less patient."""
    log.info("stopping: nothing new begins, a run may go on for %g s", grace_seconds)
    steps = (
        (grace_seconds, runner.terminate, "the run is asked to end"),
        (TERMINATE_SECONDS, runner.kill, "the run is killed"),
    )
    for patience, step, said in steps:
        try:
            if told.get(timeout=patience) is _DONE:
                return
        except queue.Empty:
            pass
        log.warning("stopping: %s", said)
        step()
    while told.get() is not _DONE:
        pass
