"""Idx files, written from the format's description, and scikit-learn's digits to put in them."""

from __future__ import annotations

import gzip
import struct
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from sklearn.datasets import load_digits


@cache
def digits() -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """1,797 pictures of 8 x 8 in 0..255, and which digit each shows."""
    found = load_digits()
    return (found.images * 15.9).astype(np.uint8), found.target.astype(np.uint8)


def idx_bytes(values: NDArray[np.uint8]) -> bytes:
    """An idx file of these values."""
    header = struct.pack(f">HBB{values.ndim}I", 0, 8, values.ndim, *values.shape)
    return header + values.tobytes()


def write_part(
    folder: Path, part: str, images: NDArray[np.uint8], labels: NDArray[np.uint8]
) -> None:
    """Images and labels as MNIST is delivered: gzipped, names with hyphens."""
    folder.mkdir(parents=True, exist_ok=True)
    for kind, values in (("images", images), ("labels", labels)):
        path = folder / f"{part}-{kind}-idx{values.ndim}-ubyte.gz"
        path.write_bytes(gzip.compress(idx_bytes(values), mtime=0))
