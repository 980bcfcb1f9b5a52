"""Networks: described by an `Architecture`, built by a family's builder, the same on any machine.

A family is one entry of `BUILDERS`. What a family needs to know stands in `Architecture`, which is
saved beside the weights: building a network from it runs no code of the file.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.errors import ModelError

EMBEDDING_DEVIATION = 0.1
"""Of initial embedding weights: near the scale of the standardised features they stand beside."""


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """All that decides the shapes of a network's weights.

    Raises:
        ModelError: A value is not of its type or out of range; the family is not known.
    """

    family: str
    numeric_width: int
    """Numeric features a row."""
    cardinalities: tuple[int, ...]
    """Ids of each categorical feature; 0 is a missing value, 1 one out of the vocabulary."""
    hidden: tuple[int, ...]
    """Units of each hidden layer."""
    embedding_dimension: int
    """Upper bound of an embedding's width, see `embedding_width`."""
    dropout: float
    """Probability that a hidden unit is left out, at least 0 and below 1."""

    def __post_init__(self) -> None:
        if self.family not in BUILDERS:
            known = ", ".join(sorted(BUILDERS))
            raise _refused("family", self.family, f"one of: {known}")
        _require_counts("numeric_width", (self.numeric_width,), 0)
        _require_counts("cardinalities", self.cardinalities, 2)
        _require_counts("hidden", self.hidden, 1)
        _require_counts("embedding_dimension", (self.embedding_dimension,), 1)
        _require_probability("dropout", self.dropout)
        if self.numeric_width == 0 and not self.cardinalities:
            raise _refused("numeric_width", 0, "above 0 where there is no categorical feature")

    def to_dict(self) -> dict[str, Any]:
        """Values that JSON can hold; `from_dict` takes them back."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Architecture:
        """The architecture that `to_dict` was called on.

        Raises:
            ModelError: A value is missing, unknown, of another type or out of range.
        """
        lists = {name: values.get(name) for name in ("cardinalities", "hidden")}
        for name, value in lists.items():
            if not isinstance(value, list | tuple):
                raise _refused(name, value, "a list of whole numbers")
        try:
            return cls(**{**values, **{name: tuple(value or ()) for name, value in lists.items()}})
        except TypeError as error:  # a key that is missing or unknown
            raise _refused("keys", sorted(values), str(error)) from error


def build(architecture: Architecture, seed: int = 0) -> nn.Module:
    """Builds a network with freshly drawn weights, on the CPU and in training mode.

    Args:
        architecture: Its description.
        seed: Decides the weights; torch's own generator is left as it was.

    Returns:
        A module `forward(numeric, categorical) -> logits` with `numeric` float32 [rows, n],
        `categorical` int32 [rows, c] and `logits` float32 [rows].
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return BUILDERS[architecture.family](architecture)


def embedding_width(cardinality: int, bound: int) -> int:
    """Width of one categorical column's embedding: `ceil(cardinality ** 0.5)`, at most `bound`.

    Source: the fourth root is the rule of thumb of "Introducing TensorFlow Feature Columns",
    https://developers.googleblog.com/en/introducing-tensorflow-feature-columns/; vocabularies of a
    few dozen categories, usual here, would get a width of 2 by it: the square root gives them more,
    and the bound keeps large ones small.
    """
    return min(bound, math.ceil(math.sqrt(cardinality)))


class Mlp(nn.Module):
    """Embeddings beside the numeric features, then dense layers; without categories a plain MLP."""

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        sizes = architecture.cardinalities
        widths = [embedding_width(size, architecture.embedding_dimension) for size in sizes]
        embeddings = [nn.Embedding(size, width) for size, width in zip(sizes, widths, strict=True)]
        for embedding in embeddings:
            nn.init.normal_(embedding.weight, std=EMBEDDING_DEVIATION)
        self.embeddings = nn.ModuleList(embeddings)
        width = architecture.numeric_width + sum(widths)
        layers: list[nn.Module] = []
        for units in architecture.hidden:
            layers += [nn.Linear(width, units), nn.ReLU(), nn.Dropout(architecture.dropout)]
            width = units
        self.layers = nn.Sequential(*layers, nn.Linear(width, 1))

    def forward(self, numeric: Tensor, categorical: Tensor) -> Tensor:
        """Maps float32 [rows, n] and int32 [rows, c] to logits, float32 [rows]."""
        columns = [
            embedding(categorical[:, position])
            for position, embedding in enumerate(self.embeddings)
        ]
        # [rows, n] and c times [rows, width of that column] -> [rows, n + sum of widths]
        dense = torch.cat([numeric, *columns], dim=1)
        # [rows, 1] -> [rows]
        logits: Tensor = self.layers(dense).squeeze(1)
        return logits


BUILDERS: dict[str, Callable[[Architecture], nn.Module]] = {"mlp": Mlp}


def _require_counts(setting: str, values: tuple[Any, ...], least: int) -> None:
    # bool is an int, and JSON could hold one.
    if any(type(value) is not int or value < least for value in values):
        shown = values[0] if len(values) == 1 else list(values)
        raise _refused(setting, shown, f"whole numbers of at least {least}")


def _require_probability(setting: str, value: Any) -> None:
    if type(value) not in (float, int) or not 0 <= value < 1:
        raise _refused(setting, value, "a number of at least 0 and below 1")


def _refused(setting: str, value: object, allowed: str) -> ModelError:
    return ModelError(
        f"architecture, {setting}",
        f"cannot be {value!r}; allowed: {allowed}",
        "Use the model's own files as they were saved, or train it again.",
    )
