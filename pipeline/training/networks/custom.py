"""A network of the user's own: imported by the name in the YAML, and tried before it is used."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.errors import ConfigError
from pipeline.training.networks.architecture import Shapes

_SETTING = "train.model.custom"


def custom_network(
    name: str, shapes: Shapes, outputs: int, settings: Mapping[str, Any]
) -> nn.Module:
    """Builds `Class(shapes=..., outputs=..., **settings)` and tries it on two rows.

    Args:
        name: `package.module:Class`.
        shapes: What it will be given.
        outputs: What it must give.
        settings: Section `train.model.settings`.

    Raises:
        ConfigError: There is no such class, it cannot be built, or gives something else.
    """
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
        module = kind(shapes=shapes, outputs=outputs, **settings)
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


def example_inputs(shapes: Shapes, rows: int, longest: int = 3) -> dict[str, Tensor]:
    """Inputs of the right shapes and types, all of small numbers."""
    inputs: dict[str, Tensor] = {}
    if shapes.numeric:
        inputs["numeric"] = torch.zeros(rows, shapes.numeric)
    if shapes.cardinalities:
        inputs["categorical"] = torch.zeros(rows, len(shapes.cardinalities), dtype=torch.int32)
    for name, each in shapes.named.items():
        if each.form == "sequence":
            dtype = torch.int32 if each.ids else torch.float32
            inputs[name] = torch.zeros(rows, longest, *each.shape, dtype=dtype)
            inputs[shapes.lengths[name]] = torch.full((rows,), longest)
        else:
            dtype = torch.uint8 if each.form == "image" else torch.float32
            inputs[name] = torch.zeros(rows, *each.shape, dtype=dtype)
    return inputs
