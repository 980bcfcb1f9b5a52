from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from pipeline.operate.report.bins import (
    QUANTILES,
    distinct_edges,
    population_stability_index,
    quantiles,
    sampled,
    with_bands,
)
from tests.operate.examples import bands, psi

HISTOGRAMS = st.dictionaries(st.integers(0, 9), st.integers(0, 1000), max_size=10)


def test_edges_and_bands_are_numpys_whatever_the_ties(spark: SparkSession) -> None:
    random = np.random.default_rng(1)
    values = {
        "even": random.normal(size=500),
        "tied": random.integers(0, 4, 500).astype(float),
        "rare": (random.random(500) < 0.01).astype(float),
        "infinite": np.where(random.random(500) < 0.2, math.inf, random.normal(size=500)),
    }
    rows = [tuple(float(v) for v in row) for row in zip(*values.values(), strict=True)]
    frame = spark.createDataFrame(rows, list(values))
    known = ["even", "tied", "rare"]
    found = frame.agg(*(quantiles(F.col(name)).alias(name) for name in known)).first()
    assert found is not None
    for name in known:
        np.testing.assert_allclose(found[name], np.quantile(values[name], QUANTILES), atol=1e-12)
    edges = {name: distinct_edges(values[name][:50].tolist()) for name in values}
    banded = with_bands(frame, edges).collect()
    for name, column in values.items():
        expected = bands(column, edges[name])
        assert [row[f"band_{name}"] for row in banded] == expected.tolist()


def test_edges_that_are_no_numbers_or_next_to_each_other_are_no_fault(spark: SparkSession) -> None:
    assert distinct_edges([math.nan, -math.inf, 1.0, 1.0, math.inf]) == (1.0,)
    assert distinct_edges(None) == ()
    frame = spark.createDataFrame([(1.0,), (math.inf,), (math.nan,)], "x double")
    for edges in ((), (1.0, math.nextafter(1.0, 2.0))):
        assert len(with_bands(frame, {"x": edges}).collect()) == 3


def test_a_rare_indicator_that_becomes_frequent_is_seen(spark: SparkSession) -> None:
    frame = spark.createDataFrame([(0.0,)] * 99 + [(1.0,)], "x double")
    found = frame.agg(quantiles(F.col("x"))).first()
    assert found is not None
    edges = distinct_edges(found[0])
    assert edges == (0.0,)
    assert {row.band_x for row in with_bands(frame, {"x": edges}).collect()} == {1, 2}


def test_the_sample_is_the_same_each_time_and_of_about_the_right_size(spark: SparkSession) -> None:
    frame = spark.range(100_000)
    totals = [
        sampled(rows, ["id"], 100_000).agg(F.count("id"), F.sum("id")).first()
        for rows in (frame, frame.repartition(3))
    ]
    assert totals[0] is not None
    assert totals[0] == totals[1]
    assert abs(totals[0][0] - 25_000) < 1_000
    assert sampled(frame, ["id"], 40_000).count() == 100_000


@given(HISTOGRAMS, HISTOGRAMS)
def test_the_index_is_numpys_and_symmetric(before: dict[int, int], after: dict[int, int]) -> None:
    found = population_stability_index(before, after)
    if not sum(before.values()) or not sum(after.values()):
        assert math.isnan(found)
        return
    p, q = (np.repeat([*side.keys()], [*side.values()]) for side in (before, after))
    assert found == pytest.approx(psi(p, q), abs=1e-9)
    assert found == pytest.approx(population_stability_index(after, before))
    assert found >= 0
    assert population_stability_index(before, before) == 0
