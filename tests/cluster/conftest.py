"""The compose cluster on a real Docker engine, with a lake that this process reads directly."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline.session import CHECKOUT
from tests.flights import FLIGHTS, SMALL, small_raw

PROJECT = "lakestorm-test"
COMPOSE_FILE = CHECKOUT / "docker" / "docker-compose.yml"
# Where this is there, it starts an engine and makes the base image where no registry answers.
SPARE = CHECKOUT.parent / "shared" / "docker"
BASE = "python:3.11-slim-bookworm"
MASTER = "spark://spark-master:7077"
USER = 1000
"""Of everything in the containers, see docker/Dockerfile."""

SETTINGS = (*SMALL, "train.epochs=2", "train.max_restarts=3", "train.rows_per_batch=256")
SECONDS = 600
"""What anything may take: the machine may be busy, and a test that hangs must end."""


def ran(*command: str, env: Mapping[str, str] | None = None) -> str:
    """What a program prints; fails with what it complained of."""
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=env)
    assert done.returncode == 0, f"{' '.join(command)}: {done.stdout[-3000:]}{done.stderr[-3000:]}"
    return done.stdout.strip()


def until(what: str, reached: Callable[[], Any], pause: float = 0.1) -> Any:
    """Asks again and again, for what cannot be waited for; what it came to.

    Args:
        what: For the error.
        reached: Anything that is not false ends the wait.
        pause: Seconds before it is asked again.
    """
    end = time.monotonic() + SECONDS
    while not (found := reached()):
        assert time.monotonic() < end, f"{what}: not within {SECONDS} s"
        time.sleep(pause)
    return found


class Cluster:
    """The services of docker/docker-compose.yml.

    Args:
        lakes: A folder on this machine, mounted as /lake.
        ports: Of the pages.
    """

    def __init__(self, lakes: Path, ports: Mapping[str, int]) -> None:
        self.lakes = lakes
        self._jobs: list[Job] = []
        self.ports = ports
        v2 = (
            shutil.which("docker")
            and not subprocess.run(
                ["docker", "compose", "version"], capture_output=True, check=False
            ).returncode
        )
        program = ["docker", "compose"] if v2 else ["docker-compose"]
        self._command = [*program, "--file", str(COMPOSE_FILE), "--project-name", PROJECT]
        self._environment = {
            **os.environ,
            "LAKE": str(lakes),
            "PIPELINE": "/lake/idle.yaml",
            "COMPOSE_PROJECT_NAME": PROJECT,
            **{name: str(port) for name, port in ports.items()},
        }

    def compose(self, *arguments: str, **settings: str) -> str:
        """What Compose prints, with other settings of docker/.env where they are given."""
        return ran(*self._command, *arguments, env=self._environment | settings)

    def remove(self) -> None:
        """Stops all, jobs that still run too, and leaves no container, network or volume."""
        for job in self._jobs:
            job.stop()
        of = ("--filter", f"label=com.docker.compose.project={PROJECT}")
        if left := ran("docker", "ps", "-aq", *of).split():
            ran("docker", "rm", "--force", *left)
        self.compose("--profile", "job", "down", "--volumes", "--remove-orphans")

    def containers(self, service: str) -> list[str]:
        of = (
            f"label=com.docker.compose.project={PROJECT}",
            f"label=com.docker.compose.service={service}",
        )
        return ran("docker", "ps", "--no-trunc", "-q", "--filter", of[0], "--filter", of[1]).split()

    def kill(self, container: str, when: Callable[[], Any] | None = None) -> None:
        """SIGKILL for all that runs in it, at once; its restart policy then brings it back.

        Args:
            container: Its id, which it keeps.
            when: Waited for, and followed within a few milliseconds.
        """
        [[began, process]] = inspected("{{.State.StartedAt}} {{.State.Pid}}", container)
        if when is not None:
            until("the moment to kill", when, pause=0.001)
        os.kill(int(process), signal.SIGKILL)
        until(
            "restart of a killed container",
            lambda: inspected("{{.State.StartedAt}}", container) != [[began]],
        )

    def network(self, how: str, container: str) -> None:
        """`disconnect` or `connect`."""
        ran("docker", "network", how, f"{PROJECT}_default", container)

    def page(self, path: str, port: str = "MASTER_PORT") -> str | None:
        """A page of this cluster; None if it is not there."""
        try:
            url = f"http://127.0.0.1:{self.ports[port]}{path}"
            with urllib.request.urlopen(url, timeout=20) as answer:
                return str(answer.read().decode())
        except OSError:
            return None

    def _master(self) -> dict[str, Any]:
        told: dict[str, Any] = json.loads(self.page("/json/") or "{}")
        return told

    def workers(self) -> int:
        return int(self._master().get("aliveworkers", 0))

    def applications(self) -> list[str]:
        """Ids of all that the master has heard of."""
        told = self._master()
        return [each["id"] for each in told["activeapps"] + told["completedapps"]]

    def _of_applications(self, what: str) -> list[str]:
        """A part of the interface of each application that runs at this moment."""
        ids = [each["id"] for each in self._master().get("activeapps", [])]
        found = [self.page(f"/proxy/{each}/api/v1/applications/{each}/{what}") for each in ids]
        return [page for page in found if page]

    def environment_pages(self) -> list[str]:
        """What pages say of settings: the master's, and of applications that run."""
        return [self.page("/environment/") or "", *self._of_applications("environment")]

    def executors(self) -> list[dict[str, Any]]:
        """Those of the applications that run at this moment, as their own pages tell of them."""
        # One that has just begun answers with a page for people, or for nobody.
        pages = [page for page in self._of_applications("executors") if page.startswith("[")]
        return [each for page in pages for each in json.loads(page) if each["id"] != "driver"]

    def busy_worker(self) -> str | None:
        """The container of a worker where a task runs at this moment."""
        at_work = [
            each["hostPort"].rpartition(":")[0] for each in self.executors() if each["activeTasks"]
        ]
        if not at_work:
            return None
        where = "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}} {{.Id}}"
        return dict(inspected(where, *self.containers("spark-worker")))[at_work[0]]

    def submit(self, *command: str) -> Job:
        """Runs a command where jobs are submitted."""
        job = Job([*self._command, "run", "--rm", "-T", "submit", *command], self._environment)
        self._jobs.append(job)
        return job

    def start(self, stage: str, lake: str, *arguments: str, name: str | None = None) -> Job:
        """Submits a job on a lake."""
        settings = (f"lake=/lake/{lake}", f"name={name or lake}", *SETTINGS)
        return self.submit(
            *("spark-submit", f"jobs/{stage}.py", "conf/pipelines/flights.yaml"),
            *(*arguments, "--json"),
            *(option for setting in settings for option in ("--set", setting)),
        )

    def hosts(self) -> set[str]:
        """Where executors are found by `lakestorm doctor`."""
        told = self.submit(
            *("lakestorm", "doctor", "conf/pipelines/flights.yaml", "--master", MASTER, "--json")
        ).summary()
        [seen] = [each["found"] for each in told["findings"] if each["check"] == "executors"]
        return set(seen.partition("seen on ")[2].split(", "))

    def run(self, stage: str, lake: str, *arguments: str, name: str | None = None) -> Any:
        """A job that nobody disturbs; its summary."""
        return self.start(stage, lake, *arguments, name=name).summary()

    def new_lake(self, name: str, like: str | None = None) -> Path:
        """A lake with raw flights, or a copy of another one."""
        lake = self.lakes / name
        if like is None:
            small_raw(lake)
        else:
            shutil.copytree(self.lakes / like, lake)
        own(lake)
        return lake


def inspected(what: str, *containers: str) -> list[list[str]]:
    """The words of a Go template on each of some containers."""
    lines = ran("docker", "inspect", "--format", what, *containers).splitlines()
    return [line.split() for line in lines]


class Job:
    """A job in a container of its own."""

    def __init__(self, command: list[str], environment: Mapping[str, str]) -> None:
        self._process = subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    def ended(self) -> bool:
        return self._process.poll() is not None

    def finish(self) -> tuple[int, str, str]:
        """Exit code, standard output, standard error."""
        try:
            out, err = self._process.communicate(timeout=3 * SECONDS)
        except subprocess.TimeoutExpired:
            self.stop()
            raise
        return self._process.returncode, out, err

    def stop(self) -> None:
        """Ends what submitted it; a container that it had started is left."""
        self._process.kill()
        self._process.communicate()

    def summary(self) -> Any:
        code, out, err = self.finish()
        assert code == 0, err[-5000:]
        return json.loads(out.splitlines()[-1])


def own(path: Path) -> None:
    """Gives files to the user of the containers."""
    for each in (path, *path.rglob("*")):
        os.chown(each, USER, USER)


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


@pytest.fixture(scope="session")
def engine() -> None:
    """A Docker engine and Compose; skips where none can be had."""
    if (
        shutil.which("docker") is None
        or subprocess.run(["docker", "info"], capture_output=True, check=False).returncode
    ):
        start = SPARE / "start-engine"
        if os.geteuid() != 0 or not start.exists():
            pytest.skip("no Docker engine answers here, and none can be started")
        ran(str(start))
    if os.geteuid() != 0:
        pytest.skip("the lake's folder cannot be given to the containers' user: run this as root")
    known = subprocess.run(["docker", "image", "inspect", BASE], capture_output=True, check=False)
    if known.returncode and (SPARE / "make-base-image").exists():
        ran(str(SPARE / "make-base-image"), BASE)


@pytest.fixture(scope="session")
def cluster(engine: None) -> Iterator[Cluster]:
    """Built, started, with both workers alive; nothing of it is left afterwards but the image."""
    del engine  # wanted for what it does
    lakes = Path(tempfile.mkdtemp(prefix="lakestorm-test-"))
    lakes.chmod(0o755)
    described = yaml.safe_load(FLIGHTS.read_text())
    described["schedule"]["jobs"] = {"score": {"cron": "0 0 1 1 *", "stages": ["score"]}}
    described["lake"] = "/lake/idle"
    (lakes / "idle.yaml").write_text(yaml.safe_dump(described, sort_keys=False))
    own(lakes)
    ports = {name: free_port() for name in ("MASTER_PORT", "HISTORY_PORT", "MLFLOW_PORT")}
    cluster = Cluster(lakes, ports)
    try:
        cluster.remove()  # what a run before left that was killed
        ran("make", "--directory", str(CHECKOUT), "cluster-image")
        cluster.compose("up", "--detach", "--no-build")
        until("two workers", lambda: cluster.workers() == 2)
        yield cluster
    finally:
        try:
            cluster.remove()
        finally:
            shutil.rmtree(lakes)
