"""An `Mlp` for scoring, with its embeddings folded into its first layer.

That layer is linear, so what it makes of an embedding depends on the id alone:

    W [x, e_1[i_1], ..., e_c[i_c]] + b  =  W_x x + b + sum over k of T_k[i_k],  T_k = W_k e_k

The tables T are computed once, with b in the first; a row then takes a lookup for each category and
their sum, in place of a lookup, a copy and most of the layer's multiplications. Bags stay as they
are, beside the numbers.
"""

from __future__ import annotations

from itertools import accumulate

import torch
from torch import Tensor, nn
from torch.nn import functional

from pipeline.training.networks.dense import Columns, beside
from pipeline.training.networks.inputs import pixels

MOST_NUMBERS = 1 << 22
"""In all tables, 16 MiB: what a cache holds. From memory a lookup costs what it saves."""


class Folded(nn.Module):
    """Says what an `Mlp` with categories says, up to rounding; only to be used, not trained.

    Ids must be of their vocabularies, each below its cardinality: it does not look.

    Args:
        columns: Of the `Mlp`; there are categories.
        layers: Of the `Mlp`.
    """

    def __init__(self, columns: Columns, layers: nn.Sequential) -> None:
        super().__init__()
        first, *rest = layers
        assert isinstance(first, nn.Linear)  # noqa: S101 - for mypy: see `dense_layers`
        weight, dtype = first.weight.detach().double(), first.weight.dtype
        embeddings = [table.detach().double() for table in columns.tables]
        widths = [embedding.shape[1] for embedding in embeddings]
        numeric = columns.width - sum(widths)
        others = first.in_features - columns.width
        # [hidden, width] -> [hidden, numeric], [hidden, width of each embedding], [hidden, pixels]
        of_numeric, *of_each, of_pixels = torch.split(weight, [numeric, *widths, others], dim=1)
        # [cardinality, width] of each -> [cardinality, hidden]
        tables = [each @ own.T for each, own in zip(embeddings, of_each, strict=True)]
        tables[0] += first.bias.detach().double()
        firsts = [0, *accumulate(len(table) for table in tables[:-1])]
        self.firsts = nn.Buffer(torch.tensor(firsts, dtype=torch.int32))
        self.tables = nn.Parameter(torch.cat(tables).to(dtype), requires_grad=False)
        # [numeric and pixels, hidden]
        beside_them = torch.cat([of_numeric, of_pixels], dim=1).T.to(dtype)
        self.weight = nn.Parameter(beside_them.contiguous(), requires_grad=False)
        self.numbers = ("numeric", *columns.vectors)
        self.bags = columns.bags
        self.layers = nn.Sequential(*rest)

    def forward(self, inputs: dict[str, Tensor]) -> Tensor:
        """Maps the inputs to outputs, float [rows, outputs]."""
        # [rows, categories] -> [rows, hidden]
        hidden = functional.embedding_bag(
            inputs["categorical"] + self.firsts, self.tables, mode="sum"
        )
        parts = [inputs[name] for name in self.numbers if name in inputs] + self.bags(inputs)
        if "image" in inputs:
            parts.append(pixels(inputs["image"], hidden.dtype))
        if parts:
            hidden = torch.addmm(hidden, beside(parts), self.weight)
        outputs: Tensor = self.layers(hidden)
        return outputs
