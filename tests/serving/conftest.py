from __future__ import annotations

from pathlib import Path

import pytest
from pyspark.sql import SparkSession

from pipeline.lake import Lake
from pipeline.operate.walk import STAGES
from pipeline.serving.scorer import Scorer
from tests.flights import small_pipeline, small_raw


@pytest.fixture(scope="session")
def scored(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small lake with a registered model and its predictions."""
    root = tmp_path_factory.mktemp("served")
    small_raw(root)
    pipeline = small_pipeline(root)
    for stage in ("clean", "featurize", "train", "score"):
        STAGES[stage](spark, pipeline, Lake(root))
    return root


@pytest.fixture(scope="session")
def scorer(scored: Path) -> Scorer:
    return Scorer.load("flights@champion", str(scored))
