"""A variational autoencoder: the settings, and what they fit; `module.py` is the network."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal

from pipeline.features.kinds import Bag, Id, Image, Number, Vector
from pipeline.settings import Positive
from pipeline.training.networks.family import Forms, Network, no_sequence, one_image
from pipeline.training.networks.shapes import Shapes

if TYPE_CHECKING:
    from pipeline.training.tasks import Task


class Vae(Network):
    """A variational autoencoder: rebuilds its inputs, numbers or an image, from a few latent ones.

    Its outputs are the latent mean and the anomaly score.
    """

    family: Literal["vae"]
    hidden: tuple[Positive, ...] = (400,)
    """Units of the encoder's hidden layers; the decoder has them in reverse."""
    latent: Positive = 20

    def refusal(self, forms: Forms) -> str | None:
        """Reads numbers or one image."""
        if forms.get(Id):
            return "rebuilds numbers or an image, no categories"
        if forms.get(Vector):
            return "rebuilds numbers or an image, no vectors"
        if forms.get(Bag):
            return "rebuilds numbers or an image, no bags"
        if forms.get(Image) and forms.get(Number):
            return "rebuilds numbers or an image, not both"
        return no_sequence(forms) or one_image(forms)

    def learns(self, task: Task) -> bool:
        """Rebuilds its own input, and predicts nothing else."""
        return task.rebuilds

    def outputs(self, shapes: Shapes, predicted: int) -> int:
        """What it rebuilds, then the mean and the logarithm of the variance of each latent one."""
        del predicted
        return rebuilt_width(shapes) + 2 * self.latent


def rebuilt_width(shapes: Shapes) -> int:
    """Numbers that an autoencoder rebuilds: those of the image, else the numeric features."""
    return math.prod(shapes.image) if shapes.image else shapes.numeric
