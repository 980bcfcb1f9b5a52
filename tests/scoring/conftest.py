from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from pyspark.sql import SparkSession

from pipeline.lake import Lake
from pipeline.operate.walk import STAGES
from tests.flights import small_pipeline, small_raw

NewLake = Callable[[], Lake]


@pytest.fixture(scope="session")
def trained(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small lake that has come as far as a registered model."""
    root = tmp_path_factory.mktemp("trained")
    small_raw(root)
    pipeline = small_pipeline(root)
    for stage in ("clean", "featurize", "train"):
        STAGES[stage](spark, pipeline, Lake(root))
    return root


@pytest.fixture
def trained_lake(trained: Path, tmp_path: Path) -> Lake:
    """A copy of its own for each test."""
    root = tmp_path / "lake"
    # Modification times stay, so that the raw files are the same ones.
    shutil.copytree(trained, root)
    return Lake(root)
