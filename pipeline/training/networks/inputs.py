"""Tensors of inputs: examples of them, images as numbers, what an autoencoder rebuilds."""

from __future__ import annotations

import torch
from torch import Tensor

from pipeline.training.networks.shapes import Shapes


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


def scaled(image: Tensor, dtype: torch.dtype) -> Tensor:
    """An image of bytes as numbers from 0 to 1."""
    return image.to(dtype) / 255


def pixels(image: Tensor, dtype: torch.dtype) -> Tensor:
    """An image of bytes [rows, height, width (, channels)] as numbers [rows, pixels], 0 to 1."""
    return scaled(image, dtype).flatten(1)


def rebuilt_from(inputs: dict[str, Tensor], dtype: torch.dtype) -> Tensor:
    """What an autoencoder is to rebuild, float [rows, width]: an image's bytes in [0, 1], numbers.

    Args:
        inputs: What the network is given.
        dtype: Of what is returned.
    """
    if "image" in inputs:
        return pixels(inputs["image"], dtype)
    return inputs["numeric"].to(dtype)
