"""What a service made beside what the lake has, for people as tables and for programs as values."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

from rich.markup import escape
from rich.table import Table as Grid

from pipeline.serving.skew import Compared, Skew
from pipeline.serving.wire import to_json

_LONGEST_TEXT = 60


def listed(found: Sequence[Skew]) -> list[dict[str, Any]]:
    """Comparisons as JSON can hold them."""
    return [
        {
            **asdict(each),
            "verdict": each.verdict,
            "features": [_plain(column) for column in each.features],
            "scores": [_plain(column) for column in each.scores],
        }
        for each in found
    ]


def skew_grids(skew: Skew) -> Iterator[Grid | str]:
    """One model's comparison as lines, with a table of the columns that differ, and examples."""
    yield escape(
        f"{skew.model}: {skew.verdict}. Of {skew.logged:,} logged rows {skew.matched:,} are in "
        f"{skew.table}, version {skew.version} (trained on version {skew.trained_version}), and "
        f"{skew.scores_matched:,} in predictions; {skew.logged - skew.matched:,} are not in the "
        f"features. Of its {skew.lake_rows:,} rows {skew.not_logged:,} are not in the log."
    )
    if skew.withheld:
        yield escape(f"Not logged, of sensitive columns: {', '.join(skew.withheld)}.")
    columns = [*skew.scores, *skew.features]
    differing = sorted((each for each in columns if each.differ), key=lambda each: -each.differ)
    if differing:
        yield _grid(differing)
    if skew.matched:
        yield f"Columns within their tolerance: {len(columns) - len(differing)}."
    for each in differing:
        for example in _plain(each)["examples"]:
            key = ", ".join(f"{name}={value}" for name, value in example["key"].items())
            served, there = example["served"], example["lake"]
            yield escape(f"{each.column}: {served} served, {there} in the lake, for {key}")


def _grid(columns: Sequence[Compared]) -> Grid:
    grid = Grid()
    grid.add_column("column")
    for name in ("rows", "differ", "greatest difference", "allowed"):
        grid.add_column(name, justify="right")
    for each in columns:
        greatest = "" if each.greatest is None else f"{each.greatest:.3g}"
        grid.add_row(
            escape(each.column), f"{each.rows:,}", f"{each.differ:,}", greatest, each.tolerance
        )
    return grid


def _plain(column: Compared) -> dict[str, Any]:
    examples = [
        {
            "key": {name: _short(value) for name, value in to_json(each["key"]).items()},
            **{side: _short(to_json(each)[side]) for side in ("served", "lake")},
        }
        for each in column.examples
    ]
    return {**asdict(column), "examples": examples}


def _short(value: Any) -> Any:
    """A value; as a text where it may be long, without what a terminal would obey."""
    if value is None or isinstance(value, bool | int | float):
        return value
    text = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in str(value))
    return text if len(text) <= _LONGEST_TEXT else f"{text[: _LONGEST_TEXT - 3]}..."
