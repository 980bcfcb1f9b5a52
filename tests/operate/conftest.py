from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.operate.examples import Small, small_lake
from tests.operate.scheduled import Place


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Small]:
    """A lake that tests read and do not change; those that do take a copy."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        yield small_lake(tmp_path_factory.mktemp("small") / "a lake")


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    """A pipeline whose jobs are chores; its services do not outlive the test."""
    made = Place(tmp_path)
    yield made
    made.close()
