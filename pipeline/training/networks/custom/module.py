"""A network of the user's own: imported by the name in the YAML, and tried before it is used."""

from __future__ import annotations

import importlib
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.errors import ConfigError
from pipeline.training.networks.custom import Custom
from pipeline.training.networks.inputs import example_inputs
from pipeline.training.networks.shapes import Shapes

_SETTING = "train.model.custom"


def custom_network(shapes: Shapes, outputs: int, settings: Custom) -> nn.Module:
    """Builds `Class(shapes=..., outputs=..., **settings)` and tries it on two rows.

    Args:
        shapes: What it will be given.
        outputs: What it must give.
        settings: Section `train.model`, with the class.

    Raises:
        ConfigError: There is no such class, it cannot be built, or gives something else.
    """
    name = settings.custom
    module_name, _, class_name = name.partition(":")
    try:
        kind = getattr(importlib.import_module(module_name), class_name)
    # The user's own code may raise anything, and a script may even leave.
    except (Exception, SystemExit) as error:
        raise ConfigError(
            _SETTING,
            f"{name}: {type(error).__name__}: {' '.join(str(error).split())}",
            "Name a class that Python finds: install its package, or set PYTHONPATH.",
        ) from error
    if not (isinstance(kind, type) and issubclass(kind, nn.Module)):
        raise ConfigError(_SETTING, f"{name} is no torch.nn.Module", "Derive it from nn.Module.")
    try:
        module = kind(shapes=shapes, outputs=outputs, **settings.settings)
        # In evaluation mode: a batch norm would take the example's zeros into its running mean.
        with torch.no_grad():
            found = module.eval()(example_inputs(shapes, rows=2))
    except Exception as error:  # the user's own code may raise anything
        raise ConfigError(
            _SETTING,
            f"{name} raises {type(error).__name__}: {' '.join(str(error).split())}",
            "Its arguments are shapes, outputs and train.model.settings; it is called with a dict "
            "of tensors, see docs/training.md.",
        ) from error
    _require_outputs(name, found, outputs)
    return module.train()


def _require_outputs(name: str, found: Any, outputs: int) -> None:
    if isinstance(found, Tensor) and found.shape == (2, outputs) and found.is_floating_point():
        return
    shown = f"{found.dtype} {list(found.shape)}" if isinstance(found, Tensor) else type(found)
    raise ConfigError(
        _SETTING,
        f"{name} gives {shown} for 2 rows",
        f"It must give floats [rows, {outputs}].",
    )


NETWORK = custom_network
