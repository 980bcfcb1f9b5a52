from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.config import Cnn, Mlp
from pipeline.training.networks import Shapes, architecture_of, build, folded
from pipeline.training.networks.mlp.folded import MOST_NUMBERS, Folded
from tests.training.test_networks import BAG, EVERY, VECTORS, architecture, random_inputs

every_shape = st.builds(
    Shapes,
    numeric=st.integers(0, 4),
    cardinalities=st.lists(st.integers(2, 90), min_size=1, max_size=5).map(tuple),
    image=st.sampled_from([(), (3, 4), (2, 2, 3)]),
    others=st.sampled_from([{}, VECTORS, {"bag": BAG}, {"bag_a": BAG, "bag_b": BAG, **VECTORS}]),
)


@settings(deadline=None, max_examples=60)
@given(
    shapes=every_shape,
    hidden=st.lists(st.integers(1, 9), max_size=3),
    rows=st.integers(0, 40),
    dtype=st.sampled_from([torch.float32, torch.float64]),
    seed=st.integers(0, 2**16),
)
def test_a_folded_network_says_the_same(
    shapes: Shapes, hidden: list[int], rows: int, dtype: torch.dtype, seed: int
) -> None:
    network = build(architecture_of(Mlp(hidden=tuple(hidden)), shapes, 2), seed).to(dtype).eval()
    inputs = random_inputs(shapes, rows, seed=seed)
    inputs = {k: v.to(dtype) if v.is_floating_point() else v for k, v in inputs.items()}
    # As features are decoded, column by column.
    inputs["categorical"] = inputs["categorical"].T.contiguous().T
    found = folded(network)
    assert isinstance(found, Folded)
    with torch.inference_mode():
        torch.testing.assert_close(found(inputs), network(inputs))


def test_each_category_has_a_table_of_its_own() -> None:
    shapes = Shapes(cardinalities=(3, 4))
    network = build(architecture_of(Mlp(hidden=(6,)), shapes, 1))
    every = torch.cartesian_prod(torch.arange(3), torch.arange(4)).int()
    said = folded(network)({"categorical": every})
    torch.testing.assert_close(said, network({"categorical": every}))
    assert len(said.unique()) == 12


@pytest.mark.parametrize("name", [name for name in EVERY if not EVERY[name][1].cardinalities])
def test_without_categories_a_network_stays_as_it_is(name: str) -> None:
    network = build(architecture(name))
    assert folded(network) is network


def test_another_family_with_categories_stays_as_it_is() -> None:
    shapes = Shapes(image=(8, 8), cardinalities=(5,))
    network = build(architecture_of(Cnn(family="cnn", channels=(3,)), shapes, 2))
    assert folded(network) is network


@pytest.mark.parametrize("ids", [MOST_NUMBERS // 64, MOST_NUMBERS // 64 + 1])
def test_a_vast_vocabulary_is_not_folded(ids: int) -> None:
    network = build(architecture_of(Mlp(hidden=(64,)), Shapes(cardinalities=(ids,)), 1))
    assert isinstance(folded(network), Folded) == (ids * 64 <= MOST_NUMBERS)
