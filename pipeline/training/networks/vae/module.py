"""A variational autoencoder over an image or the numeric features."""

from __future__ import annotations

import torch
from torch import Tensor

from pipeline.training.networks import vae
from pipeline.training.networks.dense import dense_layers, weights_type
from pipeline.training.networks.inputs import rebuilt_from
from pipeline.training.networks.module import NetworkModule
from pipeline.training.networks.shapes import Shapes


class Vae(NetworkModule):
    """Encoder to the mean and variance of some latent numbers; decoder from a sample of them.

    It samples in training, and where `sampling` is set; else it decodes the mean.

    Source: Kingma and Welling, https://arxiv.org/abs/1312.6114.
    """

    samples = True

    def __init__(self, shapes: Shapes, outputs: int, settings: vae.Vae) -> None:
        super().__init__()
        width, latent = vae.rebuilt_width(shapes), settings.latent
        if outputs != width + 2 * latent:
            raise ValueError(f"outputs {outputs} are not {width} + 2 x {latent}")
        self.latent = latent
        self.encoder = dense_layers(
            width, settings.hidden, 2 * latent, settings.activation, settings.dropout
        )
        self.decoder = dense_layers(
            latent, settings.hidden[::-1], width, settings.activation, settings.dropout
        )

    def forward(self, inputs: dict[str, Tensor]) -> Tensor:
        """Maps the inputs to what `tasks.reconstruction.coded` takes apart.

        Returns:
            Float [rows, width + 2 latent].
        """
        target = rebuilt_from(inputs, weights_type(self))
        mean, log_variance = self.encoder(target).split(self.latent, dim=1)
        latent = mean
        if self.training or self.sampling:
            latent = mean + torch.exp(log_variance / 2) * torch.randn_like(mean)
        return torch.cat([self.decoder(latent), mean, log_variance], dim=1)


NETWORK = Vae
