"""A network of the tests' own that reads every input by its name."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pipeline.training.networks import Shapes

IMAGES = ("image_front", "image_back")
TEXTS = ("tokens_subject", "tokens_body")


class ReadsAll(nn.Module):
    """A mean of each input, side by side, into one linear layer; without regard to padding."""

    def __init__(self, shapes: Shapes, outputs: int, width: int) -> None:
        super().__init__()
        assert {*shapes.named} == {*IMAGES, *TEXTS, "series"}
        assert [shapes.named[name].shape for name in IMAGES] == [(3, 3), (2, 4)]
        ids = [shapes.named[name].ids for name in TEXTS]
        self.words = nn.ModuleList(nn.Embedding(n, width, padding_idx=0) for n in ids)
        self.last = nn.Linear(shapes.numeric + len(IMAGES) + len(TEXTS) * width + 1, outputs)

    def forward(self, inputs: dict[str, Tensor]) -> Tensor:
        rows = inputs["numeric"].shape[0]
        parts = [inputs["numeric"]]
        for name in IMAGES:
            assert inputs[name].dtype == torch.uint8
            # [rows, height, width] -> [rows, 1]
            parts.append(inputs[name].flatten(1).float().mean(1, keepdim=True) / 128 - 1)
        for name, words in zip(TEXTS, self.words, strict=True):
            lengths = inputs[f"{name}_lengths"].clamp(min=1).unsqueeze(1)
            # [rows, longest, width] -> [rows, width]
            parts.append(words(inputs[name]).sum(1) / lengths)
        lengths = inputs["series_lengths"].clamp(min=1).unsqueeze(1)
        parts.append(inputs["series"].sum(1, keepdim=True) / lengths)
        assert all(len(part) == rows for part in parts)
        outputs: Tensor = self.last(torch.cat(parts, dim=1))
        return outputs
