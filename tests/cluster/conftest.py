"""The compose cluster on a real Docker engine, with a lake that this process reads directly."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
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
USER = 1000
"""Of everything in the containers, see docker/Dockerfile."""

SETTINGS = (*SMALL, "train.epochs=2", "train.max_restarts=3", "train.rows_per_batch=256")
SECONDS = 300


def ran(*command: str, env: Mapping[str, str] | None = None) -> str:
    """What a program prints; fails with what it complained of."""
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=env)
    assert done.returncode == 0, f"{' '.join(command)}: {done.stdout[-3000:]}{done.stderr[-3000:]}"
    return done.stdout.strip()


def until(what: str, reached: Callable[[], Any], seconds: float = SECONDS) -> Any:
    """Asks again and again, for what cannot be waited for; what it came to."""
    end = time.monotonic() + seconds
    while not (found := reached()):
        assert time.monotonic() < end, f"{what}: not within {seconds} s"
        time.sleep(0.02)
    return found


class Cluster:
    """The services of docker/docker-compose.yml.

    Args:
        lakes: A folder on this machine, mounted as /lake.
        ports: Of the pages.
    """

    def __init__(self, lakes: Path, ports: Mapping[str, int]) -> None:
        self.lakes = lakes
        self._ports = ports
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

    def compose(self, *arguments: str, pipeline: str | None = None) -> str:
        environment = dict(self._environment)
        if pipeline is not None:
            environment["PIPELINE"] = pipeline
        return ran(*self._command, *arguments, env=environment)

    def containers(self, service: str) -> list[str]:
        return self.compose("ps", "-q", service).split()

    def kill(self, container: str) -> None:
        """SIGKILL for every process in it; its restart policy then brings it back."""
        before = self._started(container)
        subprocess.run(
            ["docker", "exec", "--user", "0", container, "bash", "-c", "kill -9 -1"],
            capture_output=True,
            check=False,  # it dies with the others
        )
        until("restart of a killed container", lambda: self._started(container) != before)

    def _started(self, container: str) -> str:
        return ran("docker", "inspect", "--format", "{{.State.StartedAt}}", container)

    def network(self, how: str, container: str) -> None:
        """`disconnect` or `connect`."""
        ran("docker", "network", how, f"{PROJECT}_default", container)

    def page(self, path: str) -> Any:
        """JSON of a page that the master shows; None if it is not there."""
        try:
            url = f"http://127.0.0.1:{self._ports['MASTER_PORT']}{path}"
            with urllib.request.urlopen(url, timeout=5) as answer:
                return json.loads(answer.read())
        except (OSError, ValueError):
            return None

    def workers(self) -> int:
        told = self.page("/json/")
        return int(told["aliveworkers"]) if told else 0

    def tasks(self) -> int:
        """Tasks that run at this moment."""
        told = self.page("/json/") or {}
        running = 0
        for app in told.get("activeapps", []):
            path = f"/proxy/{app['id']}/api/v1/applications/{app['id']}/executors"
            executors = self.page(path) or []
            running += sum(int(each["activeTasks"]) for each in executors)
        return running

    def start(self, stage: str, lake: str, *arguments: str, name: str | None = None) -> Job:
        """Submits a job on a lake."""
        settings = (f"lake=/lake/{lake}", f"name={name or lake}", *SETTINGS)
        return Job(
            [
                *self._command,
                *("run", "--rm", "-T", "submit", "spark-submit", f"jobs/{stage}.py"),
                *("conf/pipelines/flights.yaml", *arguments, "--json"),
                *(option for setting in settings for option in ("--set", setting)),
            ],
            self._environment,
        )

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
        out, err = self._process.communicate(timeout=2 * SECONDS)
        return self._process.returncode, out, err

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
def cluster(engine: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Built, started, with both workers alive; nothing of it is left afterwards."""
    del engine  # wanted for what it does
    lakes = tmp_path_factory.mktemp("lakes")
    lakes.chmod(0o755)
    described = yaml.safe_load(FLIGHTS.read_text())
    described["schedule"]["jobs"] = {"score": {"cron": "0 0 1 1 *", "stages": ["score"]}}
    described["lake"] = "/lake/idle"
    (lakes / "idle.yaml").write_text(yaml.safe_dump(described))
    own(lakes)
    ports = {name: free_port() for name in ("MASTER_PORT", "HISTORY_PORT", "MLFLOW_PORT")}
    cluster = Cluster(lakes, ports)
    ran("make", "--directory", str(CHECKOUT), "cluster-image")
    try:
        cluster.compose("up", "--detach", "--no-build")
        until("two workers", lambda: cluster.workers() == 2)
        yield cluster
    finally:
        cluster.compose("--profile", "job", "down", "--volumes", "--remove-orphans")
