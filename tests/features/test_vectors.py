from __future__ import annotations

import math
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from pyspark.sql import SparkSession

from pipeline.errors import SpecError
from pipeline.features.arrow import features_of
from pipeline.training.histograms import Tally, input_columns
from pipeline.training.splits import layout_of, shapes_of
from tests.features.one_kind import by_spark, made, spec_of, table

LISTS = pa.list_(pa.float64())
GOOD: list[Any] = [[3.0, 4.0], [0.0, 0.0], [-1e30, 1e-30], [3e38, -3e38], [0.1, 0.7], [5e-324, 0.0]]


def test_vectors_are_passed_on_as_floats(spark: SparkSession) -> None:
    spec, found = made(spark, table(LISTS, GOOD), vectors={"x": {"width": 2}})
    assert found["vector_x"] == [np.array(each, np.float32).tolist() for each in GOOD]
    assert shapes_of(spec).named["vector"].shape == (2,)
    assert layout_of(spec).tensors["vector"].shape == (2,)


def test_normalized_vectors_have_the_norm_one(spark: SparkSession) -> None:
    how = {"width": 2, "normalize": True, "missing": "zeros"}
    spec, found = made(spark, table(LISTS, [*GOOD, None]), vectors={"x": how})
    for given, normalized in zip([*GOOD, [0.0, 0.0]], found["vector_x"], strict=True):
        # Of what is smaller than 1e-162, the squares are nothing.
        norm = math.hypot(*given) if max(map(abs, given)) > 1e-162 else 1.0
        expected = np.array(given) / (norm or 1.0)
        np.testing.assert_allclose(normalized, expected, rtol=2e-7, atol=1e-38)
    tally = Tally(input_columns(spec), spec.imputed_columns)
    bits = torch.tensor([0] * 6 + [1])
    tally.add({"vector": torch.tensor(found["vector_x"]), "_missing_0": bits}, 7)
    assert sum(tally.histograms().bins["vector_x"].values()) == 7
    assert tally.histograms().missing == {"x": 1}


@pytest.mark.parametrize(
    "bad",
    [None, [], [1.0], [1.0, 2.0, 3.0], [None, 1.0], [math.nan, 1.0], [1.0, math.inf], [3.5e38, 0]],
)
def test_what_is_no_vector_is_bad_by_both_engines(spark: SparkSession, bad: Any) -> None:
    clean = table(LISTS, [*GOOD, bad])
    spec = spec_of(spark, clean, vectors={"x": {"width": 2}})
    (part,) = spec.parts
    is_bad = part.is_bad()
    assert is_bad is not None
    told = spark.createDataFrame(clean).select(is_bad.alias("bad")).toArrow()["bad"].to_pylist()
    assert told == [False] * len(GOOD) + [True]
    with pytest.raises(SpecError, match=r"features\.vectors\.x: is not 2 numbers in 1 of 7 rows"):
        features_of(clean, spec)


def test_only_null_becomes_zeros_where_it_may(spark: SparkSession) -> None:
    clean = table(LISTS, [*GOOD, None])
    spec = spec_of(spark, clean, vectors={"x": {"width": 2, "missing": "zeros"}})
    is_bad = spec.parts[0].is_bad()
    assert is_bad is not None
    told = spark.createDataFrame(clean).select(is_bad.alias("bad")).toArrow()["bad"].to_pylist()
    assert not any(told)
    assert by_spark(spark, clean, spec)["vector_x"].to_pylist()[-1] == [0.0, 0.0]
    with pytest.raises(SpecError, match="is not 2 numbers in 1 of 1 rows"):
        features_of(table(LISTS, [[1.0]]), spec)


def test_a_vector_of_texts_is_refused(spark: SparkSession) -> None:
    clean = table(pa.list_(pa.string()), [["a"], ["b"]])
    with pytest.raises(SpecError, match="a vector is to be an array of numbers"):
        spec_of(spark, clean, vectors={"x": {"width": 1}})
