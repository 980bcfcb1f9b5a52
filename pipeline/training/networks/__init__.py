"""Families of networks: a folder a family, and one table from name to family.

A family's way through the pipeline, and who asks it for what:

    YAML  train.model: {family: ..., ...}
      |        pipeline.config       the settings, a subclass of `Family`: checked when it is loaded
      |   refusal(), learns() -----> whether it fits the features and the task
      |   last_batch_refusal() ----> whether the last, shorter batch must be dropped
      v
    Shapes, what a row looks like, from the spec
      |   outputs(), require_fits()
      v
    Architecture, as JSON holds it; never the name of a user's code (`without_class`, `user_class`)
      |        building.build        NETWORK(shapes, outputs, settings), seeded
      v
    torch.nn.Module
      |   forward() ---> training, metrics (`samples`: an autoencoder draws its latent code there)
      |   folded() ----> scoring and serving
      |   exportable() -> network.pt2, for other programs
      v
    outputs, float [rows, outputs]

Every network, also a user's own, is a module `forward(inputs: dict[str, Tensor]) -> Tensor` with
outputs float [rows, outputs]. Of the inputs each is there where the pipeline has such features:

    numeric      float [rows, n]
    categorical  int32 [rows, c], ids
    image        uint8 [rows, height, width] or [rows, height, width, channels]
    tokens       int32 [rows, longest], ids; 0 is padding
    series       float [rows, longest]
    audio        float [rows, longest, mels]
    lengths      int64 [rows], of the only sequence; a row may have none
    vector       float [rows, width]
    bag          int32 [rows, longest], ids in no order; 0 is padding; with lengths, too

A kind may have an input of its own, see `pipeline/features/kinds`. Of several images, vectors or
sequences each is called by its column, `image_front`, `tokens_subject`, and so are their lengths:
`tokens_subject_lengths`. `Shapes.named` has them all.

There may be no row at all: of several ranks one can be left without in an epoch's last step.

A family is two files: `<family>/__init__.py` has the settings and all that needs no torch,
`<family>/module.py` the network, which `build` imports by the folder's name. Importing torch takes
seconds, and every command loads a pipeline's description; so of this package only what needs torch
imports it, and the names below that do are looked up when they are first asked for.

A new family is such a folder and an entry in `_CLASSES` of families.py; all else walks over the
table and names no family.

    family.py        what a family is, method by method      shapes.py    what a network is given
    families.py      the table of families
    architecture.py  what a network is, as JSON holds it
    mlp/ cnn/ rnn/ vae/ custom/    the families

    and with torch:

    module.py        the base of the networks                dense.py     layers of most families
    inputs.py        tensors of inputs                       export.py    for other programs
    building.py      from an architecture to a module with fresh weights, and to one for scoring
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from pipeline.training.networks.architecture import Architecture, architecture_of
from pipeline.training.networks.families import DEFAULT_FAMILY, FAMILIES, Model
from pipeline.training.networks.family import Activation, Family, Forms
from pipeline.training.networks.shapes import Input, Shapes

if TYPE_CHECKING:
    from pipeline.training.networks.building import build, folded
    from pipeline.training.networks.dense import weights_device, weights_type
    from pipeline.training.networks.export import add_export
    from pipeline.training.networks.inputs import example_inputs, rebuilt_from
    from pipeline.training.networks.module import NetworkModule

__all__ = [
    "DEFAULT_FAMILY",
    "FAMILIES",
    "Activation",
    "Architecture",
    "Family",
    "Forms",
    "Input",
    "Model",
    "NetworkModule",
    "Shapes",
    "add_export",
    "architecture_of",
    "build",
    "example_inputs",
    "folded",
    "rebuilt_from",
    "weights_device",
    "weights_type",
]

_WITH_TORCH = {
    "NetworkModule": "module",
    "add_export": "export",
    "build": "building",
    "example_inputs": "inputs",
    "folded": "building",
    "rebuilt_from": "inputs",
    "weights_device": "dense",
    "weights_type": "dense",
}
"""Name to the module of this package that has it."""


if not TYPE_CHECKING:  # mypy would believe that any name is there

    def __getattr__(name: str) -> Any:
        if name not in _WITH_TORCH:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(importlib.import_module(f"{__name__}.{_WITH_TORCH[name]}"), name)
