from __future__ import annotations

import math
from collections.abc import Callable

import pytest

from pipeline.stability import FLOOR, Counts, psi_of_categories, psi_of_values


def term(p: float, q: float) -> float:
    return (q - p) * math.log(q / p)


def test_neighbours_are_merged_until_they_hold_a_twentieth() -> None:
    training = {10: 30, 11: 30, 12: 940}  # 3 % and 3 %, then nearly all
    scored = {10: 100, 12: 900}
    assert psi_of_values(training, scored) == pytest.approx(term(0.06, 0.1) + term(0.94, 0.9))
    # Within a bin nothing is told apart.
    assert psi_of_values(training, {11: 60, 12: 940}) == 0


def test_values_beyond_those_of_the_training_have_bins_of_their_own() -> None:
    training = {10: 500, 12: 500}
    for bin_ in (9, 13):
        scored = {10: 450, 12: 450, bin_: 100}
        expected = 2 * term(0.5, 0.45) + term(FLOOR, 0.1)
        assert psi_of_values(training, scored) == pytest.approx(expected)
    # Between two bins they belong to the upper one.
    assert psi_of_values(training, {10: 500, 11: 500}) == 0


def test_what_most_rows_share_stays_alone() -> None:
    training = {5: 10, 6: 980, 7: 10}
    scored = {5: 10, 6: 780, 7: 210}
    expected = term(0.98, 0.78) + term(0.01, 0.21)
    assert psi_of_values(training, scored) == pytest.approx(expected)
    constant = {0: 1000}
    assert psi_of_values(constant, {0: 900, 1: 100}) == pytest.approx(
        term(1, 0.9) + term(FLOOR, 0.1)
    )


def test_small_categories_are_merged_the_larger_first() -> None:
    training = {2: 900, 3: 40, 4: 30, 5: 20, 6: 10}  # 3 and 4 are one bin, 5 and 6 the rest
    scored = {2: 900, 3: 70, 6: 20, 7: 10}
    assert psi_of_categories(training, scored) == pytest.approx(0)
    scored = {2: 800, 4: 70, 0: 130}  # 0 was in no training row
    expected = term(0.9, 0.8) + term(0.03, 0.13)
    assert psi_of_categories(training, scored) == pytest.approx(expected)


def test_categories_that_the_training_had_none_of_are_one_bin() -> None:
    training = {2: 500, 3: 500}
    scored = {2: 450, 3: 450, 1: 60, 9: 40}
    expected = 2 * term(0.5, 0.45) + term(FLOOR, 0.1)
    assert psi_of_categories(training, scored) == pytest.approx(expected)


@pytest.mark.parametrize("index", [psi_of_values, psi_of_categories])
def test_it_is_zero_for_equal_shares_finite_for_others_and_unknown_without_rows(
    index: Callable[[Counts, Counts], float],
) -> None:
    training = dict.fromkeys(range(50), 10)
    assert index(training, dict.fromkeys(range(50), 3)) == pytest.approx(0)
    assert 1 < index(training, {1000: 7}) < 20
    assert math.isnan(index(training, {}))
    assert math.isnan(index({}, training))
