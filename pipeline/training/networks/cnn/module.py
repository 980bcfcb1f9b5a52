"""Convolutions over an image."""

from __future__ import annotations

from torch import Tensor, nn

from pipeline.training.networks import cnn
from pipeline.training.networks.dense import (
    ACTIVATIONS,
    Columns,
    beside,
    dense_layers,
    weights_type,
)
from pipeline.training.networks.inputs import scaled
from pipeline.training.networks.module import NetworkModule
from pipeline.training.networks.shapes import Shapes


class Cnn(NetworkModule):
    """Blocks of convolution, activation and maximum of 2 x 2; then dense layers.

    Source: LeCun et al., Gradient-based learning applied to document recognition, 1998,
    http://yann.lecun.com/exdb/publis/pdf/lecun-98.pdf; batch norm: Ioffe and Szegedy,
    https://arxiv.org/abs/1502.03167.
    """

    def __init__(self, shapes: Shapes, outputs: int, settings: cnn.Cnn) -> None:
        super().__init__()
        height, width, *channels = shapes.image
        before = channels[0] if channels else 1
        blocks: list[nn.Module] = []
        for after in settings.channels:
            blocks.append(nn.Conv2d(before, after, settings.kernel, padding="same"))
            if settings.batch_norm:
                blocks.append(nn.BatchNorm2d(after))
            blocks += [ACTIVATIONS[settings.activation](), nn.MaxPool2d(2)]
            before, height, width = after, height // 2, width // 2
        self.blocks = nn.Sequential(*blocks)
        self.columns = Columns(shapes, settings.embedding_dimension)
        self.layers = dense_layers(
            before * height * width + self.columns.width,
            settings.hidden,
            outputs,
            settings.activation,
            settings.dropout,
        )

    def forward(self, inputs: dict[str, Tensor]) -> Tensor:
        """Maps the inputs to outputs, float [rows, outputs]."""
        image = scaled(inputs["image"], weights_type(self))
        # [rows, height, width] or [rows, height, width, channels]
        # -> [rows, channels, height, width]
        image = image.unsqueeze(1) if image.dim() == 3 else image.permute(0, 3, 1, 2)
        # [rows, channels, height, width] -> [rows, all of them]
        seen = self.blocks(image).flatten(1)
        outputs: Tensor = self.layers(beside([seen, *self.columns.parts(inputs)]))
        return outputs


NETWORK = Cnn
