"""What the torch module of a family is: an `nn.Module` with a form for each use."""

from __future__ import annotations

from typing import ClassVar

from torch import nn


class NetworkModule(nn.Module):
    """The base of all networks of ours; a user's own need not be one.

    A subclass is built by `NETWORK(shapes, outputs, settings)`.
    """

    samples: ClassVar[bool] = False
    """Whether its loss needs it to sample in evaluation, too, where `sampling` is set."""
    sampling: bool = False

    def folded(self) -> nn.Module:
        """A network for scoring that says the same, up to rounding; itself if none is faster."""
        return self

    def exportable(self) -> nn.Module:
        """A network that torch.export can keep, with the same weights; itself if it can be."""
        return self
