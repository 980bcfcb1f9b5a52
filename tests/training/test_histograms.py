from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipeline.features.kinds.images import FittedImage
from pipeline.features.kinds.tokens import FittedTokens
from pipeline.training.histograms import (
    FEATURE_BITS,
    SCORE_BITS,
    Columns,
    Histograms,
    Tally,
    input_columns,
    score_columns,
    total,
)
from tests.training import examples

# Numbers that are their own in float32, with all that is odd about them.
floats = st.floats(width=32, allow_nan=False, allow_subnormal=False)
odd = [0.0, -0.0, 1.0, -1.0, float("inf"), float("-inf"), 3.4e38, 1.2e-38]


def steps(value: float, parts: int) -> tuple[float, ...]:
    """Where a number lies: the power of two below it, and how many of its parts above that."""
    if value == 0:
        return (0, 0, 0)
    sign = float(np.sign(value))
    if not np.isfinite(value):
        return (sign, sign * 10_000, 0)
    mantissa, exponent = np.frexp(np.float64(abs(value)))
    return (sign, sign * (exponent + 1000), sign * np.floor((2 * mantissa - 1) * parts))


def counted(values: Any, columns: Columns, rows: int) -> Histograms:
    tally = Tally([columns])
    tally.add({columns.tensor: torch.as_tensor(values)}, rows)
    return tally.histograms()


@pytest.mark.parametrize(("bits", "parts"), [(FEATURE_BITS, 8), (SCORE_BITS, 32)])
@given(values=st.lists(floats | st.sampled_from(odd), max_size=60))
def test_numbers_are_told_apart_to_a_part_of_their_power_of_two(
    bits: int, parts: int, values: list[float]
) -> None:
    held = np.array(values, np.float32)
    found = counted(held, Columns.of_floats("numeric", ("x",), bits), len(values)).bins["x"]
    expected = Counter(steps(float(value), parts) for value in held)
    # Bins ascend as the values do.
    assert list(found) == sorted(found)
    assert list(found.values()) == [expected[step] for step in sorted(expected)]


@given(
    ids=st.lists(st.tuples(st.integers(0, 2), st.integers(0, 5000)), max_size=40),
)
def test_ids_are_their_own_bins(ids: list[tuple[int, int]]) -> None:
    columns = Columns(tensor="categorical", names=("few", "many"), sizes=(3, 5001))
    held = np.array(ids, np.int32).reshape(-1, 2)
    found = counted(held, columns, len(ids))
    assert found.bins["few"] == Counter(few for few, _ in ids)
    assert found.bins["many"] == Counter(many for _, many in ids)


@pytest.mark.parametrize("rows", [0, 7, 2000])
def test_counts_of_blocks_add_up(rows: int) -> None:
    spec = examples.spec(numeric=70)
    picture = FittedImage(column="p", shape=(2, 3), encoding="raw")
    text = FittedTokens(column="t", separator=" ", buckets=9, longest=5)
    spec = spec.model_copy(update={"parts": (*spec.parts, picture, text)})
    random = np.random.default_rng(0)
    block: dict[str, npt.NDArray[Any]] = {
        # Column by column, as the stream has them.
        "numeric": random.normal(size=(70, rows)).astype(np.float32).T,
        "categorical": random.integers(0, 8, (rows, 2)).astype(np.int32),
        "image": random.integers(0, 256, (rows, 2, 3)).astype(np.uint8),
        "tokens": random.integers(1, 9, (rows, 5)).astype(np.int32),
        "lengths": random.integers(0, 6, rows),
        "_missing_0": random.integers(0, 2**63, rows),
        "_missing_1": random.integers(0, 2**8, rows),
    }

    def tally(begin: int, end: int) -> Histograms:
        found = Tally(input_columns(spec), spec.imputed_columns)
        some = {name: torch.as_tensor(values[begin:end]) for name, values in block.items()}
        found.add(some, end - begin)
        return found.histograms()

    whole = tally(0, rows)
    assert total([tally(0, rows // 3), tally(rows // 3, rows)]) == whole
    assert set(whole.bins) == set(spec.feature_columns)
    assert {sum(counts.values()) for counts in whole.bins.values()} <= {rows}
    assert whole.bins["tokens_t"] == Counter(block["lengths"].tolist())
    missing = [
        int(sum(int(held) >> bit & 1 for held in block[f"_missing_{column}"]))
        for column, bits in ((0, 63), (1, 8))
        for bit in range(bits)
    ]
    assert list(whole.missing.values()) == missing
    bright = [steps(float(picture.mean()), 32) for picture in block["image"].astype(np.float32)]
    assert sorted(whole.bins["image_p"].values()) == sorted(Counter(bright).values())


def test_each_task_has_its_scores_counted() -> None:
    names = {
        "binary": ["score"],
        "regression": ["score"],
        "reconstruction": ["score"],
        "multiclass": ["score", "class"],
        "multilabel": ["late_a", "late_b"],
    }
    for task, expected in names.items():
        columns = score_columns(task, ("x", "y"), ("late_a", "late_b"))
        assert [name for each in columns for name in each.names] == expected
