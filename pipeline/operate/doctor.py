"""What `lakestorm doctor` looks at: the driver, the executors, the lake, MLflow.

The executors are asked by tasks of a job, as the stages ask them: what a task finds there is what a
stage would find.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import socket
import tempfile
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

import psutil
from py4j.protocol import Py4JJavaError
from pyspark.errors import PySparkException
from pyspark.sql import SparkSession
from rich.markup import escape
from rich.table import Table as Grid

from pipeline.config import Pipeline
from pipeline.errors import LakestormError
from pipeline.lake import Lake
from pipeline.session import spark_session
from pipeline.training.tracking import open_client, tracking_uri

PACKAGES = ("lakestorm", "pyspark", "pyarrow", "numpy", "pandas", "torch", "deltalake")
"""Those that must be alike wherever rows are read, networks run and tables written."""

LEAST_DISK, LOW_DISK = 2**30, 10 * 2**30
LOW_MEMORY = 2 * 2**30
"""Bytes. A network and its row groups fit into less; Spark beside them does not."""

_TASKS_A_SLOT = 4  # so that each executor gets one, whichever is the first to be free

State = Literal["ok", "warn", "fail"]


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at."""

    check: str
    state: State
    found: str
    remedy: str = ""

    @classmethod
    def of(cls, check: str, error: LakestormError) -> Finding:
        """A fault as its error tells it."""
        return cls(check, "fail", f"{error.where}: {error.problem}", error.remedy)


@dataclass(frozen=True)
class Place:
    """What a process of Python finds around it."""

    host: str
    python: str
    packages: dict[str, str]
    free_disk: int
    """Bytes in the folder for temporary files."""
    memory: int
    """Bytes, of the machine or of its container."""
    lake: str
    """Why the lake cannot be used from there; empty where it can."""

    @classmethod
    def here(cls, meeting: str) -> Place:
        """This process's, which leaves a file in a folder of the lake where all of them meet."""
        return cls(
            host=socket.gethostname(),
            python=platform.python_version(),
            packages={name: _version(name) for name in PACKAGES},
            free_disk=shutil.disk_usage(tempfile.gettempdir()).free,
            memory=_memory(),
            lake=_meet(Path(meeting)),
        )


def examine(pipeline: Pipeline, master: str | None) -> Iterator[Finding]:
    """Looks at everything that a run of the pipeline needs.

    Args:
        pipeline: Names the lake.
        master: Spark's, if it is not the default.

    Yields:
        What was found, as it is found. What cannot be looked at for an earlier fault is left out.
    """
    lake = Lake(pipeline.lake)
    yield (lake_found := _lake(lake))
    if lake_found.state == "ok":
        yield _disk("disk of the lake", "here", shutil.disk_usage(lake.root).free)
        yield _mlflow(lake)
    try:
        spark = spark_session("lakestorm doctor", master)
    except LakestormError as error:
        yield Finding.of(error.where, error)
        return
    try:
        yield _java(spark)
        if lake_found.state == "ok":
            yield from _places(spark, lake)
    finally:
        spark.stop()


def _lake(lake: Lake) -> Finding:
    try:
        lake.require_writable()
    except LakestormError as error:
        return Finding.of("lake", error)
    return Finding("lake", "ok", f"{lake.root} can be written by the driver")


def _mlflow(lake: Lake) -> Finding:
    # Its own default tries for minutes, as a training should.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    uri = tracking_uri(lake.root)
    try:
        open_client(uri, lake.root)
    except LakestormError as error:
        return Finding.of("MLflow", error)
    kept = "the lake's own database" if uri == tracking_uri(lake.root, {}) else "its server"
    return Finding("MLflow", "ok", f"{kept} answers")


def _java(spark: SparkSession) -> Finding:
    asked = "java_method('java.lang.System', 'getProperty', 'java.version')"
    java = spark.sql(f"SELECT {asked}").first()
    told = f"Spark {spark.version} on Java {java[0] if java else '?'}"
    return Finding("Spark", "ok", f"{told}, master {spark.sparkContext.master}")


def _places(spark: SparkSession, lake: Lake) -> Iterator[Finding]:
    """The driver and the executors, beside each other."""
    meeting = Path(lake.root, f".doctor-{uuid.uuid4().hex}")
    meeting.mkdir()
    try:
        driver = Place.here(str(meeting))
        try:
            executors = _ask(spark, str(meeting))
        except (PySparkException, Py4JJavaError) as error:
            yield Finding(
                "executors",
                "fail",
                _said_by_python(str(error)),
                "Give executors the driver's environment: by an image, or packed: docs/deploy.md.",
            )
            return
        hosts = {place.host for place in executors}
        yield Finding(
            "executors",
            "ok",
            f"{spark.sparkContext.defaultParallelism} cores, seen on {', '.join(sorted(hosts))}",
        )
        left = {path.name for path in meeting.iterdir()}
        yield from compared(driver, executors, left)
        for place in {one.host: one for one in (*executors, driver)}.values():
            yield _disk("temporary files", place.host, place.free_disk)
            yield _room(place)
    finally:
        shutil.rmtree(meeting, ignore_errors=True)


def _ask(spark: SparkSession, meeting: str) -> list[Place]:
    """What tasks find, once a host."""
    context = spark.sparkContext
    tasks = context.defaultParallelism * _TASKS_A_SLOT
    found = context.parallelize(range(tasks), tasks).map(lambda _: Place.here(meeting)).collect()
    return list({place.host: place for place in found}.values())


def compared(driver: Place, executors: Sequence[Place], left: set[str]) -> Iterator[Finding]:
    """Whether executors have what the driver has, and the same lake.

    Args:
        driver: What the driver found.
        executors: What they found.
        left: Names of the files that the driver sees in the folder where all should have met.
    """
    for place in executors:
        has, wanted = _versions(place), _versions(driver)
        others = [
            f"{name} {has[name]}, not {wanted[name]}" for name in has if has[name] != wanted[name]
        ]
        if others:
            yield Finding(
                "versions",
                "fail",
                f"{place.host} has {', '.join(others)}",
                "Give executors the driver's environment: by an image, or packed: docs/deploy.md.",
            )
        if place.lake or place.host not in left:
            yield Finding(
                "lake on executors",
                "fail",
                f"{place.host}: {place.lake or 'wrote into another folder of the same name'}",
                "Mount the lake's folder at the same path on all machines, writable for Spark.",
            )
    if all(_versions(place) == _versions(driver) for place in executors):
        told = ", ".join(f"{name} {has}" for name, has in _versions(driver).items())
        yield Finding("versions", "ok", f"alike: {told}")
    if all(not place.lake and place.host in left for place in executors):
        yield Finding("lake on executors", "ok", "they write where the driver reads")


def _versions(place: Place) -> dict[str, str]:
    return {"Python": place.python, **place.packages}


def _disk(check: str, where: str, free: int) -> Finding:
    state: State = "fail" if free < LEAST_DISK else "warn" if free < LOW_DISK else "ok"
    remedy = "Free some, or set TMPDIR and Spark's local directories to a larger disk."
    return Finding(check, state, f"{where}: {_gib(free)} free", "" if state == "ok" else remedy)


def _room(place: Place) -> Finding:
    state: State = "warn" if place.memory < LOW_MEMORY else "ok"
    remedy = f"Give it {_gib(LOW_MEMORY)} or more: Spark and torch share it."
    found = f"{place.host}: {_gib(place.memory)}"
    return Finding("memory", state, found, "" if state == "ok" else remedy)


def _gib(amount: int) -> str:
    return f"{amount / 2**30:.1f} GiB"


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "missing"


def _memory() -> int:
    total = int(psutil.virtual_memory().total)
    limit = Path("/sys/fs/cgroup/memory.max")  # a container's
    told = limit.read_text().strip() if limit.exists() else ""
    return min(total, int(told)) if told.isdecimal() else total


def _meet(meeting: Path) -> str:
    try:
        if not meeting.is_dir():
            return f"{meeting.parent} is not there, or is another folder"
        (meeting / socket.gethostname()).write_text(str(os.getpid()))
    except OSError as error:
        return f"{meeting.parent} cannot be written: {error.strerror or error}"
    return ""


def _said_by_python(text: str) -> str:
    """The line of a task's error that says what was wrong with it."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    told = [
        line for line in lines if re.match(r"(\w+\.)*\w*Error: |.*PYTHON_VERSION_MISMATCH", line)
    ]
    return (told or lines or ["they did not answer"])[-1 if told else 0]


def listed(found: Sequence[Finding]) -> list[dict[str, Any]]:
    """Findings as JSON can hold them."""
    return [asdict(each) for each in found]


def doctor_grid(found: Sequence[Finding]) -> Grid:
    """Findings as a table; what is wrong with its remedy."""
    grid = Grid(title="doctor", title_justify="left")
    for name in ("check", "state", "found"):
        grid.add_column(name)
    for each in found:
        told = each.found + (f"\n{each.remedy}" if each.remedy else "")
        grid.add_row(escape(each.check), each.state, escape(told))
    return grid
