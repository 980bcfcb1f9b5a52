from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from pyspark.sql import SparkSession

from pipeline.config import Label
from pipeline.lake import Lake
from pipeline.operate.report import page, stage
from pipeline.operate.report.bins import QUANTILES
from pipeline.operate.report.classes import confusion_cells
from pipeline.operate.report.inputs import Inputs
from pipeline.operate.report.measured import Measured
from pipeline.operate.report.scores import Group
from pipeline.operate.report.stage import report
from pipeline.operate.summary import summary_tables
from pipeline.outcome import Outcome
from tests.operate.examples import HOSTILE, SPEC, Small, bands, psi
from tests.operate.reader import Reader
from tests.operate.tasks import CLASSES, EXAMPLES, Example, task_lake

TRAINED = ("2013-01", "2013-02")


@dataclass(frozen=True)
class Case:
    """A task's example, measured and rendered."""

    task: str
    lake: Lake
    example: Example
    measured: Measured
    page: str

    @property
    def shown(self) -> str:
        return Reader(self.page).shown

    def own(self, column: str, value: str) -> pd.DataFrame:
        """Pairs of the rows that have a value."""
        rows = np.flatnonzero(self.example.rows[column] == value)
        return self.example.pairs[self.example.pairs["row"].isin(rows)]


@pytest.fixture(scope="module", params=EXAMPLES)
def case(
    request: pytest.FixtureRequest,
    spark: SparkSession,
    small: Small,
    tmp_path_factory: pytest.TempPathFactory,
) -> Case:
    example = EXAMPLES[request.param]()
    lake, pipeline = task_lake(small, example, tmp_path_factory.mktemp("task") / "lake")
    kept: list[Measured] = []

    def render(inputs: Inputs, measured: Measured, mark: str, written_at: datetime) -> str:
        kept.append(measured)
        return page.render(inputs, measured, mark, written_at)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stage, "render", render)
        outcome = report(spark, pipeline, lake)
    assert outcome.rows_in == len(example.rows)
    text = (Path(lake.root) / outcome.table).read_text("utf-8")
    return Case(request.param, lake, example, kept[0], text)


def _check(group: Group, pairs: pd.DataFrame) -> None:
    known = pairs[pairs["observed"].notna()]
    assert group.rows == pairs["row"].nunique()
    assert group.labelled == len(known)
    assert group.mean_score == pytest.approx(pairs["score"].mean())
    for name in ("predicted", "observed", "loss"):
        assert getattr(group, name) == pytest.approx(known[name].mean(), nan_ok=True)
    assert group.residual == pytest.approx(group.observed - group.predicted, nan_ok=True)
    assert group.rmse == pytest.approx(math.sqrt(known["loss"].mean()), nan_ok=True)


def test_splits_and_periods_are_numpys(case: Case) -> None:
    scores = case.measured.scores
    assert [group.name for group in scores.splits] == sorted(set(case.example.rows["split"]))
    for group in scores.splits:
        _check(group, case.own("split", group.name))
    assert [p.group.name for p in scores.periods] == sorted(set(case.example.rows["period"]))
    for period in scores.periods:
        _check(period.group, case.own("period", period.group.name))


def test_the_index_of_each_period_is_numpys(case: Case) -> None:
    score = case.example.pairs.groupby("row")["score"].first().to_numpy()
    period = case.example.rows["period"].to_numpy()
    trained = np.isin(period, TRAINED)
    band = bands(score, np.unique(np.quantile(score[trained], QUANTILES)))
    for found in case.measured.scores.periods:
        own = band[period == found.group.name]
        assert found.psi == pytest.approx(psi(band[trained], own), rel=1e-9)
    assert case.measured.scores.psi_after_training > 0.25  # the examples drift


def test_bins_of_the_test_rows_are_numpys(case: Case) -> None:
    pairs = case.own("split", "test").dropna()
    if case.task == "regression":
        rows = case.example.rows
        trained = rows.loc[rows["period"].isin(TRAINED), "score"].astype(float)
        deciles = np.quantile(trained, np.arange(1, 10) / 10)
        tenth = np.searchsorted(deciles, pairs["predicted"], "right")
    else:
        tenth = np.minimum(pairs["predicted"] * 10 // 1, 9)
    found = case.measured.scores.calibration
    assert [group.name for group in found] == [f"{k / 10:.1f}" for k in np.unique(tenth)]
    for group in found:
        own = pairs[tenth == round(float(group.name) * 10)]
        assert group.labelled == len(own)
        assert group.predicted == pytest.approx(own["predicted"].mean())
        assert group.observed == pytest.approx(own["observed"].mean())


@pytest.mark.parametrize("case", ["multiclass"], indirect=True)
def test_right_and_wrong_rows_are_pandas_by_class(case: Case) -> None:
    test = case.example.rows[case.example.rows["split"] == "test"]
    truth = test["late"].map(dict(enumerate(CLASSES)))
    expected = test.groupby([truth, "class"]).size()
    found = case.measured.classes
    assert found is not None
    assert found.whole
    assert found.rows == expected.to_dict()
    for name in CLASSES:
        assert found.observed(name) == (truth == name).sum()
        assert found.right(name) == ((truth == name) & (test["class"] == name)).sum()


def test_of_many_classes_only_right_and_wrong_are_counted(spark: SparkSession) -> None:
    names = tuple(f"c{i}" for i in range(25))
    label = Label(task="multiclass", name="late", expression="x", classes=names)
    rows = [(i % 25, f"c{i % 24}") for i in range(600)] + [(None, "c1")]
    frame = spark.createDataFrame(rows, "label0 int, class string")
    cells = confusion_cells(frame, SPEC.model_copy(update={"label": label})).collect()
    counts = {(cell["observed"], cell["predicted"]): cell["rows"] for cell in cells}
    assert {predicted for observed, predicted in counts} <= {None, *names}
    assert sum(counts.values()) == 600
    assert sum(n for (_, said), n in counts.items() if said is not None) == 24
    assert all(said in (None, truth) for truth, said in counts)


@pytest.mark.parametrize("case", ["reconstruction"], indirect=True)
def test_quantiles_of_the_anomaly_score_are_numpys(case: Case) -> None:
    found = case.measured.spread
    assert found is not None
    for column, measured in (("split", found.splits), ("period", found.periods)):
        for name, rows in case.example.rows.groupby(column):
            expected = np.quantile(rows["score"].astype(float), [0.05, 0.25, 0.5, 0.75, 0.95, 0.99])
            assert list(measured[str(name)].values()) == pytest.approx(expected.tolist())


HEADINGS = {
    "multiclass": ("Calibration of the confidence", "What each class was taken for", "F1"),
    "regression": ("Predicted and observed on test rows", "mean residual", "RMSE"),
    "multilabel": ("Calibration on the labels of test rows", "PSI of the mean probability"),
    "reconstruction": ("Quantiles of the anomaly score by split", "KL divergence"),
}


def test_the_page_shows_what_the_task_has_and_leaves_out_the_rest(case: Case) -> None:
    read = Reader(case.page)
    assert read.open == []
    assert not read.tags & {"script", "img", "b>perhaps"}
    for task, headings in HEADINGS.items():
        if task == case.task:
            assert all(heading in case.shown for heading in headings)
        else:
            assert headings[0] not in case.shown
    assert f"PSI of the {case.example.spec.label.definition.words.score} by period" in case.shown
    assert "3 epochs, of which number 2 was kept, the one with the best validation" in case.shown
    links = [value for name, value in read.attributes if name == "href"]
    ids = {f"#{value}" for name, value in read.attributes if name == "id"}
    assert set(links) <= ids
    assert "nan" not in case.shown.split()


@pytest.mark.parametrize("case", ["multiclass"], indirect=True)
def test_names_of_classes_never_become_markup(case: Case) -> None:
    read = Reader(case.page)
    assert all(name in read.text for name in CLASSES)
    assert case.page.count("<b>perhaps") == case.page.count(HOSTILE) == 0


def test_features_that_have_no_histogram_are_named(case: Case) -> None:
    features = {"multilabel": "tokens_text", "reconstruction": "image_pixels"}
    own = features.get(case.task)
    assert (own is not None) == (not case.measured.drift)
    assert (own is not None) == ("Only numbers and categories are compared" in case.shown)
    assert own is None or own in case.shown
    assert ("As the network sees them" in case.shown) == (own is None)


def test_the_terminal_shows_lists_and_binary_keys_in_a_few_characters(case: Case) -> None:
    scored = Outcome(
        stage="score", table="predictions", version=0, rows_in=1, rows_out=1, seconds=1
    )
    grid = summary_tables([scored], case.lake)[-1]
    cells = {str(column.header): list(column.cells) for column in grid.columns}
    assert all(len(str(cell)) <= 50 for column in cells.values() for cell in column)
    if case.task == "reconstruction":
        assert all(len(str(cell)) == 16 + 3 for cell in cells["digest"])
        assert all(str(cell).count(",") == 4 for cell in cells["latent"])
