from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from pyspark.sql import SparkSession

from pipeline.lake import Lake
from pipeline.session import spark_session
from tests.java_classes import java_options

# Jobs of tests are over before the second compiler pays off: half of the time was its.
QUICK_JAVA = "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC"
os.environ.setdefault("SPARK_SUBMIT_OPTS", f"{QUICK_JAVA} {java_options()}")

# Files that take minutes, first, so that at the end no process waits long for the other.
LONGEST_FIRST = (
    "tests/scoring/test_kill.py",
    "tests/jobs/test_demo.py",
    "tests/scoring/",
    "tests/clean/",
    "tests/jobs/",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    def place(item: pytest.Item) -> int:
        found = [at for at, start in enumerate(LONGEST_FIRST) if item.nodeid.startswith(start)]
        return min(found, default=len(LONGEST_FIRST))

    items.sort(key=place)


@pytest.fixture(scope="session")
def spark() -> Iterator[SparkSession]:
    """One real local Spark for all tests of this process."""
    session = spark_session("tests", "local[2]")
    yield session
    session.stop()


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake(tmp_path / "lake")
