"""The layers that most families end in: embeddings beside other numbers, then dense layers."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from pipeline.training.networks.family import Activation
from pipeline.training.networks.shapes import Shapes

EMBEDDING_DEVIATION = 0.1
"""Of initial embedding weights: near the scale of the standardised features they stand beside."""

ACTIVATIONS: dict[Activation, type[nn.Module]] = {
    "relu": nn.ReLU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "tanh": nn.Tanh,
    "elu": nn.ELU,
    "leaky_relu": nn.LeakyReLU,
}


def embedding_width(cardinality: int, bound: int) -> int:
    """Width of one categorical column's embedding: `ceil(cardinality ** 0.5)`, at most `bound`.

    Source: the fourth root is the rule of thumb of "Introducing TensorFlow Feature Columns",
    https://developers.googleblog.com/en/introducing-tensorflow-feature-columns/; vocabularies of a
    few dozen categories, usual here, would get a width of 2 by it: the square root gives them more,
    and the bound keeps large ones small.
    """
    return min(bound, math.ceil(math.sqrt(cardinality)))


class Bags(nn.Module):
    """Of each bag of ids the mean of their embeddings; 0 where it is empty."""

    def __init__(self, shapes: Shapes, embedding_dimension: int) -> None:
        super().__init__()
        self.names = tuple(shapes.bags)
        sizes = [each.ids for each in shapes.bags.values()]
        widths = [embedding_width(size, embedding_dimension) for size in sizes]
        self.width = sum(widths)
        self.tables = nn.ModuleList(
            nn.Embedding(size, width, padding_idx=0)
            for size, width in zip(sizes, widths, strict=True)
        )
        for table in self.tables.parameters():
            nn.init.normal_(table, std=EMBEDDING_DEVIATION)
            with torch.no_grad():
                table[0] = 0  # of the padding; it gets no gradient

    def forward(self, inputs: dict[str, Tensor]) -> list[Tensor]:
        """The means, each float [rows, some of the width]."""
        return [
            _mean(table(inputs[name]), inputs[name])
            for name, table in zip(self.names, self.tables, strict=True)
        ]


def _mean(embedded: Tensor, ids: Tensor) -> Tensor:
    """The mean over a row's ids, the padding left out.

    Not by `nn.EmbeddingBag`, which takes no batch in which all bags are empty.

    Args:
        embedded: Float [rows, longest, width], 0 for the padding.
        ids: int32 [rows, longest], 0 for the padding.

    Returns:
        Float [rows, width].
    """
    count = (ids != 0).sum(1, keepdim=True).clamp(min=1)
    mean: Tensor = embedded.sum(1) / count.to(embedded.dtype)
    return mean


class Columns(nn.Module):
    """Numeric features, vectors, bags and an embedding of each category, side by side."""

    def __init__(self, shapes: Shapes, embedding_dimension: int) -> None:
        super().__init__()
        sizes = shapes.cardinalities
        widths = [embedding_width(size, embedding_dimension) for size in sizes]
        embeddings = [nn.Embedding(size, width) for size, width in zip(sizes, widths, strict=True)]
        for embedding in embeddings:
            nn.init.normal_(embedding.weight, std=EMBEDDING_DEVIATION)
        self.embeddings = nn.ModuleList(embeddings)
        vectors = shapes.of_form("vector")
        self.vectors = tuple(vectors)
        """Names of the inputs that are vectors."""
        self.bags = Bags(shapes, embedding_dimension)
        numbers = shapes.numeric + sum(each.shape[0] for each in vectors.values())
        self.width = numbers + self.bags.width + sum(widths)
        """Columns that `parts` are wide together."""

    @property
    def tables(self) -> list[Tensor]:
        """The embeddings of each category, float [cardinality, width]."""
        return [weight for embedding in self.embeddings for weight in embedding.parameters()]

    def numbers(self, inputs: dict[str, Tensor]) -> list[Tensor]:
        """Numeric features, vectors and bags, each float [rows, some of the width]."""
        numeric = [inputs["numeric"]] if "numeric" in inputs else []
        return [*numeric, *(inputs[name] for name in self.vectors), *self.bags(inputs)]

    def parts(self, inputs: dict[str, Tensor]) -> list[Tensor]:
        """What there is of them, each float [rows, some of the width]."""
        return self.numbers(inputs) + [
            embedding(inputs["categorical"][:, position])
            for position, embedding in enumerate(self.embeddings)
        ]


def weights_type(network: nn.Module) -> torch.dtype:
    """The type of a network's weights, which its inputs must have; float32 where it has none."""
    return next((weight.dtype for weight in network.parameters()), torch.float32)


def weights_device(network: nn.Module) -> torch.device:
    """The device of a network's weights, which its inputs must be on; the CPU where it has none."""
    return next((weight.device for weight in network.parameters()), torch.device("cpu"))


def dense_layers(
    width: int, hidden: Sequence[int], outputs: int, activation: Activation, dropout: float = 0.0
) -> nn.Sequential:
    """Hidden layers with activation and dropout, then a linear one: [rows, width] to outputs."""
    layers: list[nn.Module] = []
    for units in hidden:
        layers += [nn.Linear(width, units), ACTIVATIONS[activation]()]
        if dropout:
            layers.append(nn.Dropout(dropout))
        width = units
    return nn.Sequential(*layers, nn.Linear(width, outputs))


def beside(parts: Sequence[Tensor]) -> Tensor:
    """Parts [rows, some] -> [rows, all]; one part as it is."""
    return torch.cat(list(parts), dim=1) if len(parts) > 1 else parts[0]
