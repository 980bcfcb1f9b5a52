"""The pipeline of spoken digits on real recordings."""

from __future__ import annotations

import polars as pl
import pytest
from pyspark.sql import SparkSession

from pipeline.config import load_pipeline
from pipeline.features.arrow import features_of
from pipeline.features.catalogue import newest_spec
from pipeline.lake import Lake
from pipeline.operate.walk import walk
from pipeline.session import CHECKOUT

RECORDINGS = CHECKOUT.parent / "shared" / "data" / "spoken_digits.parquet"


@pytest.mark.long
@pytest.mark.skipif(not RECORDINGS.is_file(), reason="the shared data is not here")
def test_two_thousand_recordings_are_told_apart(spark: SparkSession, lake: Lake) -> None:
    settings = [f"lake={lake.root}", f"source.path={RECORDINGS}", "train.max_restarts=0"]
    pipeline = load_pipeline(CHECKOUT / "conf" / "pipelines" / "spoken-digits.yaml", settings)
    stages = ("clean", "featurize", "train", "score")
    outcomes = {outcome.stage: outcome for outcome in walk(spark, pipeline, lake, stages)}
    assert outcomes["train"].metrics["test"]["accuracy"] > 0.9  # 0.955 was seen

    spec = newest_spec(lake, pipeline.name)
    stored = pl.read_delta(lake.table(spec.table).root).sort("file")["audio_wav"]
    given = lake.table("clean").snapshot().arrow(["file", "wav"]).sort_by("file")
    made = features_of(given, spec)["audio_wav"].to_pylist()
    assert len(made) == 2000
    assert stored.to_list() == made
    assert {len(frames) % 40 for frames in made} == {0}
