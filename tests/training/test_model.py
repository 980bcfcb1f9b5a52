from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import ModelError
from pipeline.training.model import Architecture, build, embedding_width

architectures = st.builds(
    Architecture,
    family=st.just("mlp"),
    numeric_width=st.integers(1, 5),
    cardinalities=st.lists(st.integers(2, 30), max_size=3).map(tuple),
    hidden=st.lists(st.integers(1, 8), max_size=3).map(tuple),
    embedding_dimension=st.integers(1, 8),
    dropout=st.floats(0, 0.9),
)
GOOD: dict[str, Any] = {
    "family": "mlp",
    "numeric_width": 2,
    "cardinalities": [4],
    "hidden": [3],
    "embedding_dimension": 2,
    "dropout": 0.5,
}


@given(architectures)
def test_an_architecture_survives_json(architecture: Architecture) -> None:
    assert Architecture.from_dict(json.loads(json.dumps(architecture.to_dict()))) == architecture


@settings(max_examples=25, deadline=None)
@given(architectures, st.integers(0, 2**31 - 1), st.integers(0, 6))
def test_the_seed_alone_decides_the_weights(
    architecture: Architecture, seed: int, rows: int
) -> None:
    before = torch.get_rng_state()
    first, second = build(architecture, seed).eval(), build(architecture, seed).eval()
    assert torch.equal(torch.get_rng_state(), before)
    numeric = torch.randn(rows, architecture.numeric_width)
    sizes = architecture.cardinalities
    ids = [torch.randint(0, size, (rows, 1), dtype=torch.int32) for size in sizes]
    categorical = torch.cat([torch.empty(rows, 0, dtype=torch.int32), *ids], dim=1)
    logits = first(numeric, categorical)
    assert logits.shape == (rows,)
    assert logits.dtype == torch.float32
    assert torch.equal(logits, second(numeric, categorical))


def test_another_seed_gives_other_weights() -> None:
    architecture = Architecture.from_dict(GOOD)
    first, second = build(architecture, 1).state_dict(), build(architecture, 2).state_dict()
    assert all(not torch.equal(first[name], second[name]) for name in first)


def test_every_feature_reaches_the_logit() -> None:
    architecture = Architecture.from_dict({**GOOD, "hidden": [64], "dropout": 0.0})
    module = build(architecture, 0)
    numeric = torch.zeros(1, 2, requires_grad=True)
    logits = [module(numeric, torch.tensor([[i]], dtype=torch.int32)) for i in range(4)]
    logits[0].backward()
    assert numeric.grad is not None
    assert (numeric.grad != 0).all()
    assert len({logit.item() for logit in logits}) == 4


@pytest.mark.parametrize(("cardinality", "width"), [(2, 2), (9, 3), (10, 4), (10_000, 8)])
def test_small_vocabularies_get_narrow_embeddings(cardinality: int, width: int) -> None:
    assert embedding_width(cardinality, 8) == width


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("family", "os.system"),
        ("numeric_width", -1),
        ("numeric_width", 1.5),
        ("numeric_width", True),
        ("cardinalities", [1]),
        ("cardinalities", None),
        ("cardinalities", "44"),
        ("hidden", [0]),
        ("hidden", ["8"]),
        ("embedding_dimension", 0),
        ("dropout", 1.0),
        ("dropout", "none"),
        ("dropout", float("nan")),
        ("surprise", 1),
    ],
)
def test_an_impossible_value_is_refused_by_name(name: str, value: object) -> None:
    with pytest.raises(ModelError) as caught:
        Architecture.from_dict({**GOOD, name: value})
    assert name in str(caught.value)


@pytest.mark.parametrize("name", sorted(GOOD))
def test_a_missing_value_is_refused_by_name(name: str) -> None:
    with pytest.raises(ModelError) as caught:
        Architecture.from_dict({key: value for key, value in GOOD.items() if key != name})
    assert name in str(caught.value)


def test_a_network_without_any_input_is_refused() -> None:
    with pytest.raises(ModelError, match="numeric_width"):
        Architecture.from_dict({**GOOD, "numeric_width": 0, "cardinalities": []})
