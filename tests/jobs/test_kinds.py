"""Kinds that version 0.1 did not have, from raw files to predictions."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pyarrow.parquet as pq
import pytest
from pyspark.sql import SparkSession

from pipeline.config import Pipeline
from pipeline.features.kinds import Bag, Vector
from pipeline.features.stage import featurize
from pipeline.lake import Lake
from pipeline.operate.walk import walk
from pipeline.stream import Stream
from pipeline.training.splits import layout_of

pytestmark = pytest.mark.long

ROWS = 600
DRAWN = np.random.default_rng(11)
EMBEDDINGS = DRAWN.normal(0, 1, (ROWS, 4)).round(3)
BASKETS = [DRAWN.choice(list("abcdefgh"), DRAWN.integers(0, 5), replace=False) for _ in range(ROWS)]
IS_SOLD = EMBEDDINGS[:, 0] + np.array([2.0 * ("a" in each) - 1 for each in BASKETS]) > 0


def described(root: Path, lake: Lake) -> Pipeline:
    pl.DataFrame(
        {
            "id": range(ROWS),
            "sold": IS_SOLD,
            "embedding": [",".join(str(x) for x in row) for row in EMBEDDINGS],
            "items": [",".join(each) for each in BASKETS],
            "price": DRAWN.normal(50, 9, ROWS),
            "day": [f"2024-{1 + n % 12:02d}-{1 + n % 28:02d}" for n in range(ROWS)],
        }
    ).write_parquet(root / "sales.parquet")
    return Pipeline.model_validate(
        {
            "name": "sales",
            "lake": lake.root,
            "source": {
                "path": str(root / "sales.parquet"),
                "format": "parquet",
                "columns": {
                    "id": {"type": "bigint", "required": True},
                    "sold": {"type": "boolean", "required": True},
                    "embedding": {"type": "string"},
                    "items": {"type": "string"},
                    "price": {"type": "double"},
                    "day": {"type": "string"},
                },
            },
            "clean": {
                "dedupe": {"keys": ["id"]},
                "period": {"column": "period", "expression": "'all'"},
            },
            "features": {
                "keys": ["id"],
                "label": {"task": "binary", "name": "is_sold", "expression": "sold"},
                "splits": {
                    "train": "id % 6 < 4",
                    "validation": "id % 6 = 4",
                    "test": "id % 6 = 5",
                },
                "leakage": ["sold"],
                "derive": {
                    "vector": "transform(split(embedding, ','), x -> try_cast(x AS float))",
                    "basket": "split(items, ',')",
                    "date": "to_date(day)",
                },
                "vectors": {"vector": {"width": 4}},
                "bags": {"basket": {"minimum_count": 5}},
                "piecewise": {"price": {"bins": 4}},
                "buckets": {"price": {"count": 4}},
                "dates": {"date": {"parts": ["month", "day_of_week"], "cyclic": True}},
                "rows_per_row_group": 64,
            },
            "train": {
                "model": {"family": "mlp", "hidden": [16]},
                "epochs": 8,
                "learning_rate": 0.02,
                "rows_per_batch": 32,
                "max_restarts": 0,
            },
        }
    )


def test_an_mlp_learns_from_vectors_and_bags(
    spark: SparkSession, lake: Lake, tmp_path: Path
) -> None:
    pipeline = described(tmp_path, lake)
    outcomes = {
        outcome.stage: outcome
        for outcome in walk(spark, pipeline, lake, ("clean", "featurize", "train", "score"))
    }
    done, spec = featurize(spark, pipeline, lake)
    assert done.unchanged
    # Read by a second engine.
    found = pl.read_delta(lake.table(spec.table).root).sort("id")
    np.testing.assert_allclose(np.array(found["vector_vector"].to_list()), EMBEDDINGS, rtol=1e-6)
    sizes = [len(each) or 1 for each in BASKETS]  # split makes one empty text of none
    assert found["bag_basket"].list.len().to_list() == sizes
    accuracy = outcomes["train"].metrics["test"]["accuracy"]
    assert accuracy > 0.85  # 0.92 was seen; the more frequent label has 0.71
    scored = pl.read_delta(lake.table("predictions").root).sort("id")
    assert ((scored["score"].to_numpy() > 0.5) == IS_SOLD)[5::6].mean() == accuracy
    _require_plain_layout(lake, spec.table)
    files = lake.table(spec.table).snapshot().uris()
    batch = next(iter(Stream(list(files), layout_of(spec), rows_per_rank_batch=8, shuffle=False)))
    assert batch.tensors["vector"].shape == (8, 4)
    assert spec.columns_of(Vector)
    assert spec.columns_of(Bag)


def _require_plain_layout(lake: Lake, name: str) -> None:
    """Lists without dictionaries, of row groups of the size that was asked for: as fast as others.

    See `pipeline.features.layout`.
    """
    for uri in lake.table(name).snapshot().uris():
        footer = pq.read_metadata(uri)
        groups = [footer.row_group(place) for place in range(footer.num_row_groups)]
        columns = [group.column(place) for group in groups for place in range(group.num_columns)]
        lists = [c for c in columns if c.path_in_schema.endswith(".list.element")]
        assert lists
        assert not any(c.has_dictionary_page for c in lists)
