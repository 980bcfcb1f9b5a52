"""The families of networks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import Discriminator, Field, Tag, model_validator

from pipeline.features.kinds import Bag, FeatureColumn, Id, Image, Number, Sequence, Vector
from pipeline.settings import Fraction, Positive, Settings

Activation = Literal["relu", "gelu", "silu", "tanh", "elu", "leaky_relu"]


Forms = Mapping[type[FeatureColumn], int]
"""How many features there are of each form; bags are none of the ordered sequences."""


class Family(Settings):
    """What all networks share."""

    family: str

    def refusal(self, forms: Forms) -> str | None:
        """Says why the network cannot read features of these forms; None if it can."""
        del forms
        return None


class Network(Family):
    """What all families of ours share."""

    activation: Activation = "relu"
    dropout: Fraction = 0.0


class Mlp(Network):
    """Dense layers over numbers, embeddings of categories and bags, and an image's values."""

    family: Literal["mlp"] = "mlp"
    hidden: tuple[Positive, ...] = (64, 32)
    """Units of each hidden layer."""
    embedding_dimension: Positive = 8
    """Upper bound of an embedding's width; small vocabularies get less."""

    def refusal(self, forms: Forms) -> str | None:
        """Reads no sequence, and one image at most."""
        return _no_sequence(forms) or _one_image(forms)


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
        return _no_sequence(forms) or _one_image(forms)

    @model_validator(mode="after")
    def _kernel_has_a_middle(self) -> Self:
        if self.kernel % 2 == 0:
            raise ValueError(f"kernel {self.kernel} is even: it has no middle; choose an odd one")
        return self


class Rnn(Network):
    """A recurrent layer over tokens or a series; then dense layers, as in `mlp`."""

    family: Literal["rnn"]
    cell: Literal["gru", "lstm"] = "gru"
    units: Positive = 64
    layers: Positive = 1
    token_dimension: Positive = 64
    """Width of a token's embedding."""
    hidden: tuple[Positive, ...] = ()
    embedding_dimension: Positive = 8

    def refusal(self, forms: Forms) -> str | None:
        """Reads exactly one sequence, and no image."""
        if not forms.get(Sequence):
            return "needs a sequence: features.tokens, .series or .audio"
        if forms[Sequence] > 1:
            return f"reads one sequence, and there are {forms[Sequence]}; choose custom"
        return "reads no image; choose custom" if forms.get(Image) else None


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
        return _no_sequence(forms) or _one_image(forms)


class Custom(Family):
    """A network of the user's own, named here and nowhere else."""

    family: Literal["custom"]
    custom: str = Field(pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$")
    """`package.module:Class`, a `torch.nn.Module`; see docs/training.md for what it is given."""
    settings: dict[str, bool | int | float | str] = {}
    """Keyword arguments of the class."""


def _no_sequence(forms: Forms) -> str | None:
    return "reads no sequence; choose rnn" if forms.get(Sequence) else None


def _one_image(forms: Forms) -> str | None:
    images = forms.get(Image, 0)
    return f"reads one image, and there are {images}; choose custom" if images > 1 else None


FAMILIES: dict[str, type[Settings]] = {
    "mlp": Mlp,
    "cnn": Cnn,
    "rnn": Rnn,
    "vae": Vae,
    "custom": Custom,
}


def _family_of(model: Any) -> str:
    given = model.get("family") if isinstance(model, dict) else getattr(model, "family", None)
    return str(given or "mlp")


Model = Annotated[
    Annotated[Mlp, Tag("mlp")]
    | Annotated[Cnn, Tag("cnn")]
    | Annotated[Rnn, Tag("rnn")]
    | Annotated[Vae, Tag("vae")]
    | Annotated[Custom, Tag("custom")],
    Discriminator(_family_of),
]
