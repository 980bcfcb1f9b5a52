from __future__ import annotations

import math
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.operate import report
from pipeline.operate.report.charts import CHARTS
from pipeline.operate.report.charts.calibration import calibration_chart
from pipeline.operate.report.charts.chart import SECTIONS
from pipeline.operate.report.charts.drawing import (
    BOTTOM,
    LEFT,
    RIGHT,
    TOP,
    bar_chart,
    line_chart,
    nice_ticks,
)
from pipeline.operate.report.scores import Group
from pipeline.training.tasks import TASKS

NUMBERS = st.floats(-1e9, 1e9, allow_nan=False)


@given(NUMBERS, NUMBERS)
def test_ticks_enclose_the_values_in_even_steps_and_are_few(one: float, other: float) -> None:
    low, high = min(one, other), max(one, other)
    ticks = nice_ticks(low, high)
    slack = 1e-6 * max(1.0, abs(low), abs(high))
    assert ticks[0] <= low + slack
    assert ticks[-1] >= high - slack
    assert 2 <= len(ticks) <= 8
    assert list(ticks) == sorted(set(ticks))


def test_a_missing_value_leaves_a_gap() -> None:
    chart = line_chart("t", "x", ["a", "b", "c", "d"], {"s": [1.0, math.nan, 2.0, 3.0]})
    (line,) = chart.lines
    assert len(line.dots) == 3
    assert [piece[0] for piece in line.path.split() if piece[0] in "ML"] == ["M", "M", "L"]


@given(st.lists(st.floats(0, 1) | st.just(math.nan), max_size=40))
def test_all_that_is_drawn_lies_in_the_plot(values: list[float]) -> None:
    labels = [f"2013-{i:02d}" for i in range(len(values))]
    line = line_chart("t", "x", labels, {"s": values})
    bar = bar_chart(
        "t", "x", dict(zip(labels, values, strict=True)), unit="u", levels=((0.1, "m"),)
    )
    assert line.empty == bar.empty == all(math.isnan(value) for value in values)
    for dot in (dot for drawn in line.lines for dot in drawn.dots):
        assert LEFT <= dot.x <= RIGHT
        assert TOP <= dot.y <= BOTTOM
    for drawn in bar.bars:
        assert LEFT <= drawn.x <= drawn.x + drawn.width <= RIGHT
        assert TOP <= drawn.y <= BOTTOM
        assert drawn.y + drawn.height == pytest.approx(BOTTOM, abs=0.06)


def test_labels_do_not_run_into_each_other() -> None:
    labels = [f"2013-{i:03d}" for i in range(365)]
    chart = bar_chart("t", "x", dict.fromkeys(labels, 1.0), unit="u")
    gaps = [b.at - a.at for a, b in zip(chart.x_ticks, chart.x_ticks[1:], strict=False)]
    assert min(gaps) > 8 * 6
    assert len(chart.bars) == 365


def test_charts_of_nothing_are_empty() -> None:
    truth = TASKS["binary"].words.truth
    assert truth is not None
    assert calibration_chart([], truth, mean_score="x").empty
    assert line_chart("t", "x", [], {"s": []}).empty
    assert bar_chart("t", "x", {}, unit="u").empty


def test_predicted_numbers_below_zero_are_drawn_in_the_plot_and_on_the_diagonal() -> None:
    truth = TASKS["regression"].words.truth
    assert truth is not None
    groups = [
        Group(name="", rows=9, labelled=9, mean_score=at, predicted=at, observed=at, loss=math.nan)
        for at in (-40.0, -3.0, 12.5)
    ]
    (line,) = calibration_chart(groups, truth, mean_score="x").lines
    slope = (TOP - BOTTOM) / (RIGHT - LEFT)
    for dot in line.dots:
        assert LEFT <= dot.x <= RIGHT
        assert dot.y == pytest.approx(BOTTOM + slope * (dot.x - LEFT), abs=0.11)


def test_charts_have_names_of_their_own_and_the_page_has_all_their_sections() -> None:
    assert len({chart.name for chart in CHARTS}) == len(CHARTS)
    page = (Path(report.__file__).parent / "templates" / "page.html.j2").read_text("utf-8")
    for section in SECTIONS:
        assert f'<section id="{section}">' in page
        assert f"charts.{section}" in page
    for chart in CHARTS:
        assert chart.section in SECTIONS
        assert any(SECTIONS[chart.section](task) and chart.applies(task) for task in TASKS.values())


def test_every_line_has_a_colour_however_many_metrics_a_task_has() -> None:
    css = (Path(report.__file__).parent / "templates" / "page.css").read_text("utf-8")
    for rule, what in ((r"\.line", "stroke"), ("circle", "fill"), (r"\.legend i", "background")):
        assert re.search(rf"^{rule} {{[^}}]*{what}: var\(--quiet\)", css, re.MULTILINE)
    own = re.findall(r"^\.s(\d) \.line", css, re.MULTILINE)
    assert own == ["1", "2", "3", "4", "5"]
