from __future__ import annotations

import numpy as np
import pytest
from pyspark.sql import SparkSession

from pipeline.operate.report.bins import QUANTILES
from pipeline.operate.report.drift import measure_drift
from tests.operate.examples import SPEC, WORD, Small, bands, psi


def test_each_features_index_is_numpys_from_train_to_test(
    spark: SparkSession, small: Small
) -> None:
    found = measure_drift(spark, small.lake.table(SPEC.table).snapshot(), SPEC)
    train, test = (small.rows[small.rows["split"] == name] for name in ("train", "test"))
    by_name = {drift.name: drift for drift in found}
    assert set(by_name) == {*SPEC.numeric_columns, *SPEC.categorical_columns}
    for name in SPEC.numeric_columns:
        before, after = train[name].astype(float), test[name].astype(float)
        edges = np.unique(np.quantile(before, QUANTILES))
        assert by_name[name].psi == pytest.approx(psi(bands(before, edges), bands(after, edges)))
        assert by_name[name].before == pytest.approx(before.mean())
        assert by_name[name].after == pytest.approx(after.mean())
    category = by_name["cat_c"]
    assert category.psi == pytest.approx(psi(train["cat_c"].to_numpy(), test["cat_c"].to_numpy()))
    assert category.subject == f"share of {WORD}"  # what it gained, two others lost
    assert category.before == pytest.approx((train["cat_c"] == 3).mean())
    assert category.after == pytest.approx((test["cat_c"] == 3).mean())
    assert [d.psi for d in found] == sorted((d.psi for d in found), reverse=True)
    assert by_name["missing_n"].psi > 0.25  # 1 % of the train rows, 30 % of the test rows


def test_without_test_rows_every_index_is_unknown(spark: SparkSession, small: Small) -> None:
    features = small.lake.table(SPEC.table).snapshot().select(split={"train"})
    found = measure_drift(spark, features, SPEC)
    assert all(np.isnan(drift.psi) and np.isnan(drift.after) for drift in found)
    assert [drift.name for drift in found] == sorted(drift.name for drift in found)
