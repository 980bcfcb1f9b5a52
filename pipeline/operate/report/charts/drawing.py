"""What charts are drawn with: coordinates, which `templates/charts.html.j2` spells as SVG.

Made by hand, not by matplotlib, which comes with MLflow: a chart is 2 to 5 kB here and some 30 kB
there, its colours follow the reader's light or dark scheme by CSS, and its text stays text.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pipeline.operate.report.figures import figure

WIDTH, HEIGHT = 520.0, 250.0
LEFT, RIGHT, TOP, BOTTOM = 50.0, 508.0, 14.0, 212.0
WIDEST_BAR = 44.0
LARGEST_DOT = 11.0
PIXELS_A_CHARACTER = 6.6


@dataclass(frozen=True, kw_only=True)
class Tick:
    """A labelled place on an axis."""

    at: float
    label: str


@dataclass(frozen=True, kw_only=True)
class Dot:
    """A point of the data; its label is shown when pointed at."""

    x: float
    y: float
    radius: float
    label: str


@dataclass(frozen=True, kw_only=True)
class Point:
    """A pair of values, before it is a dot."""

    x: float
    y: float
    size: float
    """The area of its dot, beside that of the largest."""
    label: str


@dataclass(frozen=True, kw_only=True)
class Line:
    """A series: a path through its dots, broken where a value is missing.

    The first five of a chart have colours of their own in `templates/page.css`, all others one.
    """

    name: str
    path: str
    dots: tuple[Dot, ...]


@dataclass(frozen=True, kw_only=True)
class Bar:
    """A value from the base line up."""

    x: float
    y: float
    width: float
    height: float
    label: str
    muted: bool


@dataclass(frozen=True, kw_only=True)
class Rule:
    """A line across the plot: level at `at`, or upright."""

    at: float
    label: str
    upright: bool = False


@dataclass(frozen=True, kw_only=True)
class Chart:
    """All that is drawn, in pixels of a 520 by 250 view."""

    title: str
    caption: str = ""
    """What to read it for, below the title."""
    x_title: str
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    lines: tuple[Line, ...] = ()
    bars: tuple[Bar, ...] = ()
    rules: tuple[Rule, ...] = ()
    diagonal: str = ""
    """Path of what perfect would be."""
    legend: bool = True
    """Whether there is room for the names of several lines, and for those of the bars."""
    bar_names: tuple[tuple[str, str], ...] = ()
    """Class of the bars in `templates/page.css`, and what the legend calls them."""

    @property
    def empty(self) -> bool:
        """Whether there is nothing to draw."""
        return not self.bars and not any(line.dots for line in self.lines)


@dataclass(frozen=True)
class Scale:
    """From values to pixels, linearly."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        """The pixel of a value, to a tenth."""
        share = (value - self.low) / (self.high - self.low)
        return round(self.start + share * (self.end - self.start), 1)


def line_chart(
    title: str,
    x_title: str,
    labels: Sequence[str],
    series: Mapping[str, Sequence[float]],
    marked: tuple[int, str] | None = None,
    *,
    caption: str = "",
) -> Chart:
    """Series over evenly spaced labels, such as epochs or periods.

    Args:
        title: What is shown.
        x_title: What the labels are.
        labels: One for each place.
        series: Name to one value a label; NaN leaves a gap.
        marked: A place to mark, and what to call it.
        caption: What to read it for.
    """
    known = [value for values in series.values() for value in values if math.isfinite(value)]
    ticks = nice_ticks(min(known, default=0.0), max(known, default=1.0))
    y = Scale(ticks[0], ticks[-1], BOTTOM, TOP)
    x = Scale(0, max(1, len(labels) - 1), LEFT + 12, RIGHT - 12)
    lines = []
    for name, values in series.items():
        places = [
            Dot(x=x(i), y=y(value), radius=2.6, label=f"{labels[i]}: {name} {figure(value)}")
            for i, value in enumerate(values)
            if math.isfinite(value)
        ]
        lines.append(Line(name=name, path=_path(values, x, y), dots=tuple(places)))
    rules = () if marked is None else (Rule(at=x(marked[0]), label=marked[1], upright=True),)
    return Chart(
        title=title,
        caption=caption,
        x_title=x_title,
        x_ticks=_spaced([Tick(at=x(i), label=label) for i, label in enumerate(labels)]),
        y_ticks=_y_ticks(ticks, y),
        lines=tuple(lines),
        rules=rules,
    )


def bar_chart(
    title: str,
    x_title: str,
    values: Mapping[str, float],
    *,
    unit: str,
    muted: Sequence[str] = (),
    names: tuple[str, str] | None = None,
    levels: Sequence[tuple[float, str]] = (),
    caption: str = "",
) -> Chart:
    """A bar for each label, from 0.

    Args:
        title: What is shown.
        x_title: What the labels are.
        values: Label to value; NaN leaves a gap.
        unit: Follows the value where it is told, such as `rows`.
        muted: Labels whose bars stay in the background.
        names: What the legend calls the muted bars and the other ones; None for no legend.
        levels: Thresholds and their names.
        caption: What to read it for.
    """
    known = [value for value in values.values() if math.isfinite(value)]
    highest = max(known, default=1.0)
    # The first threshold is always in sight: it is what the bars are read against.
    ticks = nice_ticks(0.0, max([highest * 1.05, *(level for level, _ in levels[:1])]))
    y = Scale(ticks[0], ticks[-1], BOTTOM, TOP)
    step = (RIGHT - LEFT) / max(1, len(values))
    width = min(WIDEST_BAR, step * 0.72)
    bars, x_ticks = [], []
    for i, (label, value) in enumerate(values.items()):
        middle = round(LEFT + (i + 0.5) * step, 1)
        x_ticks.append(Tick(at=middle, label=label))
        if math.isfinite(value):
            bars.append(
                Bar(
                    x=round(middle - width / 2, 1),
                    y=y(value),
                    width=round(width, 1),
                    height=round(BOTTOM - y(value), 1),
                    label=f"{label}: {figure(value)} {unit}",
                    muted=label in muted,
                )
            )
    return Chart(
        title=title,
        caption=caption,
        x_title=x_title,
        x_ticks=_spaced(x_ticks),
        y_ticks=_y_ticks(ticks, y),
        bars=tuple(bars),
        rules=tuple(Rule(at=y(at), label=name) for at, name in levels if at <= ticks[-1]),
        legend=names is not None,
        bar_names=() if names is None else tuple(zip(("muted", "s1"), names, strict=True)),
    )


def dot_chart(
    title: str,
    x_title: str,
    name: str,
    points: Sequence[Point],
    *,
    low: float | None = None,
    caption: str = "",
) -> Chart:
    """Points of which both sides should be equal, over the diagonal on which they would be.

    Args:
        title: What is shown.
        x_title: What the first side is.
        name: What the second side is.
        points: In the order in which a line joins them.
        low: Where both axes begin; None for the least value.
        caption: What to read it for.
    """
    known = [value for point in points for value in (point.x, point.y)]
    least = min(known, default=0.0) if low is None else low
    ticks = nice_ticks(least, max(known, default=1.0))
    x, y = Scale(ticks[0], ticks[-1], LEFT, RIGHT), Scale(ticks[0], ticks[-1], BOTTOM, TOP)
    most = max((point.size for point in points), default=1)
    dots = tuple(
        Dot(
            x=x(point.x),
            y=y(point.y),
            radius=round(max(2.5, LARGEST_DOT * math.sqrt(point.size / most)), 1),
            label=point.label,
        )
        for point in points
    )
    path = "M" + " L".join(f"{dot.x} {dot.y}" for dot in dots) if dots else ""
    return Chart(
        title=title,
        caption=caption,
        x_title=x_title,
        x_ticks=_spaced([Tick(at=x(tick), label=_told(tick, ticks)) for tick in ticks]),
        y_ticks=_y_ticks(ticks, y),
        lines=(Line(name=name, path=path, dots=dots),),
        diagonal=f"M{LEFT} {BOTTOM} L{RIGHT} {TOP}",
        legend=False,
    )


def nice_ticks(low: float, high: float, about: int = 5) -> tuple[float, ...]:
    """Multiples of 1, 2 or 5 times a power of ten that enclose an interval."""
    if high - low <= 1e-9 * max(1.0, abs(low), abs(high)):  # one value, as far as one can see
        low, high = low - abs(low) * 0.05 - 0.005, high + abs(high) * 0.05 + 0.005
    rough = (high - low) / about
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * times for times in (1, 2, 5, 10) if power * times >= rough)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return tuple(round(k * step, 12) for k in range(first, last + 1))


def _y_ticks(ticks: Sequence[float], scale: Scale) -> tuple[Tick, ...]:
    return tuple(Tick(at=scale(tick), label=_told(tick, ticks)) for tick in ticks)


def _told(tick: float, ticks: Sequence[float]) -> str:
    """With as many decimals as the steps have."""
    step = ticks[1] - ticks[0]
    return f"{tick:,.{max(0, math.ceil(-math.log10(step) - 1e-9))}f}"


def _spaced(ticks: Sequence[Tick]) -> tuple[Tick, ...]:
    """Every so many, so that labels do not run into each other."""
    widest = max((len(tick.label) for tick in ticks), default=1) * PIXELS_A_CHARACTER + 8
    every = max(1, math.ceil(len(ticks) * widest / (RIGHT - LEFT)))
    return tuple(ticks[::every])


def _path(values: Sequence[float], x: Scale, y: Scale) -> str:
    pieces, pen_is_down = [], False
    for i, value in enumerate(values):
        if math.isfinite(value):
            pieces.append(f"{'L' if pen_is_down else 'M'}{x(i)} {y(value)}")
        pen_is_down = math.isfinite(value)
    return " ".join(pieces)
