from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipeline.config import Train
from pipeline.training.schedule import factor, schedule_of

NAMES = st.sampled_from(["constant", "cosine", "one_cycle"])


@given(NAMES, st.integers(0, 30), st.integers(1, 200))
def test_a_rate_is_a_share_of_the_highest_and_is_reached_smoothly(
    name: str, warmup: int, steps: int
) -> None:
    settings = Train(schedule=name, warmup_steps=warmup)
    shares = [factor(settings, step, steps) for step in range(steps + 5)]
    assert all(0 < share <= 1 for share in shares)
    rising = shares[: min(warmup, steps)]
    assert rising == sorted(rising)
    if name == "constant":
        assert all(share == 1 for share in shares[warmup:])
    if name == "cosine":
        assert shares[warmup:] == sorted(shares[warmup:], reverse=True)


@pytest.mark.parametrize(("name", "ends"), [("cosine", (1.0, 1e-4)), ("one_cycle", (0.04, 1e-4))])
def test_the_two_ends_of_a_schedule(name: str, ends: tuple[float, float]) -> None:
    settings = Train(schedule=name)
    found = factor(settings, 0, 100), factor(settings, 100, 100)
    assert found == pytest.approx(ends)
    if name == "one_cycle":
        assert factor(settings, 30, 100) == pytest.approx(1)


def test_one_cycle_is_torchs() -> None:
    weight = torch.nn.Parameter(torch.zeros(1))
    ours, theirs = (torch.optim.SGD([weight], lr=0.1) for _ in range(2))
    mine = schedule_of(ours, Train(schedule="one_cycle", learning_rate=0.1), 100)
    other = torch.optim.lr_scheduler.OneCycleLR(theirs, 0.1, total_steps=101, cycle_momentum=False)
    for step in range(100):
        rates = [optimiser.param_groups[0]["lr"] for optimiser in (ours, theirs)]
        # torch ends its rise a step earlier, and falls further, to the first rate over 10,000.
        assert rates[0] == pytest.approx(rates[1], abs=0.004), step
        for optimiser, schedule in ((ours, mine), (theirs, other)):
            optimiser.step()
            schedule.step()
