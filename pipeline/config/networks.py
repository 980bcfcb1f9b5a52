"""The families of networks."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Discriminator, Field, Tag, model_validator

from pipeline.settings import Fraction, Positive, Settings

Activation = Literal["relu", "gelu", "silu", "tanh", "elu", "leaky_relu"]


class Network(Settings):
    """What all families share."""

    activation: Activation = "relu"
    dropout: Fraction = 0.0


class Mlp(Network):
    """Dense layers over numbers, embeddings of categories, and the values of an image."""

    family: Literal["mlp"] = "mlp"
    hidden: tuple[Positive, ...] = (64, 32)
    """Units of each hidden layer."""
    embedding_dimension: Positive = 8
    """Upper bound of an embedding's width; small vocabularies get less."""


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


class Vae(Network):
    """A variational autoencoder: rebuilds its inputs, numbers or an image, from a few latent ones.

    Its outputs are the latent mean and the anomaly score.
    """

    family: Literal["vae"]
    hidden: tuple[Positive, ...] = (400,)
    """Units of the encoder's hidden layers; the decoder has them in reverse."""
    latent: Positive = 20


class Custom(Settings):
    """A network of the user's own, named here and nowhere else."""

    family: Literal["custom"]
    custom: str = Field(pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$")
    """`package.module:Class`, a `torch.nn.Module`; see docs/training.md for what it is given."""
    settings: dict[str, bool | int | float | str] = {}
    """Keyword arguments of the class."""


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
