"""Convolutions over an image: the settings, and what they fit; `module.py` is the network."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import model_validator

from pipeline.features.kinds import Image
from pipeline.settings import Positive
from pipeline.training.networks.family import Forms, Network, no_sequence, one_image
from pipeline.training.networks.shapes import Shapes


class Cnn(Network):
    """Convolutions over an image, each halving its sides; then dense layers, as in `mlp`."""

    family: Literal["cnn"]
    channels: tuple[Positive, ...] = (32, 64)
    """Output channels of each block: convolution, activation, maximum of 2 x 2."""
    kernel: Positive = 3
    """Height and width of the convolutions; odd."""
    batch_norm: bool = False
    """Normalises each block over the rank's rows; the last, shorter batch must be dropped then."""
    hidden: tuple[Positive, ...] = (128,)
    embedding_dimension: Positive = 8

    def refusal(self, forms: Forms) -> str | None:
        """Reads exactly one image, and no sequence."""
        if not forms.get(Image):
            return "needs an image; name one under features.images"
        return no_sequence(forms) or one_image(forms)

    def require_fits(self, shapes: Shapes, outputs: int) -> None:
        """Checks that the image survives the poolings."""
        blocks = len(self.channels)
        if shapes.image and min(shapes.image[:2]) < 2**blocks:
            raise ValueError(
                f"settings.channels: {blocks} blocks halve an image of "
                f"{shapes.image[0]} x {shapes.image[1]} to nothing; set fewer"
            )
        super().require_fits(shapes, outputs)

    def last_batch_refusal(self) -> str | None:
        """Batch norm needs several rows."""
        if not self.batch_norm:
            return None
        return "model.batch_norm: a last batch of one row, or none, has no deviation"

    @model_validator(mode="after")
    def _kernel_has_a_middle(self) -> Self:
        if self.kernel % 2 == 0:
            raise ValueError(f"kernel {self.kernel} is even: it has no middle; choose an odd one")
        return self
