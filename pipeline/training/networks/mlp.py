"""Dense layers over all that a row has."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from pipeline import config
from pipeline.training.networks.architecture import Shapes
from pipeline.training.networks.dense import Columns, beside, dense_layers, scaled, weights_type


class Mlp(nn.Module):
    """Numbers, embeddings of categories and the values of an image, through dense layers.

    With an image of 28 x 28, one hidden layer of 32 and 10 outputs it is the network 784-32-10.
    """

    def __init__(self, shapes: Shapes, outputs: int, settings: config.Mlp) -> None:
        super().__init__()
        self.columns = Columns(shapes, settings.embedding_dimension)
        pixels = math.prod(shapes.image) if shapes.image else 0
        width = self.columns.width + pixels
        self.layers = dense_layers(
            width, settings.hidden, outputs, settings.activation, settings.dropout
        )

    def forward(self, inputs: dict[str, Tensor]) -> Tensor:
        """Maps the inputs to outputs, float [rows, outputs]."""
        parts = self.columns.parts(inputs)
        if "image" in inputs:
            parts.append(pixels(inputs["image"], weights_type(self)))
        outputs: Tensor = self.layers(beside(parts))
        return outputs


def pixels(image: Tensor, dtype: torch.dtype) -> Tensor:
    """An image of bytes [rows, height, width (, channels)] as numbers [rows, pixels], 0 to 1."""
    return scaled(image, dtype).flatten(1)
