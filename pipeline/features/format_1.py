"""Specs of format 1, as version 0.1 wrote them: read, brought into the present form, never written.

Their hash and text stay what they were: tables and models are named by them.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from pipeline.config import Label, Splits


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class _Standard(_Part):
    kind: Literal["standard"]
    column: str
    indicator: bool
    mean: float
    deviation: float


class _Quantile(_Part):
    kind: Literal["quantile"]
    column: str
    indicator: bool
    boundaries: tuple[float, ...]


class _Plain(_Part):
    kind: Literal["none"]
    column: str
    indicator: bool


class _Vocabulary(_Part):
    column: str
    words: tuple[str, ...]


class _Circle(_Part):
    column: str
    period: float


class _Picture(_Part):
    column: str
    shape: tuple[int, ...]
    encoding: Literal["raw", "png", "jpeg"]


class _HashedText(_Part):
    column: str
    separator: str
    buckets: int
    longest: int


class _NumberSeries(_Part):
    column: str
    longest: int


class FormatOne(_Part):
    """A spec of format 1."""

    format: Literal[1] = 1
    pipeline: str
    keys: tuple[str, ...]
    period_column: str
    label: Label
    splits: Splits
    leakage: tuple[str, ...]
    derive: dict[str, str]
    numbers: tuple[_Standard | _Quantile | _Plain, ...]
    circles: tuple[_Circle, ...]
    categories: tuple[_Vocabulary, ...]
    images: tuple[_Picture, ...] = ()
    tokens: tuple[_HashedText, ...] = ()
    series: tuple[_NumberSeries, ...] = ()

    def upgraded(self) -> dict[str, Any]:
        """The same spec as format 2 has it."""
        dumped = self.model_dump(mode="json")
        sections = {
            "cyclic": dumped.pop("circles"),
            "categorical": dumped.pop("categories"),
            **{name: dumped.pop(name) for name in ("images", "tokens", "series")},
        }
        parts = [_number(each) for each in dumped.pop("numbers")]
        parts += [{"kind": kind, **each} for kind, found in sections.items() for each in found]
        return {**dumped, "format": 2, "parts": parts}


def _number(number: dict[str, Any]) -> dict[str, Any]:
    # What was called `quantile` is another scale by now: linear between the quantiles.
    name = {"quantile": "steps"}.get(number["kind"], number["kind"])
    scale = {key: number[key] for key in number.keys() - {"kind", "column", "indicator"}}
    return {
        "kind": "numeric",
        "column": number["column"],
        "indicator": number["indicator"],
        "scale": {"name": name, **scale},
    }
