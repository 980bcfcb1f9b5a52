from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from pipeline.lake import Lake
from pipeline.scoring.stage import score
from pipeline.serving.scorer import Scorer
from tests.flights import small_pipeline
from tests.once import made_once


@pytest.fixture(scope="session")
def scored(
    request: pytest.FixtureRequest, trained: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A small lake with a registered model and its predictions."""

    def make(root: Path) -> None:
        shutil.copytree(trained, root, dirs_exist_ok=True)
        score(request.getfixturevalue("spark"), small_pipeline(root), Lake(root))

    return made_once(tmp_path_factory, "scored", make)


@pytest.fixture(scope="session")
def scorer(scored: Path) -> Scorer:
    return Scorer.load("flights@champion", str(scored))
