"""Dense layers: the settings, and what they fit.

module.py   the network in torch
folded.py   the network for scoring, with its embeddings folded into its first layer
"""

from __future__ import annotations

from typing import Literal

from pipeline.settings import Positive
from pipeline.training.networks.family import Forms, Network, no_sequence, one_image


class Mlp(Network):
    """Dense layers over numbers, embeddings of categories and bags, and an image's values."""

    family: Literal["mlp"] = "mlp"
    hidden: tuple[Positive, ...] = (64, 32)
    """Units of each hidden layer."""
    embedding_dimension: Positive = 8
    """Upper bound of an embedding's width; small vocabularies get less."""

    def refusal(self, forms: Forms) -> str | None:
        """Reads no sequence, and one image at most."""
        return no_sequence(forms) or one_image(forms)
