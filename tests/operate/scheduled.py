"""The service in a process of its own, with chores instead of stages, and what tests ask of it.

As a program: `scheduled.py PIPELINE.yaml FOLDER [JOB]`; with a job as `--once` does.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline.config import Job, Pipeline, load_pipeline
from pipeline.errors import LakestormError
from pipeline.lake import Lake
from pipeline.operate.schedule.command import Command
from pipeline.operate.schedule.records import Run, RunTable
from pipeline.operate.schedule.service import run_once, serve
from tests.flights import CHECKOUT, FLIGHTS

CHORE = Path(__file__).with_name("chore.py")
ONCE_A_YEAR = "0 0 1 1 *"
CENTURY_SECONDS = 100 * 365 * 86_400


def chores_of(folder: Path) -> Command:
    chores = json.loads((folder / "chores.json").read_text())

    def command(job: Job) -> list[str]:
        return [sys.executable, str(CHORE), str(folder), *chores[job.stages[0]]]

    return command


def main(pipeline_yaml: str, folder: str, once: str | None = None) -> None:
    pipeline, command = load_pipeline(pipeline_yaml), chores_of(Path(folder))
    # As pipeline.cli does it, whose imports take most of a second.
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s")
    logging.getLogger("apscheduler").setLevel(logging.WARNING)
    try:
        if once is None:
            serve(pipeline, Lake(pipeline.lake), command)
        else:
            run_once(pipeline, Lake(pipeline.lake), command, once)
    except LakestormError as error:
        sys.exit(f"lakestorm: {type(error).__name__}: {error}")


def job(**settings: Any) -> dict[str, Any]:
    """A job that is due once a year, tried once, and made up for however late."""
    return {
        "cron": ONCE_A_YEAR,
        "retries": 0,
        "backoff_seconds": 0,
        "misfire_grace_seconds": CENTURY_SECONDS,
        **settings,
    }


class Service:
    """A process of the service; gives what it logs line by line."""

    def __init__(self, *arguments: str, environment: dict[str, str]) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.operate.scheduled", *arguments],
            cwd=CHECKOUT,
            env={**os.environ, **environment},
            stderr=subprocess.PIPE,
            text=True,
        )
        self.log = ""

    def until(self, text: str) -> str:
        """The next line with that text, as soon as it is there."""
        for line in self._process.stderr or ():
            self.log += line
            if text in line:
                return line
        pytest.fail(f"it ended without saying {text!r}:\n{self.log}")

    def unheard(self) -> None:
        """Nobody reads its log any more."""
        if self._process.stderr:
            self._process.stderr.close()

    def address(self) -> str:
        return self.until("/health").split()[-1]

    def signal(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    def code(self) -> int:
        """Its exit code, when it has ended by itself."""
        if self._process.stderr and not self._process.stderr.closed:
            self.log += self._process.stderr.read()
            self._process.stderr.close()
        return self._process.wait()

    def kill(self) -> None:
        self._process.kill()
        if self._process.stderr:
            self._process.stderr.close()
        self._process.wait()


class Place:
    """A pipeline whose jobs are chores, with a lake of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.lake = Lake(folder / "lake")
        self.lake.require_writable()
        self.table = RunTable(self.lake)
        self._services: list[Service] = []
        for pipe in ("began", "go"):
            os.mkfifo(folder / pipe)

    def write(self, chores: dict[str, str], **schedule: Any) -> None:
        """Sets what the jobs, named after their stages, do; each due once a year unless said."""
        described = yaml.safe_load(FLIGHTS.read_text())
        described["lake"] = self.lake.root
        jobs = {name: job() for name in chores}
        described["schedule"] = {"jobs": jobs, "health_port": 0, **schedule}
        (self.folder / "pipeline.yaml").write_text(yaml.safe_dump(described))
        words = {name: chore.split() for name, chore in chores.items()}
        (self.folder / "chores.json").write_text(json.dumps(words))

    def overdue(self, *jobs: str) -> None:
        """Lets jobs have run years ago, and so be due, one after the other."""
        for name in jobs:
            at = datetime.now(UTC) - timedelta(days=5 * 366)
            run = Run(run_id=f"old-{name}", attempt=1, pipeline="flights", job=name, started_at=at)
            self.table.started(run)
            ended = Run(**{**run.__dict__, "ended_at": at, "outcome": "succeeded"})
            self.table.ended(ended)

    def start(self, once: str | None = None, **environment: str) -> Service:
        arguments = [str(self.folder / "pipeline.yaml"), str(self.folder)]
        service = Service(*arguments, *([once] if once else []), environment=environment)
        self._services.append(service)
        return service

    def serve(self) -> None:
        """The service in this process, for what keeps it from starting."""
        serve(self._pipeline(), self.lake, chores_of(self.folder))

    def once(self, name: str) -> Run:
        """`--once` in this process."""
        return run_once(self._pipeline(), self.lake, chores_of(self.folder), name)

    def _pipeline(self) -> Pipeline:
        return load_pipeline(self.folder / "pipeline.yaml")

    def runs(self) -> list[Run]:
        """The runs of the test itself, the oldest first."""
        return [run for run in self.table.read()[::-1] if not run.run_id.startswith("old-")]

    def outcomes(self) -> list[tuple[str, int, str | None]]:
        return [(run.job, run.attempt, run.outcome) for run in self.runs()]

    def diary(self) -> list[str]:
        """What the chores wrote of themselves."""
        return (self.folder / "diary").read_text().split()

    def began(self) -> int:
        """Waits until a chore waits; returns its process."""
        return int((self.folder / "began").read_text())

    def go(self) -> None:
        """Lets the chore that waits go on."""
        (self.folder / "go").write_text("go")

    def close(self) -> None:
        for service in self._services:
            service.kill()
        # A chore that still waits goes on, and one that comes late finds nothing to wait for.
        for name in ("began", "go"):
            pipe = os.open(self.folder / name, os.O_RDWR | os.O_NONBLOCK)
            (self.folder / name).unlink()
            os.close(pipe)


if __name__ == "__main__":
    main(*sys.argv[1:])
