from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.operate.examples import Small, small_lake


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Small]:
    """A lake that tests read and do not change; those that do take a copy."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        yield small_lake(tmp_path_factory.mktemp("small") / "a lake")
