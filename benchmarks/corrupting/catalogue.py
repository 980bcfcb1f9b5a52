"""All variants."""

from __future__ import annotations

from benchmarks.corrupting.columnar import parquet_variants
from benchmarks.corrupting.nested import json_variants
from benchmarks.corrupting.places import place_variants
from benchmarks.corrupting.scene import Variant
from benchmarks.corrupting.separated import csv_variants


def all_variants() -> list[Variant]:
    """Every variant, those of a format together."""
    found = [*parquet_variants(), *csv_variants(), *json_variants(), *place_variants()]
    return sorted(found, key=lambda it: it.format)
