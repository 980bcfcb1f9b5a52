"""A recurrent layer over a sequence: the settings, and what they fit.

module.py    the network in torch
scanned.py   its recurrent layer for torch.export
"""

from __future__ import annotations

from typing import Literal

from pipeline.features.kinds import Image, Sequence
from pipeline.settings import Positive
from pipeline.training.networks.family import Forms, Network
from pipeline.training.networks.shapes import Shapes

MOST_LAYERS = 1_000
"""Recurrent layers: a file that asks for a million must not hang the process that reads it."""


class Rnn(Network):
    """A recurrent layer over tokens or a series; then dense layers, as in `mlp`."""

    family: Literal["rnn"]
    cell: Literal["gru", "lstm"] = "gru"
    units: Positive = 64
    layers: Positive = 1
    token_dimension: Positive = 64
    """Width of a token's embedding."""
    hidden: tuple[Positive, ...] = ()
    embedding_dimension: Positive = 8

    def refusal(self, forms: Forms) -> str | None:
        """Reads exactly one sequence, and no image."""
        if not forms.get(Sequence):
            return "needs a sequence: features.tokens, .series or .audio"
        if forms[Sequence] > 1:
            return f"reads one sequence, and there are {forms[Sequence]}; choose custom"
        return "reads no image; choose custom" if forms.get(Image) else None

    def require_fits(self, shapes: Shapes, outputs: int) -> None:
        """Checks that the layers are not too many to be built."""
        super().require_fits(shapes, outputs)
        if self.layers > MOST_LAYERS:
            raise ValueError(f"settings.layers: {self.layers} are over {MOST_LAYERS}")
