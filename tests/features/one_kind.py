"""Features of one kind: fitted on the first two thirds of some rows, made of all of them."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
from pyspark.sql import SparkSession

from pipeline.config import Features
from pipeline.features.arrow import features_of
from pipeline.features.fit import fit
from pipeline.features.kinds import Fitted
from pipeline.features.prepared import SPLIT, TRAIN, prepared
from pipeline.features.spec import FeatureSpec
from pipeline.features.transform import features


def described(**sections: Any) -> Features:
    return Features.model_validate(
        {
            "keys": ["id"],
            "label": {"name": "even", "expression": "id % 2 = 0"},
            "splits": {"train": "id % 3 < 2", "validation": "id % 3 = 2", "test": "false"},
            "leakage": [],
            **sections,
        }
    )


def is_train(place: int) -> bool:
    return place % 3 < 2


def table(kind: pa.DataType, values: list[Any], **others: pa.Array) -> pa.Table:
    ids = pa.array(range(len(values)), pa.int64())
    periods = pa.array(["p"] * len(values))
    return pa.table({"id": ids, "period": periods, "x": pa.array(values, kind), **others})


def spec_of(
    spark: SparkSession, clean: pa.Table, partitions: int = 2, **sections: Any
) -> FeatureSpec:
    how = described(**sections)
    rows = prepared(spark.createDataFrame(clean).repartition(partitions), how)
    return fit(rows.where(f"{SPLIT} = '{TRAIN}'"), how, "one", "period")


def part_of(spark: SparkSession, clean: pa.Table, **sections: Any) -> Fitted:
    return spec_of(spark, clean, **sections).parts[0]


def by_spark(spark: SparkSession, clean: pa.Table, spec: FeatureSpec) -> pa.Table:
    made = features(prepared(spark.createDataFrame(clean), spec), spec)
    return made.select("id", *spec.feature_columns).toArrow().sort_by("id")


def made(
    spark: SparkSession, clean: pa.Table, **sections: Any
) -> tuple[FeatureSpec, dict[str, list[Any]]]:
    """The spec, and its columns by Spark, which Arrow's are equal to."""
    spec = spec_of(spark, clean, **sections)
    found = by_spark(spark, clean, spec).to_pydict()
    by_arrow = features_of(clean, spec).to_pydict()
    if not any(part.ulps for part in spec.parts):
        assert by_arrow == {name: found[name] for name in spec.feature_columns}
    return spec, found
