"""Optimisers by their names in the YAML."""

from __future__ import annotations

from torch import nn, optim

from pipeline.config import Train


def optimiser_of(module: nn.Module, settings: Train) -> optim.Optimizer:
    """The optimiser of `train.optimiser`, for all weights of a network.

    Source: Kingma and Ba, https://arxiv.org/abs/1412.6980 (Adam); Loshchilov and Hutter,
    https://arxiv.org/abs/1711.05101 (AdamW, whose decay does not pass through the moments).
    """
    weights = [weight for weight in module.parameters() if weight.requires_grad]
    rate, decay = settings.learning_rate, settings.weight_decay
    if settings.optimiser == "sgd":
        return optim.SGD(weights, lr=rate, weight_decay=decay, momentum=settings.momentum)
    kind = optim.Adam if settings.optimiser == "adam" else optim.AdamW
    return kind(weights, lr=rate, weight_decay=decay)
