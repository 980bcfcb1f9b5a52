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
from contextlib import suppress
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

import psutil
import pyarrow as pa
from py4j.protocol import Py4JJavaError
from pyspark.errors import PySparkException
from pyspark.sql import SparkSession
from rich.markup import escape
from rich.table import Table as Grid

from pipeline.config import Pipeline
from pipeline.errors import LakestormError
from pipeline.lake import Lake, refuses_second_commit
from pipeline.session import spark_session
from pipeline.sources.places import stores_of
from pipeline.stores.folder import Folder
from pipeline.training.tracking import open_client, own_uri, tracking_uri

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
class Meeting:
    """Where processes leave files, to see whether it is the same place for all of them."""

    folder: Path
    """In the lake, or for a lake in a store in its folder for checkpoints and locks."""
    store: Folder | None
    """In the lake, where that is in a store."""

    @classmethod
    def arranged(cls, lake: Lake) -> Meeting:
        """A new place, which exists."""
        name = f".doctor-{uuid.uuid4().hex}"
        folder = lake.work(name)
        folder.mkdir(parents=True)
        return cls(folder, lake.folder.below(name) if lake.is_remote else None)

    def names(self) -> set[str]:
        """Of the files left in the lake."""
        if self.store is not None:
            return {entry.path for entry in self.store.entries()}
        return self.names_in_folder()

    def names_in_folder(self) -> set[str]:
        """Of the files left on the disk."""
        return {path.name for path in self.folder.iterdir()}

    def end(self) -> None:
        """Removes all that was left."""
        shutil.rmtree(self.folder, ignore_errors=True)
        if self.store is not None:
            with suppress(LakestormError):
                self.store.remove("")


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
    work: str
    """Why the folder for checkpoints and locks cannot; it is the lake where that is a folder."""

    @classmethod
    def here(cls, meeting: Meeting) -> Place:
        """This process's, which leaves files where all of them meet."""
        return cls(
            host=socket.gethostname(),
            python=platform.python_version(),
            packages={name: _version(name) for name in PACKAGES},
            free_disk=shutil.disk_usage(tempfile.gettempdir()).free,
            memory=_memory(),
            lake=_meet_in_store(meeting.store) if meeting.store else _meet(meeting.folder),
            work=_meet(meeting.folder) if meeting.store else "",
        )


def examine(pipeline: Pipeline, master: str | None) -> Iterator[Finding]:
    """Looks at everything that a run of the pipeline needs.

    Args:
        pipeline: Names the lake.
        master: Spark's, if it is not the default.

    Yields:
        What was found, as it is found. What cannot be looked at for an earlier fault is left out.
    """
    lake = Lake.of(pipeline)
    yield (lake_found := _lake(lake))
    if lake_found.state == "ok":
        if lake.is_remote:
            yield _commits(lake)
        else:
            yield _disk("disk of the lake", "here", shutil.disk_usage(lake.root).free)
        yield _mlflow(lake)
    try:
        spark = spark_session("lakestorm doctor", master, stores_of(pipeline))
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
    try:
        uri = tracking_uri(lake.root)
        open_client(uri, lake.root)
    except LakestormError as error:
        return Finding.of("MLflow", error)
    kept = "the lake's own database" if uri == own_uri(lake.root) else "its server"
    return Finding("MLflow", "ok", f"{kept} answers")


def _java(spark: SparkSession) -> Finding:
    asked = "java_method('java.lang.System', 'getProperty', 'java.version')"
    java = spark.sql(f"SELECT {asked}").first()
    told = f"Spark {spark.version} on Java {java[0] if java else '?'}"
    return Finding("Spark", "ok", f"{told}, master {spark.sparkContext.master}")


def _commits(lake: Lake) -> Finding:
    """Whether the store refuses the second of two commits: all exactness rests upon that."""
    table = lake.table(f".doctor-{uuid.uuid4().hex}")
    try:
        table.create(pa.schema([("id", pa.int64())]))
        if refuses_second_commit(table):
            return Finding("commits", "ok", "of two commits at a time, the store takes one")
        return Finding(
            "commits",
            "fail",
            "the store took two commits of one version: what one of them wrote would be lost",
            "Use a store that puts an object only if there is none (If-None-Match).",
        )
    except LakestormError as error:
        return Finding.of("commits", error)
    finally:
        with suppress(LakestormError):
            table.folder.remove("")


def _places(spark: SparkSession, lake: Lake) -> Iterator[Finding]:
    """The driver and the executors, beside each other."""
    try:
        meeting = Meeting.arranged(lake)
    except OSError as error:
        remedy = "Set storage.work to a folder that can be written."
        yield Finding("work", "fail", f"storage.work: {error.strerror or error}", remedy)
        return
    try:
        driver = Place.here(meeting)
        try:
            executors = _ask(spark, meeting)
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
        yield from compared(driver, executors, meeting.names())
        if lake.is_remote:
            yield shared_work(executors, meeting.names_in_folder())
        for place in {one.host: one for one in (*executors, driver)}.values():
            yield _disk("temporary files", place.host, place.free_disk)
            yield _room(place)
    finally:
        meeting.end()


def _ask(spark: SparkSession, meeting: Meeting) -> list[Place]:
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
                "Mount the lake's folder at the same path on all machines, writable for Spark; or, "
                "for a lake in a store, give executors the credentials, too.",
            )
    if all(_versions(place) == _versions(driver) for place in executors):
        told = ", ".join(f"{name} {has}" for name, has in _versions(driver).items())
        yield Finding("versions", "ok", f"alike: {told}")
    if all(not place.lake and place.host in left for place in executors):
        yield Finding("lake on executors", "ok", "they write where the driver reads")


def shared_work(executors: Sequence[Place], left: set[str]) -> Finding:
    """Whether the folder for checkpoints, beside a lake in a store, is one for all machines."""
    alone = [place.host for place in executors if place.work or place.host not in left]
    if not alone:
        return Finding("work", "ok", "executors share the folder for checkpoints")
    return Finding(
        "work",
        "warn",
        f"{', '.join(sorted(alone))}: another folder than the driver's",
        "Training by executors needs storage.work at the same path on all machines.",
    )


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


def _meet_in_store(meeting: Folder) -> str:
    try:
        meeting.put(socket.gethostname(), str(os.getpid()).encode())
    except (LakestormError, OSError) as error:
        return str(error)
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
