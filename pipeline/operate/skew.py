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
    """One model's comparison as lines and tables: columns that differ first."""
    yield escape(
        f"{skew.model}: {skew.verdict}. {skew.matched:,} of {skew.logged:,} logged rows are in "
        f"{skew.table} (version {skew.version}; trained on version {skew.trained_version}), "
        f"{skew.logged - skew.matched:,} are not; {skew.not_logged:,} of its {skew.lake_rows:,} "
        f"rows are not in the log. Scores: {skew.scores_matched:,} rows are in predictions."
    )
    if skew.withheld:
        yield escape(f"Not logged, of sensitive columns: {', '.join(skew.withheld)}.")
    columns = [*skew.scores, *skew.features]
    if not skew.matched or not columns:
        return
    grid = Grid()
    grid.add_column("column")
    for name in ("rows", "differ", "greatest difference", "allowed"):
        grid.add_column(name, justify="right")
    scores = {id(each) for each in skew.scores}
    for each in sorted(columns, key=lambda column: -column.differ):
        grid.add_row(
            escape(each.column) + (" (model)" if id(each) in scores else ""),
            f"{each.rows:,}",
            f"{each.differ:,}",
            "" if each.greatest is None else f"{each.greatest:.3g}",
            each.tolerance,
        )
    yield grid
    for each in columns:
        for example in _plain(each)["examples"]:
            key = ", ".join(f"{name}={value}" for name, value in example["key"].items())
            served, there = example["served"], example["lake"]
            yield escape(f"{each.column}: {served} served, {there} in the lake, for {key}")


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
