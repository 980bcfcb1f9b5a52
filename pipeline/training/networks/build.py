"""From an architecture to a network, the same on any machine."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from pipeline import config
from pipeline.errors import ModelError
from pipeline.training.networks.architecture import Architecture
from pipeline.training.networks.cnn import Cnn
from pipeline.training.networks.custom import custom_network
from pipeline.training.networks.mlp import Mlp
from pipeline.training.networks.rnn import Rnn
from pipeline.training.networks.vae import Vae

_FAMILIES: dict[str, Any] = {"mlp": Mlp, "cnn": Cnn, "rnn": Rnn, "vae": Vae}


def build(architecture: Architecture, seed: int = 0, custom: str | None = None) -> nn.Module:
    """Builds a network with freshly drawn weights, float32, on the CPU and in training mode.

    Args:
        architecture: Its description.
        seed: Decides the weights; torch's own generator is left as it was.
        custom: The user's own class, `package.module:Class`, where the family is `custom`.

    Returns:
        A module as the package's docstring has it.

    Raises:
        ModelError: The network is a user's own, and its class is not named.
        ConfigError: The user's own class cannot be used.
    """
    settings = architecture.settings
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if not isinstance(settings, config.Custom):
            network: nn.Module = _FAMILIES[architecture.family](
                architecture.shapes, architecture.outputs, settings
            )
            return network
        if custom is None:
            raise ModelError(
                "architecture",
                "is a network of the user's own, and its files do not say which",
                "Name its class in train.model.custom of the pipeline's YAML.",
            )
        return custom_network(custom, architecture.shapes, architecture.outputs, settings.settings)
