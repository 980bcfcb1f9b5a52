"""From an architecture to a network, the same on any machine."""

from __future__ import annotations

import importlib

import torch
from torch import nn

from pipeline.training.networks.architecture import Architecture
from pipeline.training.networks.module import NetworkModule


def build(architecture: Architecture, seed: int = 0, custom: str | None = None) -> nn.Module:
    """Builds a network with freshly drawn weights, float32, on the CPU and in training mode.

    Args:
        architecture: Its description.
        seed: Decides the weights; torch's own generator is left as it was.
        custom: The user's own class, `package.module:Class`, where the network is of one.

    Returns:
        A module as the package's docstring has it.

    Raises:
        ModelError: The network is a user's own, and its class is not named.
        ConfigError: The user's own class cannot be used.
    """
    settings = architecture.settings.with_class(custom)
    module = importlib.import_module(f"{type(settings).__module__}.module")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network: nn.Module = module.NETWORK(architecture.shapes, architecture.outputs, settings)
        return network


def folded(network: nn.Module) -> nn.Module:
    """The network in the form that scores the fastest; a user's own as it is."""
    return network.folded() if isinstance(network, NetworkModule) else network
