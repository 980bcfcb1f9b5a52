"""Piecewise and buckets: numbers as vectors and as ids, against scikit-learn and the paper."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from pydantic import ValidationError
from pyspark.sql import SparkSession
from sklearn.preprocessing import KBinsDiscretizer

from pipeline.errors import SpecError
from pipeline.features.kinds.buckets import FittedBuckets
from pipeline.features.kinds.piecewise import FittedPiecewise
from pipeline.training.histograms import Tally, input_columns
from tests.features.one_kind import described, is_train, made, part_of, spec_of, table

DRAWN = np.random.default_rng(3)
VALUES: list[Any] = [
    (float(v), 1.0, 1.0, None)[place]
    for v, place in zip(DRAWN.normal(0, 9, 300), DRAWN.integers(0, 4, 300), strict=True)
]
VALUES[2::60] = [1e30, -1e30, float("nan"), float("inf"), 0.0]  # none of them is a train row
TRAIN = sorted(v for place, v in enumerate(VALUES) if is_train(place) and v is not None)


def rank_quantiles(bins: int) -> list[float]:
    """Of each share the least value that reaches it, distinct."""
    places = [max(-(-len(TRAIN) * rank // bins) - 1, 0) for rank in range(bins + 1)]
    return sorted({TRAIN[place] for place in places})


def encoded(value: float | None, edges: list[float]) -> list[float]:
    """Equation 1 of the paper, as it stands there."""
    if value is None or not abs(value) < 3.4e38:
        return [0.0] * (len(edges) - 1)
    count, found = len(edges) - 1, []
    for t in range(1, count + 1):
        if value < edges[t - 1] and t > 1:
            found.append(0.0)
        elif value >= edges[t] and t < count:
            found.append(1.0)
        else:
            found.append((value - edges[t - 1]) / (edges[t] - edges[t - 1]))
    return [float(each) for each in np.array(found, np.float32)]


def test_piecewise_is_equation_1_of_the_paper_over_train_quantiles(spark: SparkSession) -> None:
    spec, found = made(spark, table(pa.float64(), VALUES), piecewise={"x": {"bins": 8}})
    part = spec.parts[0]
    assert isinstance(part, FittedPiecewise)
    edges = rank_quantiles(8)
    assert part.edges == tuple(edges)
    assert 1 < part.width < 8  # 1.0 is several of the quantiles
    assert found["piecewise_x"] == [encoded(value, edges) for value in VALUES]
    assert max(map(max, found["piecewise_x"])) > 1e28
    assert min(map(min, found["piecewise_x"])) < -1e28


def test_the_fit_does_not_depend_on_the_partitions(spark: SparkSession) -> None:
    clean = table(pa.float64(), VALUES)
    sections = {"piecewise": {"x": {}}, "buckets": {"x": {"count": 5}}}
    assert len({spec_of(spark, clean, parts, **sections).hash for parts in (1, 2, 5)}) == 1


def test_a_constant_is_told_from_its_neighbours(spark: SparkSession) -> None:
    values = [5.0, 5.0, 7.0] * 4
    _, found = made(spark, table(pa.float64(), values), piecewise={"x": {}})
    assert found["piecewise_x"] == [[0.0], [0.0], [2.0]] * 4


@pytest.mark.parametrize("section", [{"piecewise": {"x": {}}}, {"buckets": {"x": {"count": 3}}}])
def test_a_column_without_a_value_cannot_be_fitted(
    spark: SparkSession, section: dict[str, Any]
) -> None:
    with pytest.raises(SpecError, match=r"\.x: has no value among the 4 train rows"):
        spec_of(spark, table(pa.float64(), [None] * 6), **section)


@pytest.mark.parametrize("strategy", ["quantile", "uniform"])
def test_buckets_are_those_of_scikit_learn(spark: SparkSession, strategy: str) -> None:
    how = {"count": 6, "strategy": strategy}
    spec, found = made(spark, table(pa.float64(), VALUES), buckets={"x": how})
    more: dict[str, Any] = {"quantile_method": "inverted_cdf"} if strategy == "quantile" else {}
    oracle = KBinsDiscretizer(6, encode="ordinal", strategy=strategy, **more)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # equal quantiles make fewer buckets, by design
        oracle.fit(np.array(TRAIN).reshape(-1, 1))
    (column,) = spec.columns
    assert column.size == oracle.n_bins_[0] + 1  # type: ignore[attr-defined]
    for value, id_ in zip(VALUES, found["bucket_x"], strict=True):
        if value is None or not abs(value) < 3.4e38:
            assert id_ == 0
        else:
            assert id_ == 1 + oracle.transform([[value]])[0, 0]


def test_edges_belong_to_the_bucket_above_and_buckets_have_words(spark: SparkSession) -> None:
    values = [17, 18, 29, 30, 65, 1000, None, -5, 64]
    clean = table(pa.int32(), values)
    spec, found = made(spark, clean, buckets={"x": {"edges": [18, 30, 65]}})
    assert found["bucket_x"] == [1, 2, 2, 3, 4, 4, 0, 1, 3]
    words = [spec.parts[0].word(id_) for id_ in range(1, 5)]
    assert words == ["below 18", "18 to below 30", "30 to below 65", "65 and above"]
    assert FittedBuckets(column="x", edges=()).word(1) == "any number"
    tally = Tally(input_columns(spec))
    tally.add({"categorical": torch.tensor(found["bucket_x"]).reshape(-1, 1)}, len(values))
    assert tally.histograms().bins["bucket_x"] == {0: 1, 1: 2, 2: 2, 3: 2, 4: 2}


@pytest.mark.parametrize(
    ("how", "told"),
    [
        ({}, "set either count or edges"),
        ({"count": 3, "edges": [1]}, "set either count or edges"),
        ({"edges": []}, "name one at least"),
        ({"edges": [3, 3]}, "not finite and ascending"),
        ({"edges": [1, float("inf")]}, "not finite and ascending"),
        ({"edges": [1], "strategy": "uniform"}, "edges say it themselves"),
        ({"count": 1}, "greater than or equal to 2"),
    ],
)
def test_wrong_buckets_are_refused_when_loaded(how: dict[str, Any], told: str) -> None:
    with pytest.raises(ValidationError, match=told):
        described(buckets={"x": how})


def test_a_text_is_no_number(spark: SparkSession) -> None:
    with pytest.raises(SpecError, match="column x: is string, and a feature is to be a number"):
        part_of(spark, table(pa.string(), ["a"] * 3), piecewise={"x": {}})
