"""What the service knows of its jobs: the last end of each, and what runs now."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from pipeline.operate.schedule.records import Outcome, Run


@dataclass(frozen=True)
class JobStatus:
    """One job as the service knows it."""

    last_outcome: Outcome | None = None
    """Of its last run, after that one's retries."""
    last_ended: datetime | None = None
    consecutive_failures: int = 0
    """Runs, not attempts, that failed since the last one that did not."""
    running_since: datetime | None = None


class Status:
    """The jobs' status, shared by the threads that run and the one that answers.

    Args:
        jobs: Their names.
    """

    def __init__(self, jobs: Iterable[str]) -> None:
        self._lock = threading.Lock()
        self._jobs = {name: JobStatus() for name in jobs}

    def recall(self, runs: Sequence[Run]) -> None:
        """Takes over what the table of runs, newest first, tells of the time before."""
        last_attempts = {run.run_id: run for run in sorted(runs, key=lambda run: run.attempt)}
        for run in sorted(last_attempts.values(), key=lambda run: run.started_at):
            if run.job in self._jobs and run.outcome is not None:
                self.ended(run)

    def begins(self, job: str, at: datetime) -> None:
        """A run of the job begins; its retries change nothing."""
        with self._lock:
            before = self._jobs[job]
            self._jobs[job] = replace(before, running_since=before.running_since or at)

    def ended(self, run: Run) -> None:
        """A run ended, after its retries."""
        with self._lock:
            before = self._jobs[run.job].consecutive_failures
            failures = {"failed": before + 1, "interrupted": before}.get(str(run.outcome), 0)
            self._jobs[run.job] = JobStatus(run.outcome, run.ended_at, failures)

    def idle(self, job: str) -> None:
        """Nothing runs, and nothing was run."""
        with self._lock:
            self._jobs[job] = replace(self._jobs[job], running_since=None)

    def jobs(self) -> dict[str, JobStatus]:
        """All jobs as they are now."""
        with self._lock:
            return dict(self._jobs)

    @property
    def failing(self) -> bool:
        """Whether the last run of any job failed after its retries."""
        return any(job.last_outcome == "failed" for job in self.jobs().values())
