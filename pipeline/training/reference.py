"""The reference: histograms of the data a model was trained on, and of what it says of it.

They are kept with the model, as JSON; what is scored later is compared with them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from pipeline.features.spec import FeatureSpec
from pipeline.training.histograms import Columns, Histograms, Outputs, input_columns, score_columns


@dataclass(frozen=True, kw_only=True)
class Reference:
    """Histograms of the train split, by the model's final weights."""

    inputs: Histograms
    scores: Histograms

    def to_json(self) -> str:
        """The histograms for `from_json`: each bin that is not empty, with its rows."""
        return _File(inputs=_Side.of(self.inputs), scores=_Side.of(self.scores)).model_dump_json()

    @classmethod
    def from_json(cls, content: bytes, spec: FeatureSpec, outputs: Outputs) -> Reference:
        """Reads what `to_json` wrote; runs nothing.

        Args:
            content: The file.
            spec: Of the model.
            outputs: Of the model.

        Raises:
            ValueError: It is something else, or of another model.
        """
        file = _File.model_validate_json(content)
        inputs = file.inputs.histograms(input_columns(spec))
        scores = file.scores.histograms(score_columns(*outputs))
        if inputs.rows != scores.rows or not set(inputs.missing) <= set(spec.imputed_columns):
            raise ValueError("inputs and scores are not of the same rows, or of another spec")
        return cls(inputs=inputs, scores=scores)


_Count = Annotated[int, Field(ge=0, strict=True)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class _Side(_Strict):
    """Histograms as JSON has them."""

    rows: _Count
    bins: dict[str, tuple[tuple[_Count, _Count], ...]]
    missing: dict[str, _Count]

    @classmethod
    def of(cls, histograms: Histograms) -> _Side:
        bins = {name: tuple(counts.items()) for name, counts in histograms.bins.items()}
        return cls(rows=histograms.rows, bins=bins, missing=dict(histograms.missing))

    def histograms(self, columns: Sequence[Columns]) -> Histograms:
        """The histograms, if they are of these columns."""
        sizes = {
            name: size
            for each in columns
            for name, size in zip(each.names, each.sizes, strict=True)
        }
        if sizes.keys() != self.bins.keys():
            raise ValueError(f"holds the columns {sorted(self.bins)}, not {sorted(sizes)}")
        for name, counts in self.bins.items():
            places = [place for place, _ in counts]
            if places != sorted(set(places)) or (places and places[-1] >= sizes[name]):
                raise ValueError(f"column {name}: its bins are not in order")
            if sum(rows for _, rows in counts) != self.rows:
                raise ValueError(f"column {name}: its bins do not hold {self.rows} rows")
        if any(rows > self.rows for rows in self.missing.values()):
            raise ValueError(f"more is missing than {self.rows} rows")
        bins = {name: dict(counts) for name, counts in self.bins.items()}
        return Histograms(rows=self.rows, bins=bins, missing=self.missing)


class _File(_Strict):
    """The file."""

    inputs: _Side
    scores: _Side
