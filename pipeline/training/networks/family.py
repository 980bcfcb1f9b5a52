"""What a family of networks is: everything that the rest of the system asks of one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal, Self

from pipeline.features.kinds import FeatureColumn, Image, Sequence
from pipeline.settings import Fraction, Settings
from pipeline.training.networks.shapes import Shapes

if TYPE_CHECKING:
    from pipeline.training.tasks import Task

Activation = Literal["relu", "gelu", "silu", "tanh", "elu", "leaky_relu"]

Forms = Mapping[type[FeatureColumn], int]
"""How many features there are of each form; bags are none of the ordered sequences."""


class Family(Settings):
    """The settings of a network, and what its family answers without torch.

    The torch module stands beside a subclass, in `module.py` of its folder, as `NETWORK`.
    """

    family: str
    """A `Literal` in each subclass: the name that `train.model.family` has."""

    def refusal(self, forms: Forms) -> str | None:
        """Says why the network cannot read features of these forms; None if it can."""
        del forms
        return None

    def learns(self, task: Task) -> bool:
        """Whether the network's outputs are what the task needs."""
        return not task.rebuilds

    def outputs(self, shapes: Shapes, predicted: int) -> int:
        """Width of what the network gives for a row.

        Args:
            shapes: What it is given.
            predicted: Numbers that the task predicts for a row; 0 where it rebuilds the input.
        """
        del shapes
        return predicted

    def require_fits(self, shapes: Shapes, outputs: int) -> None:
        """Checks that a network of these settings can be built.

        Args:
            shapes: What it is given.
            outputs: Width of what it gives for a row.

        Raises:
            ValueError: It names what does not fit.
        """
        if self.refusal(shapes.forms) is not None:
            raise ValueError(f"shapes: {shapes!r} are none that {self.family} reads")
        width = self.outputs(shapes, outputs)
        if outputs != width:
            raise ValueError(f"outputs: {outputs} is not {width}, as the shapes have it")

    def last_batch_refusal(self) -> str | None:
        """Says which setting cannot train on a last, shorter batch, and why; None if it can."""
        return None

    # -- the user's own code, which only a family with such code has -------------------------------

    @property
    def user_class(self) -> str | None:
        """The user's own class, `package.module:Class`; None where the network is ours."""
        return None

    def without_class(self) -> Self:
        """The settings as files hold them: they do not say which code of a user's runs."""
        return self

    def with_class(self, name: str | None) -> Self:
        """The settings of a file, with the user's own class that the YAML names.

        Args:
            name: `package.module:Class`; None where it is not known.

        Raises:
            ModelError: The network is of such a class, and it is not known.
        """
        del name
        return self


class Network(Family):
    """What all families of ours share."""

    activation: Activation = "relu"
    dropout: Fraction = 0.0


def no_sequence(forms: Forms) -> str | None:
    """Refuses a sequence."""
    return "reads no sequence; choose rnn" if forms.get(Sequence) else None


def one_image(forms: Forms) -> str | None:
    """Refuses several images."""
    images = forms.get(Image, 0)
    return f"reads one image, and there are {images}; choose custom" if images > 1 else None
