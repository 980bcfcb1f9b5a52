from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
from pyspark.sql import SparkSession

from pipeline.errors import CountError, LakestormError, ModelError, TableNotFoundError
from pipeline.features.spec import FeatureSpec
from pipeline.lake import Lake, Snapshot
from pipeline.operate.report import charts, stage
from pipeline.operate.report.charts.drawing import Chart, bar_chart
from pipeline.operate.report.inputs import Inputs
from pipeline.operate.report.measured import Measured
from pipeline.operate.report.stage import report
from tests.operate.examples import (
    BINARY,
    DECISION,
    HOSTILE,
    ROWS,
    SPEC,
    WORD,
    Small,
    pipeline,
    register,
    write_predictions,
)
from tests.operate.reader import Reader

WRITTEN = re.compile(r"Written \d{4}-\d\d-\d\d \d\d:\d\d UTC")


@pytest.fixture(scope="module")
def page(spark: SparkSession, small: Small) -> str:
    outcome = report(spark, small.pipeline, small.lake)
    assert (outcome.stage, outcome.table) == ("report", "reports/small.html")
    assert outcome.rows_in == outcome.rows_out == ROWS
    assert outcome.version == small.lake.table("predictions").snapshot().version
    assert not outcome.unchanged
    return _page(small.lake).read_text("utf-8")


@pytest.fixture
def copied(small: Small, tmp_path: Path) -> Lake:
    """The lake without a page, to be changed."""
    shutil.copytree(small.lake.root, tmp_path / "copy", ignore=shutil.ignore_patterns("reports"))
    return Lake(tmp_path / "copy")


def _page(lake: Lake) -> Path:
    return Path(lake.root) / "reports" / "small.html"


def test_text_from_data_never_becomes_markup(page: str) -> None:
    read = Reader(page)
    assert read.open == []
    assert not read.tags & {"script", "img", "iframe", "object", "link", "foreignobject"}
    assert not [name for name, _ in read.attributes if name.startswith("on")]
    shown = " ".join(read.text)
    for hostile in (HOSTILE, f"rule:{HOSTILE}", WORD, DECISION):
        assert hostile in shown


class Marks(charts.PageChart):
    """A bar for each split, of what the data call it; rows are counted on Spark."""

    name = "marks"
    section = "quality"

    def measure(
        self, spark: SparkSession, predictions: Snapshot, features: Snapshot, spec: FeatureSpec
    ) -> dict[str, int]:
        del predictions, spec
        counted = features.dataframe(spark).groupBy("split").count()
        return {row["split"]: row["count"] for row in counted.collect()}

    def draw(self, inputs: Inputs, measured: Measured) -> Chart:
        del inputs
        rows = {f"{HOSTILE} {name}": rows for name, rows in measured.charts[self.name].items()}
        return bar_chart(HOSTILE, "split", rows, unit="rows", caption=f"{WORD} by {HOSTILE}")


class Absent(charts.PageChart):
    """Its section is not on the page of the example's task: so it is not measured, either."""

    name = "absent"
    section = "spread"

    def measure(self, *_: object) -> None:
        raise NotImplementedError

    def draw(self, *_: object) -> Chart:
        raise NotImplementedError


def test_a_chart_in_the_table_is_measured_drawn_in_its_section_and_makes_a_new_page(
    spark: SparkSession, small: Small, page: str, copied: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(_page(small.lake).parent, _page(copied).parent)
    assert report(spark, pipeline(copied), copied).unchanged
    monkeypatch.setattr(charts, "CHARTS", (*charts.CHARTS, Marks(), Absent()))
    assert not report(spark, pipeline(copied), copied).unchanged
    text = _page(copied).read_text("utf-8")
    read = Reader(text)
    assert read.open == []
    assert not read.tags & {"script", "img"}
    section = text.partition('<section id="quality">')[2].partition("</section>")[0]
    shown = Reader(section).shown
    assert f"{HOSTILE} {WORD} by {HOSTILE}" in shown
    for split, rows in small.rows["split"].value_counts().items():
        assert f"{HOSTILE} {split}: {rows:,} rows" in shown
    # Nothing else on the page moved.
    figure = text[text.index("<figure>") : text.index("</figure>")]
    assert "<figure>" not in page.partition('<section id="training">')[0]
    rest = text.replace(f'  <div class="pair">\n    {figure}</figure>\n\n  </div>\n', "")
    assert _bare(rest) == _bare(page)


def _bare(text: str) -> str:
    """Without what tells when it was written, and from what."""
    return re.sub(r'lakestorm-report" content="[^"]*', "", WRITTEN.sub("", text))


def test_the_page_needs_nothing_beside_itself(page: str) -> None:
    assert not re.search(r"https?://|@import|url\(|srcset|<link|file:", page)
    links = [value for name, value in Reader(page).attributes if name in ("href", "src")]
    assert links
    assert all(link is not None and link.startswith("#") for link in links)


def test_the_page_tells_what_was_measured(page: str) -> None:
    shown = Reader(page).shown
    assert "4,005 raw = 4,000 clean + 3 quarantine + 2 dropped" in shown
    assert "every row is accounted for" in shown
    assert "photo binary 9 (9) 0.2%" in shown  # nulls, those of the version before, and no mean
    assert "7 clean rows fail a rule whose action is warn" in shown
    assert "The scores of 2013-04 differ" in shown
    assert "3 epochs, of which number 2 was kept" in shown
    assert f"{SPEC.table}, version 0" in shown
    assert SPEC.hash in shown
    assert "prefers-color-scheme: dark" in page


def test_run_again_nothing_is_done_and_made_anew_it_is_the_same_but_for_the_time(
    spark: SparkSession, small: Small, page: str
) -> None:
    assert report(spark, small.pipeline, small.lake).unchanged
    assert _page(small.lake).read_text("utf-8") == page
    _page(small.lake).unlink()
    assert not report(spark, small.pipeline, small.lake).unchanged
    again = _page(small.lake).read_text("utf-8")
    assert WRITTEN.sub("", again) == WRITTEN.sub("", page)
    assert [path.name for path in _page(small.lake).parent.iterdir()] == ["small.html"]


@pytest.mark.parametrize(
    "table", ["clean", "quarantine", "quality", "specs", "predictions", SPEC.table]
)
def test_a_missing_table_is_named_and_nothing_is_written(
    spark: SparkSession, copied: Lake, table: str
) -> None:
    shutil.rmtree(copied.table(table).root)
    with pytest.raises(TableNotFoundError, match=f"^table {table}[:,]"):
        report(spark, pipeline(copied), copied)
    assert not _page(copied).parent.exists()


def test_an_empty_lake_gets_no_database(spark: SparkSession, tmp_path: Path) -> None:
    lake = Lake(tmp_path / "new")
    with pytest.raises(TableNotFoundError, match="table clean: is not in the lake"):
        report(spark, pipeline(lake), lake)
    assert not (tmp_path / "new").exists()


def test_a_champion_that_has_not_scored_is_an_error(spark: SparkSession, copied: Lake) -> None:
    version = register(copied, BINARY[:1])
    with pytest.raises(TableNotFoundError, match=rf"no rows of small@{version}.*lakestorm score"):
        report(spark, pipeline(copied), copied)
    assert not _page(copied).parent.exists()


def test_an_unknown_model_is_an_error_that_lists_what_there_is(
    spark: SparkSession, copied: Lake
) -> None:
    other = pipeline(copied)
    other = other.model_copy(update={"score": other.score.model_copy(update={"model": "best"})})
    with pytest.raises(
        ModelError, match=r"no version or alias 'best'; versions: 1; aliases: champion"
    ):
        report(spark, other, copied)


def test_a_fault_while_measuring_leaves_the_page_as_it_was(
    spark: SparkSession, small: Small, copied: Lake
) -> None:
    _page(copied).parent.mkdir()
    _page(copied).write_text("the old page")
    doubled = small.rows.assign(id=0, day=0)
    write_predictions(copied, doubled, 1)
    with pytest.raises(CountError):
        report(spark, pipeline(copied), copied)
    assert _page(copied).read_text() == "the old page"
    assert [path.name for path in _page(copied).parent.iterdir()] == ["small.html"]


def test_a_page_that_cannot_be_written_is_an_error(
    spark: SparkSession, copied: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    (Path(copied.root) / "reports").write_text("a file in the folder's place")
    monkeypatch.setattr(stage, "_measured", lambda *_: None)
    monkeypatch.setattr(stage, "render", lambda *_: "page")
    with pytest.raises(LakestormError, match=r"small.html: cannot be written"):
        report(spark, pipeline(copied), copied)
