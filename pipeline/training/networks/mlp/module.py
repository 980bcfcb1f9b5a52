"""Dense layers over all that a row has."""

from __future__ import annotations

import math

from torch import Tensor, nn

from pipeline.training.networks import mlp
from pipeline.training.networks.dense import Columns, beside, dense_layers, weights_type
from pipeline.training.networks.inputs import pixels
from pipeline.training.networks.mlp.folded import MOST_NUMBERS, Folded
from pipeline.training.networks.module import NetworkModule
from pipeline.training.networks.shapes import Shapes


class Mlp(NetworkModule):
    """Numbers, embeddings of categories and the values of an image, through dense layers.

    With an image of 28 x 28, one hidden layer of 32 and 10 outputs it is the network 784-32-10.
    """

    def __init__(self, shapes: Shapes, outputs: int, settings: mlp.Mlp) -> None:
        super().__init__()
        self.columns = Columns(shapes, settings.embedding_dimension)
        of_image = math.prod(shapes.image) if shapes.image else 0
        width = self.columns.width + of_image
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

    def folded(self) -> nn.Module:
        """The network as `Folded` where that is faster."""
        if not self.columns.tables:
            return self
        ids = sum(len(table) for table in self.columns.tables)
        hidden = len(next(self.layers.parameters()))
        if ids * hidden > MOST_NUMBERS:
            return self
        return Folded(self.columns, self.layers)


NETWORK = Mlp
