"""A variational autoencoder over an image or the numeric features."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pipeline import config
from pipeline.training.networks.architecture import Shapes, rebuilt_width
from pipeline.training.networks.dense import dense_layers, scaled, weights_type


class Vae(nn.Module):
    """Encoder to the mean and variance of some latent numbers; decoder from a sample of them.

    It samples in training, and where `sampling` is set; else it decodes the mean.

    Source: Kingma and Welling, https://arxiv.org/abs/1312.6114.
    """

    def __init__(self, shapes: Shapes, outputs: int, settings: config.Vae) -> None:
        super().__init__()
        width, latent = rebuilt_width(shapes), settings.latent
        if outputs != width + 2 * latent:
            raise ValueError(f"outputs {outputs} are not {width} + 2 x {latent}")
        self.latent = latent
        self.sampling = False
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


def rebuilt_from(inputs: dict[str, Tensor], dtype: torch.dtype) -> Tensor:
    """What an autoencoder is to rebuild, float [rows, width]: an image's bytes in [0, 1], numbers.

    Args:
        inputs: What the network is given.
        dtype: Of what is returned.
    """
    if "image" in inputs:
        # [rows, height, width (, channels)] -> [rows, pixels]
        return scaled(inputs["image"], dtype).flatten(1)
    return inputs["numeric"].to(dtype)
