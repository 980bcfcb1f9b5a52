"""The tables of formats of raw data: the name that the YAML has for one, and the module it is in.

A module is imported when a source is of its format: the readers stand above the settings, so here
they have names only. What a format is says `pipeline/sources/format.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal

FORMATS: Mapping[str, str] = {
    "parquet": "pipeline.sources.parquet",
    "csv": "pipeline.sources.delimited",
    "json": "pipeline.sources.json_lines",
    "delta": "pipeline.sources.delta",
}
"""Formats that are read as they are; the module has a `Format` as its `FORMAT`."""

LAID_OUT: Mapping[str, str] = {
    "idx": "pipeline.sources.idx",
}
"""Formats of `source` only, laid out as Parquet first; the module has a `LaidOut` as `FORMAT`."""

if TYPE_CHECKING:
    FormatName = str
    SourceFormatName = str
else:
    FormatName = Literal[tuple(FORMATS)]
    SourceFormatName = Literal[(*FORMATS, *LAID_OUT)]
