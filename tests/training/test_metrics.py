from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.training.metrics import Meter, auroc

# Few values, so that ties are frequent; large ones, which float32 probabilities would tie.
predictions = st.lists(
    st.tuples(st.sampled_from([-40.0, -2.0, -0.5, 0.0, 0.25, 0.5, 0.75, 3.0, 25.0]), st.booleans()),
    min_size=1,
    max_size=60,
)


def pairs_won(scores: list[float], labels: list[bool]) -> float:
    """AUROC by its definition: the share of (positive, negative) pairs in the right order."""
    positive = [s for s, label in zip(scores, labels, strict=True) if label]
    negative = [s for s, label in zip(scores, labels, strict=True) if not label]
    won = [1.0 if p > n else 0.5 if p == n else 0.0 for p in positive for n in negative]
    return sum(won) / len(won) if won else math.nan


@settings(max_examples=60, deadline=None)
@given(predictions, st.integers(1, 20))
def test_metrics_are_exact_however_rows_are_batched(
    rows: list[tuple[float, bool]], size: int
) -> None:
    logits, labels = [row[0] for row in rows], [row[1] for row in rows]
    meter = Meter()
    for start in range(0, len(rows), size):
        meter.update(
            torch.tensor(logits[start : start + size]),
            torch.tensor(labels[start : start + size], dtype=torch.float32),
        )
    metrics = meter.compute()
    signs = np.where(labels, -1.0, 1.0)
    assert metrics.rows == len(rows)
    assert metrics.auroc == pytest.approx(pairs_won(logits, labels), abs=1e-6, nan_ok=True)
    assert auroc(logits, [float(label) for label in labels]) == pytest.approx(
        metrics.auroc, abs=1e-6, nan_ok=True
    )
    expected = np.logaddexp(0, signs * np.array(logits)).mean()
    assert metrics.log_loss == pytest.approx(expected, rel=1e-12)
    right = [(logit > 0) == label for logit, label in rows]
    assert metrics.accuracy == pytest.approx(np.mean(right), rel=1e-12)


def test_no_rows_give_no_figures() -> None:
    metrics = Meter().compute()
    assert metrics.rows == 0
    assert math.isnan(metrics.auroc)
    assert math.isnan(metrics.log_loss)
    assert math.isnan(auroc([], []))
