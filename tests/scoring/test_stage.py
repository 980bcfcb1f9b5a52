from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from pyspark.sql import SparkSession

from pipeline.clean.stage import clean
from pipeline.errors import ModelError, ScoringError
from pipeline.features.kinds import UNKNOWN_ID
from pipeline.features.stage import featurize
from pipeline.lake import Lake
from pipeline.operate.walk import STAGES
from pipeline.scoring.stage import require_own_spec, score
from pipeline.training.registry import load_registered
from tests.flights import small_pipeline

KEYS = ["time_hour", "carrier", "flight"]


def keys_of(lake: Lake, table: str) -> Counter[tuple[object, ...]]:
    return Counter(pl.read_delta(lake.table(table).root).select(KEYS).iter_rows())


def features_file(lake: Lake) -> Path:
    """One of the files that the champion scores."""
    bundle, _ = load_registered(lake, "flights", "champion")
    return Path(lake.table(bundle.spec.table).snapshot().uris()[-1])


def test_predictions_are_the_models_own_for_every_key(
    spark: SparkSession, trained_lake: Lake
) -> None:
    pipeline = small_pipeline(Path(trained_lake.root))
    outcome = score(spark, pipeline, trained_lake)
    bundle, version = load_registered(trained_lake, "flights", "champion")
    features = pl.read_delta(trained_lake.table(bundle.spec.table).root)
    with torch.inference_mode():
        columns = {
            "numeric": bundle.spec.numeric_columns,
            "categorical": bundle.spec.categorical_columns,
        }
        logits = bundle.module(
            {
                name: torch.from_numpy(features.select(names).to_numpy())
                for name, names in columns.items()
            }
        )[:, 0]
    expected = features.select(KEYS).with_columns(expected=torch.sigmoid(logits).numpy())
    scored = pl.read_delta(trained_lake.table("predictions").root)
    both = scored.join(expected, on=KEYS, how="full", validate="1:1")
    assert both.height == outcome.rows_out == expected.height
    np.testing.assert_allclose(both["score"].to_numpy(), both["expected"].to_numpy(), rtol=1e-5)
    assert keys_of(trained_lake, "predictions") == keys_of(trained_lake, "clean")
    assert scored["model_name"].unique().to_list() == ["flights"]
    assert scored["model_version"].unique().to_list() == [version]
    assert scored["spec_hash"].unique().to_list() == [bundle.spec.hash]
    source = trained_lake.table(bundle.spec.table).snapshot().version
    assert scored["source_version"].unique().to_list() == [source]
    assert scored["scored_at"].n_unique() == 1


def test_scoring_again_commits_nothing_and_says_so(spark: SparkSession, trained_lake: Lake) -> None:
    pipeline = small_pipeline(Path(trained_lake.root))
    first = score(spark, pipeline, trained_lake)
    again = score(spark, pipeline, trained_lake)
    assert (first.unchanged, again.unchanged) == (False, True)
    assert again.version == first.version
    assert again.rows_out == first.rows_out
    assert "nothing to commit" in again.note


def test_new_rows_are_scored_with_the_champions_spec(
    spark: SparkSession, trained_lake: Lake
) -> None:
    root = Path(trained_lake.root)
    pipeline = small_pipeline(root)
    score(spark, pipeline, trained_lake)
    late = pq.read_table(root / "raw" / "flights" / "flights-2013-12.parquet").slice(0, 50)
    unheard = pa.array(["ZZ"] * 50)  # a carrier that no training row had
    late = late.set_column(late.schema.get_field_index("carrier"), "carrier", unheard)
    pq.write_table(late, root / "raw" / "flights" / "flights-2014-01.parquet")
    clean(spark, pipeline, trained_lake)
    outcome = score(spark, pipeline, trained_lake)
    bundle, _ = load_registered(trained_lake, "flights", "champion")
    assert not outcome.unchanged
    assert keys_of(trained_lake, "predictions") == keys_of(trained_lake, "clean")
    scored = pl.read_delta(trained_lake.table("predictions").root)
    assert scored.filter(pl.col("carrier") == "ZZ").height == 50
    features = pl.read_delta(trained_lake.table(bundle.spec.table).root)
    unknown = features.filter(pl.col("carrier") == "ZZ")["cat_carrier"].unique().to_list()
    assert unknown == [UNKNOWN_ID]


def test_a_damaged_row_group_fails_the_run_and_leaves_the_table(
    spark: SparkSession, trained_lake: Lake
) -> None:
    pipeline = small_pipeline(Path(trained_lake.root))
    victim = features_file(trained_lake)
    content = bytearray(victim.read_bytes())
    content[4 : len(content) // 2] = b"\xff" * (len(content) // 2 - 4)
    victim.write_bytes(content)
    with pytest.raises(ScoringError, match=f"{victim.name}.*Nothing was committed"):
        score(spark, pipeline, trained_lake)
    predictions = trained_lake.table("predictions")
    assert predictions.snapshot().rows == 0
    assert [path.name for path in Path(predictions.root).iterdir()] == ["_delta_log"]


@pytest.mark.parametrize("strange", [pytest.param(-1, marks=pytest.mark.long), 10_000])
def test_an_id_that_no_vocabulary_gave_out_is_refused(
    spark: SparkSession, trained_lake: Lake, strange: int
) -> None:
    pipeline = small_pipeline(Path(trained_lake.root))
    victim = features_file(trained_lake)
    held = pq.ParquetFile(victim).read()
    ids = held["cat_dest"].to_numpy().copy()
    ids[-1] = strange
    place = held.schema.get_field_index("cat_dest")
    pq.write_table(held.set_column(place, held.schema.field(place), pa.array(ids)), victim)
    with pytest.raises(ScoringError, match=rf"{victim.name}.*cat_dest.*holds the id {strange}"):
        score(spark, pipeline, trained_lake)
    assert trained_lake.table("predictions").snapshot().rows == 0


def test_features_of_another_spec_are_refused(spark: SparkSession, trained_lake: Lake) -> None:
    other = small_pipeline(Path(trained_lake.root), "features.categorical.carrier.minimum_count=9")
    _, spec = featurize(spark, other, trained_lake)
    bundle, _ = load_registered(trained_lake, "flights", "champion")
    assert spec.hash != bundle.spec.hash
    with pytest.raises(ModelError, match=f"{spec.hash}, the model was trained with"):
        require_own_spec(trained_lake.table(spec.table), bundle)


def test_a_champion_of_another_spec_scores_its_own_features(
    spark: SparkSession, trained_lake: Lake
) -> None:
    other = small_pipeline(
        Path(trained_lake.root), "features.categorical.carrier.minimum_count=9", "train.epochs=2"
    )
    for stage in ("featurize", "train"):
        STAGES[stage](spark, other, trained_lake)
    outcome = STAGES["score"](spark, other, trained_lake)
    bundle, version = load_registered(trained_lake, "flights", "champion")
    scored = pl.read_delta(trained_lake.table("predictions").root)
    assert scored["spec_hash"].unique().to_list() == [bundle.facts.spec_hash]
    assert scored["model_version"].unique().to_list() == [version]
    assert keys_of(trained_lake, "predictions") == keys_of(trained_lake, "clean")
    assert outcome.rows_out == outcome.rows_in


def test_a_model_that_is_not_registered_is_named(spark: SparkSession, trained_lake: Lake) -> None:
    pipeline = small_pipeline(Path(trained_lake.root), "score.model=7")
    with pytest.raises(ModelError, match="7"):
        score(spark, pipeline, trained_lake)
    assert not trained_lake.table("predictions").exists
