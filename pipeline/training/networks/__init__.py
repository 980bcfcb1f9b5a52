"""Families of networks: what a row looks like in, numbers out.

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

    architecture.py  what a network is, as JSON holds it
    build.py         from an architecture to a module with fresh weights
    dense.py         the layers that all families end in, embeddings of categories
    mlp.py cnn.py rnn.py vae.py custom.py   the families
    folded.py        an mlp for scoring
    export.py        for other programs; scanned.py recurrent layers for it
"""

from pipeline.training.networks.architecture import (
    Architecture,
    Input,
    Shapes,
    architecture_of,
)
from pipeline.training.networks.build import build
from pipeline.training.networks.dense import weights_device, weights_type
from pipeline.training.networks.export import add_export
from pipeline.training.networks.folded import folded
from pipeline.training.networks.vae import Vae, rebuilt_from

__all__ = [
    "Architecture",
    "Input",
    "Shapes",
    "Vae",
    "add_export",
    "architecture_of",
    "build",
    "folded",
    "rebuilt_from",
    "weights_device",
    "weights_type",
]
