from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from pyspark.sql import SparkSession

from pipeline.lake import Lake
from pipeline.session import spark_session
from tests.flights import small_pipeline, small_raw
from tests.java_classes import java_options
from tests.once import made_once

# Jobs of tests are over before the second compiler pays off: half of the time was its. Without it,
# Java keeps room for no more code than two or three pipelines make, and then only interprets.
QUICK_JAVA = "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC -XX:ReservedCodeCacheSize=256m"
os.environ.setdefault("SPARK_SUBMIT_OPTS", f"{QUICK_JAVA} {java_options()}")

# The tests' own Spark goes on for minutes: its Python workers have imported torch when they start,
# and the code of more than a hundred queries is kept, which the same pipelines need again.
OF_TESTS = (
    "-Dspark.python.daemon.module=tests.python_daemon -Dspark.sql.codegen.cache.maxEntries=1000"
)

# Files that take long, first, so that at the end no process waits long for the other; and the first
# two are of different lakes, so that none waits for what the other makes for both.
LONGEST_FIRST = (
    "tests/scoring/test_kill.py",
    "tests/jobs/test_demo.py",
    "tests/test_extending.py",
    "tests/scoring/",
    "tests/clean/",
    "tests/features/",
    "tests/jobs/",
    "tests/serving/",
    "tests/training/",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    def place(item: pytest.Item) -> int:
        found = [at for at, start in enumerate(LONGEST_FIRST) if item.nodeid.startswith(start)]
        return min(found, default=len(LONGEST_FIRST))

    items.sort(key=place)


@pytest.fixture(scope="session")
def spark() -> Iterator[SparkSession]:
    """One real local Spark for all tests of this process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SPARK_SUBMIT_OPTS", f"{os.environ['SPARK_SUBMIT_OPTS']} {OF_TESTS}")
        session = spark_session("tests", "local[2]")
    # Of few rows; each partition is a task that generates its code. Commands have eight, as always.
    session.conf.set("spark.sql.shuffle.partitions", "2")
    yield session
    session.stop()


@pytest.fixture(scope="session")
def trained(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small lake that has come as far as a registered model."""

    def make(root: Path) -> None:
        from pipeline.operate.walk import STAGES

        small_raw(root)
        spark = request.getfixturevalue("spark")
        for stage in ("clean", "featurize", "train"):
            STAGES[stage](spark, small_pipeline(root), Lake(root))

    return made_once(tmp_path_factory, "trained", make)


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake(tmp_path / "lake")
