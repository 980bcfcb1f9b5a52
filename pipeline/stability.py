"""The population stability index: how far the rows of today lie from those of the training.

    PSI = sum over bins of (q - p) ln(q / p)

with p the share of the training rows in a bin, and q that of the rows scored. It is Jeffreys'
divergence of the two; a bin's share counts as one in 10,000 at least, so that it is finite.

The usual reading: below 0.1 they are alike, from 0.25 on it is another population. For rows of the
same population it is about (bins - 1) / rows: 0.02 for 20 bins and 1,000 rows.

Source: Siddiqi, Credit Risk Scorecards (2006), chapter 10; its distribution: Yurdakul, Statistical
Properties of Population Stability Index (2018), https://scholarworks.wmich.edu/dissertations/3208.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable, Mapping

LEAST_SHARE = 0.05
"""Of the training rows, that neighbours are merged up to."""
FLOOR = 1e-4

Counts = Mapping[int, int]
"""Fine bin to rows."""


def psi_of_values(training: Counts, scored: Counts) -> float:
    """The index over bins in the order of values: for numbers and lengths.

    Neighbours are merged until they hold 5 % of the training rows. A bin that holds as many by
    itself, such as the zeros of an indicator, stays alone, however little lies beside it. What is
    below, or above, all values of the training has a bin of its own.

    Args:
        training: Of the training rows.
        scored: Of the rows scored.

    Returns:
        At least 0; NaN where one side has no rows.
    """
    if not training:
        return math.nan
    groups: list[list[int]] = [[]]
    held = 0
    least = LEAST_SHARE * sum(training.values())
    for bin_ in sorted(training):
        if groups[-1] and (held >= least or training[bin_] >= least):
            groups.append([])
            held = 0
        groups[-1].append(bin_)
        held += training[bin_]
    # Below all, then each group up to its last bin; what is beyond the last is above all.
    ends = [min(training) - 1, *(group[-1] for group in groups)]
    return _psi(training, scored, lambda bin_: bisect_left(ends, bin_))


def psi_of_categories(training: Counts, scored: Counts) -> float:
    """The index over bins without an order: for ids and classes.

    Those with 5 % of the training rows are alone, smaller ones are merged until they hold as many,
    the larger first. What is left then, and all that the training rows had none of, is one bin.

    Args:
        training: Of the training rows.
        scored: Of the rows scored.

    Returns:
        At least 0; NaN where one side has no rows.
    """
    group_of: dict[int, int] = {}
    group, held = 1, 0
    least = LEAST_SHARE * sum(training.values())
    for id_ in sorted(training, key=lambda id_: (-training[id_], id_)):
        group_of[id_] = group
        held += training[id_]
        if held >= least:
            group, held = group + 1, 0
    # The last group, which was not filled, takes in whatever the training rows had none of.
    return _psi(training, scored, lambda id_: group_of.get(id_, group))


def _psi(training: Counts, scored: Counts, group_of: Callable[[int], int]) -> float:
    """The index over groups of fine bins."""
    sides = []
    for counts in (training, scored):
        rows: dict[int, int] = {}
        for bin_, count in counts.items():
            rows[group_of(bin_)] = rows.get(group_of(bin_), 0) + count
        sides.append(rows)
    before, after = (sum(rows.values()) for rows in sides)
    if not before or not after:
        return math.nan
    total = 0.0
    for group in sides[0].keys() | sides[1].keys():
        p = max(sides[0].get(group, 0) / before, FLOOR)
        q = max(sides[1].get(group, 0) / after, FLOOR)
        total += (q - p) * math.log(q / p)
    return total
