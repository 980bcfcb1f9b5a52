from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from pyspark.sql import SparkSession

from pipeline.errors import CountError
from pipeline.operate.report.bins import QUANTILES
from pipeline.operate.report.scores import Cell, Group, Scores, measure_scores, summarised
from tests.operate.examples import SPEC, Small, bands, psi

TRAIN_PERIODS = ["2013-01", "2013-02"]


@pytest.fixture(scope="module")
def scores(spark: SparkSession, small: Small) -> Scores:
    predictions = small.lake.table("predictions").snapshot()
    features = small.lake.table(SPEC.table).snapshot()
    return measure_scores(spark, predictions, features, SPEC, TRAIN_PERIODS)


def _check(group: Group, rows: pd.DataFrame) -> None:
    scores, known = rows["score"].astype(float), rows[rows["late"].notna()]
    assert (group.rows, group.labelled) == (len(rows), len(known))
    assert group.mean_score == pytest.approx(scores.mean())
    if len(known):
        p, y = known["score"].astype(float), known["late"].astype(float)
        assert group.predicted == pytest.approx(p.mean())
        assert group.observed == pytest.approx(y.mean())
        loss = np.where(y == 1, -np.log(p), -np.log(1 - p)).mean()
        assert group.loss == pytest.approx(float(loss))
    else:
        assert math.isnan(group.observed)


def test_calibration_is_numpys_on_the_labelled_test_rows(scores: Scores, small: Small) -> None:
    test = small.rows[small.rows["split"] == "test"]
    tenth = np.minimum(np.floor(test["score"].astype(float) * 10), 9)
    assert [g.name for g in scores.calibration] == [f"{k / 10:.1f}" for k in np.unique(tenth)]
    for group in scores.calibration:
        _check(group, test[tenth == round(float(group.name) * 10)])
    distance = [g.labelled * abs(g.predicted - g.observed) for g in scores.calibration]
    assert scores.calibration_error == pytest.approx(sum(distance) / len(test))


def test_splits_are_numpys(scores: Scores, small: Small) -> None:
    assert [group.name for group in scores.splits] == sorted(set(small.rows["split"]))
    for group in scores.splits:
        _check(group, small.rows[small.rows["split"] == group.name])


def test_each_periods_index_is_numpys_against_the_training_periods(
    scores: Scores, small: Small
) -> None:
    score = small.rows["score"].astype(float)
    in_training = small.rows["period"].isin(TRAIN_PERIODS)
    edges = np.unique(np.quantile(score[in_training], QUANTILES))
    band = bands(score, edges)
    assert [p.group.name for p in scores.periods] == sorted(set(small.rows["period"]))
    for period in scores.periods:
        own = small.rows["period"] == period.group.name
        _check(period.group, small.rows[own])
        assert period.psi == pytest.approx(psi(band[in_training], band[own]), rel=1e-9)
        assert period.in_training == (period.group.name in TRAIN_PERIODS)
    assert [p.group.name for p in scores.after_training] == ["2013-03", "2013-04"]
    assert scores.psi_after_training == max(p.psi for p in scores.periods[2:])
    assert scores.psi_after_training > 0.25  # the example drifts


def test_keys_that_name_two_rows_are_an_error_not_a_wrong_figure(
    spark: SparkSession, small: Small
) -> None:
    predictions = small.lake.table("predictions").snapshot()
    features = small.lake.table(SPEC.table).snapshot()
    twice = replace(features, files=(*features.files, features.files[0]))
    with pytest.raises(CountError, match=r"4000 predictions meet \d+ rows .* by day, id"):
        measure_scores(spark, predictions, twice, SPEC, TRAIN_PERIODS)


def test_without_test_rows_or_later_periods_there_are_no_figures() -> None:
    cell = Cell(
        split="train",
        period="2013-01",
        tenth=1,
        band=0,
        rows=2,
        score_sum=0.3,
        labelled=0,
        predicted_sum=0.0,
        observed_sum=0.0,
        loss_sum=0.0,
    )
    found = summarised([cell], {"2013-01"})
    assert found.calibration == ()
    assert math.isnan(found.calibration_error)
    assert math.isnan(found.psi_after_training)
