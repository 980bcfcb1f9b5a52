"""One run of a job: attempts with back-off, each in a process of its own, recorded and told."""

from __future__ import annotations

import json
import logging
import os
import threading
import uuid
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime

from pipeline.config import Job, Schedule
from pipeline.lake import Lake
from pipeline.operate.schedule.child import Child, Ended, in_short
from pipeline.operate.schedule.command import Command
from pipeline.operate.schedule.locks import RunLock
from pipeline.operate.schedule.records import Run, RunTable, stage_runs
from pipeline.operate.schedule.status import Status
from pipeline.operate.schedule.webhook import Webhook

log = logging.getLogger(__name__)

LONGEST_BACKOFF_SECONDS = 3600.0


class Runner:
    """Runs the jobs of one pipeline, one at a time.

    Args:
        pipeline: Its name.
        schedule: Its jobs.
        lake: Where runs are recorded.
        command: What the process of a job is told to do.
        status: Kept up to date.
    """

    def __init__(
        self, pipeline: str, schedule: Schedule, lake: Lake, command: Command, status: Status
    ) -> None:
        self._pipeline = pipeline
        self._schedule = schedule
        self._command = command
        self._status = status
        self._table = RunTable(lake)
        self._lock = RunLock(lake, pipeline)
        self._webhook = Webhook(schedule.webhook_env)
        self._stopping = threading.Event()
        self._busy = threading.Lock()
        # Guards the two below: a child is started or refused, never started after it was refused.
        self._guard = threading.Lock()
        self._child: Child | None = None
        self._forced = False
        self._closed = False

    def run(self, name: str) -> Run | None:
        """Runs a job with its retries.

        Returns:
            Its last attempt; None where the service was stopped before the first.
        """
        with self._busy:
            last = self._attempts(name, self._schedule.jobs[name])
            if last is None:
                self._status.idle(name)
                return None
            self._status.ended(last)
        if last.outcome == "failed":
            log.error("job %s failed after attempt %d: %s", name, last.attempt, last.error)
            self._webhook.tell(last)
        else:
            log.info("job %s: %s", name, last.outcome)
        return last

    def stop(self) -> None:
        """Lets nothing new begin; what runs goes on."""
        self._stopping.set()

    def wait(self) -> None:
        """Waits until nothing runs; to be called after `stop`."""
        with self._busy:
            pass

    def terminate(self) -> None:
        """Asks the process that runs to end."""
        self._end(Child.terminate)

    def kill(self) -> None:
        """Ends the process that runs and all that it started."""
        self._end(Child.kill)

    def close_lost(self) -> None:
        """Records as interrupted what a killed service left, unless it still runs."""
        impatient = threading.Event()
        impatient.set()
        with self._lock.held(impatient) as lock:
            if lock is not None:
                self._close()
            else:
                log.warning("a run of this pipeline is still going; the next one waits for it")

    def _attempts(self, name: str, job: Job) -> Run | None:
        last: Run | None = None
        run_id = uuid.uuid4().hex
        for attempt in range(1, job.retries + 2):
            ran = self._recorded(name, job, run_id, attempt)
            last = ran or last
            if ran is None or ran.outcome != "failed" or attempt > job.retries:
                break
            pause = backoff_seconds(job, attempt)
            log.warning(
                "job %s, attempt %d failed, the next in %g s: %s", name, attempt, pause, ran.error
            )
            if self._stopping.wait(pause):
                break
        return last

    def _recorded(self, name: str, job: Job, run_id: str, attempt: int) -> Run | None:
        """One attempt with its two records; None where the service was stopped before it."""
        run = Run(
            run_id=run_id,
            attempt=attempt,
            pipeline=self._pipeline,
            job=name,
            started_at=datetime.now(UTC),
        )
        try:
            with self._lock.held(self._stopping) as lock:
                if lock is None or self._stopping.is_set():
                    return None
                self._close()
                run = replace(run, started_at=datetime.now(UTC))
                self._table.started(run)
                self._status.begins(name, run.started_at)
                run = self._ran(run, self._command(job), lock)
                self._table.ended(run)
        except Exception as error:
            # A full disk, a lake that is gone: loud, tried again, and no end of the service.
            log.exception("job %s could not be run or recorded", name)
            told = in_short(f"{type(error).__name__}: {error}")
            return replace(run, ended_at=datetime.now(UTC), outcome="failed", error=told)
        return run

    def _ran(self, run: Run, command: list[str], lock: int) -> Run:
        with self._guard:
            if not self._forced:
                self._child = Child(command, lock, _environment(self._schedule))
                log.info("job %s, attempt %d begins", run.job, run.attempt)
            child = self._child
        ended = child.wait() if child else Ended(0, "", "")
        with self._guard:
            self._child = None
            forced = self._forced
        return replace(_judged(run, ended, forced=forced), ended_at=datetime.now(UTC))

    def _end(self, how: Callable[[Child], None]) -> None:
        with self._guard:
            self._forced = True
            if self._child is not None:
                how(self._child)

    def _close(self) -> None:
        """Looks for lost runs once: later ones are this process's own. The lock must be held."""
        if self._closed:
            return
        for run in self._table.close(self._pipeline):
            log.warning("job %s was interrupted: it began at %s", run.job, run.started_at)
        self._closed = True


def backoff_seconds(job: Job, attempt: int) -> float:
    """The pause after a failed attempt: doubled each time, never above an hour."""
    return min(job.backoff_seconds * 2.0 ** (attempt - 1), LONGEST_BACKOFF_SECONDS)


def _judged(run: Run, ended: Ended, *, forced: bool) -> Run:
    """The run with its outcome, from how its process ended and what that printed."""
    if ended.fault is not None:
        return replace(run, outcome="interrupted" if forced else "failed", error=ended.fault)
    try:
        stages = stage_runs(json.loads(ended.output)["stages"])
    except (ValueError, TypeError, KeyError):
        if forced:
            return replace(run, outcome="interrupted", error="the service was stopped")
        return replace(run, outcome="failed", error="ended without telling what it did")
    unchanged = all(stage.unchanged for stage in stages)
    return replace(run, outcome="unchanged" if unchanged else "succeeded", stages=stages)


def _environment(schedule: Schedule) -> Mapping[str, str]:
    """The service's own, without the secret that only it needs."""
    return {name: value for name, value in os.environ.items() if name != schedule.webhook_env}
