"""Splits: which rows a network learns from, is chosen on, and is tested on."""

from __future__ import annotations

from pipeline.settings import Settings


class Splits(Settings):
    """Spark SQL conditions, tried in this order; rows that meet none are in the split `rest`."""

    train: str
    validation: str
    test: str
