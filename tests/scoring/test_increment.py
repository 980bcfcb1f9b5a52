"""Scores follow the rows: what came is added, what changed is scored again, the rest stays."""

from __future__ import annotations

import hashlib
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyspark.sql import SparkSession

from pipeline.clean.increment import clean_increment
from pipeline.config import Pipeline
from pipeline.errors import ModelError, ScoringError
from pipeline.lake import Lake
from pipeline.operate.walk import Asked, walk
from pipeline.outcome import Outcome
from pipeline.scoring import stage
from pipeline.scoring.periods import Span, periods_of
from pipeline.scoring.stage import score
from pipeline.training.registry import Registry
from tests.flights import small_pipeline, small_raw

KEYS = ["time_hour", "carrier", "flight"]
INCREMENTAL = Asked(incremental=True)


def predictions(lake: Lake) -> pl.DataFrame:
    return pl.read_delta(lake.table("predictions").root)


def keys_of(frame: pl.DataFrame) -> Counter[tuple[object, ...]]:
    return Counter(frame.select(KEYS).iter_rows())


def digests(lake: Lake) -> dict[str, str]:
    """Each file of `predictions`, and what is in it."""
    snapshot = lake.table("predictions").snapshot()
    return {
        file.path: hashlib.sha256(Path(snapshot.folder.uri(file.path)).read_bytes()).hexdigest()
        for file in snapshot.files
    }


STAGES = ("clean", "featurize", "train", "score")


@dataclass(frozen=True)
class Grown:
    """A lake, and the folder where its flights are delivered."""

    lake: Lake
    raw: Path

    def pipeline(self, *changes: str) -> Pipeline:
        """With corrections: the flight whose arrival was known last is the one that stays."""
        latest = "clean.dedupe.latest_by=[air_time]"
        return small_pipeline(Path(self.lake.root), f"source.path={self.raw}", latest, *changes)

    def walk(self, spark: SparkSession) -> dict[str, Outcome]:
        """An incremental run."""
        outcomes = walk(spark, self.pipeline(), self.lake, STAGES, INCREMENTAL)
        return {outcome.stage: outcome for outcome in outcomes}

    def deliver_december(self) -> None:
        shutil.copy2(self.raw.parent / "december.parquet", self.raw / "flights-2013-12.parquet")

    def deliver(self, name: str, count: int, **changed: pa.Array) -> None:
        """The first flights of March, as they are but for some columns."""
        rows = pq.read_table(self.raw / "flights-2013-03.parquet").slice(0, count)
        for column, values in changed.items():
            rows = rows.set_column(rows.schema.get_field_index(column), column, values)
        pq.write_table(rows, self.raw / f"{name}.parquet")


@pytest.fixture(scope="module")
def first(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> Grown:
    """Filled, trained and scored by an incremental run, up to November."""
    root = tmp_path_factory.mktemp("grown")
    small_raw(root / "lake")
    raw = root / "delivered"
    (root / "lake" / "raw" / "flights").rename(raw)
    (raw / "flights-2013-12.parquet").rename(root / "december.parquet")
    grown = Grown(Lake(root / "lake"), raw)
    grown.walk(spark)
    return grown


@pytest.fixture
def grown(first: Grown, tmp_path: Path) -> Iterator[Grown]:
    """A copy of its own for each test; deliveries stay where Spark's checkpoint knows them."""
    root = tmp_path / "lake"
    shutil.copytree(first.lake.root, root)
    delivered = set(first.raw.iterdir())
    yield Grown(Lake(root), first.raw)
    for path in set(first.raw.iterdir()) - delivered:
        path.unlink()


def but_drift(counts: Mapping[str, int]) -> dict[str, int]:
    """What was counted, but for features that drifted: see test_drift.py."""
    return {name: count for name, count in counts.items() if name != "drifted"}


def test_an_increment_scores_what_came_and_leaves_the_rest_byte_for_byte(
    spark: SparkSession, grown: Grown
) -> None:
    before, versions = digests(grown.lake), Registry(grown.lake, "flights").versions()
    grown.deliver_december()
    outcomes = grown.walk(spark)
    assert list(outcomes) == ["clean", "featurize", "score"]  # between trainings no training
    clean = pl.read_delta(grown.lake.table("clean").root)
    december = clean.filter(pl.col("period") == "2013-12").height
    assert but_drift(outcomes["score"].counts) == {"scored": december}
    after = digests(grown.lake)
    assert before.items() <= after.items()
    assert keys_of(predictions(grown.lake)) == keys_of(clean)
    assert len(Registry(grown.lake, "flights").versions()) == len(versions)
    assert all(outcome.unchanged for outcome in grown.walk(spark).values())
    assert digests(grown.lake) == after


def test_a_corrected_row_is_scored_again_with_its_period_only(
    spark: SparkSession, grown: Grown
) -> None:
    before = digests(grown.lake)
    old = predictions(grown.lake)
    later, far = pa.array([9000.0] * 3), pa.array([5999.0] * 3)
    grown.deliver("corrected", 3, air_time=later, distance=far)
    outcomes = grown.walk(spark)
    scored = predictions(grown.lake)
    assert keys_of(scored) == keys_of(old)
    in_march = old.filter(pl.col("period") == "2013-03").height
    assert but_drift(outcomes["score"].counts) == {"scored": in_march}
    both = scored.join(old, on=KEYS, suffix="_old", validate="1:1")
    changed = both.filter((pl.col("score") - pl.col("score_old")).abs() > 1e-7)
    assert changed.height == 3
    after = digests(grown.lake)
    left = {path: digest for path, digest in before.items() if "period=2013-03" not in path}
    assert left.items() <= after.items()
    assert not {path for path in before if "period=2013-03" in path} & set(after)


@pytest.mark.long
def test_a_shadow_scores_beside_the_champion_in_the_same_pass(
    spark: SparkSession, grown: Grown, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Of the same spec, another network.
    list(walk(spark, grown.pipeline("train.model.hidden=[8]"), grown.lake, ("train",)))
    champion = Registry(grown.lake, "flights").champion()
    assert champion is not None
    other = ({1, 2} - {champion}).pop()
    pipeline = grown.pipeline(f"score.shadows=['flights@{other}']")
    score(spark, pipeline, grown.lake)  # what one of them has not seen yet
    grown.deliver("late", 50, carrier=pa.array(["ZZ"] * 50))
    clean_increment(spark, pipeline, grown.lake)
    passes, run = [], stage._run

    def counted(*given: Any):
        passes.append(given)
        return run(*given)

    monkeypatch.setattr(stage, "_run", counted)
    outcome = score(spark, pipeline, grown.lake)
    assert len(passes) == 1
    assert outcome.counts == {"scored": 100}
    assert outcome.note == f"flights@{champion}, flights@{other}"
    found = predictions(grown.lake)
    clean = pl.read_delta(grown.lake.table("clean").root)
    for version in (champion, other):
        assert keys_of(found.filter(pl.col("model_version") == version)) == keys_of(clean)
    scores = found.pivot("model_version", index=KEYS, values="score")
    assert (scores[str(champion)] != scores[str(other)]).any()
    assert score(spark, pipeline, grown.lake).unchanged


def test_a_backfill_replaces_its_periods_of_its_model_and_nothing_else(
    spark: SparkSession, grown: Grown
) -> None:
    pipeline = grown.pipeline()
    before = digests(grown.lake)
    old = predictions(grown.lake)
    span = Span("2013-10-01", "2013-11-30")
    outcome = score(spark, pipeline, grown.lake, models=["flights@1"], span=span)
    after = digests(grown.lake)
    inside = {path for path in before if "2013-10" in path or "2013-11" in path}
    assert {p: d for p, d in before.items() if p not in inside}.items() <= after.items()
    assert not inside & set(after)
    found = predictions(grown.lake)
    assert keys_of(found) == keys_of(old)
    again = old.filter(pl.col("period").is_in(["2013-10", "2013-11"])).height
    assert but_drift(outcome.counts) == {"scored": again}
    # What comes afterwards is still added once.
    grown.deliver_december()
    grown.walk(spark)
    clean = pl.read_delta(grown.lake.table("clean").root)
    assert keys_of(predictions(grown.lake)) == keys_of(clean)


def test_two_runs_that_do_the_same_end_with_one_commit(
    spark: SparkSession, grown: Grown, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline = grown.pipeline()
    grown.deliver_december()
    clean_increment(spark, pipeline, grown.lake)
    run = stage._run

    def overtaken(*given: Any):
        files = run(*given)
        monkeypatch.setattr(stage, "_run", run)
        assert not score(spark, pipeline, grown.lake).unchanged
        return files

    monkeypatch.setattr(stage, "_run", overtaken)
    late = score(spark, pipeline, grown.lake)
    assert late.unchanged
    assert "nothing to commit" in late.note
    clean = pl.read_delta(grown.lake.table("clean").root)
    assert keys_of(predictions(grown.lake)) == keys_of(clean)


def test_models_are_named_by_name_and_version_or_alias(spark: SparkSession, grown: Grown) -> None:
    pipeline = grown.pipeline()
    for reference in ("1", "champion", "flights@1", "flights@champion"):
        assert score(spark, pipeline, grown.lake, models=[reference]).note.startswith("flights@1")
    with pytest.raises(ModelError, match="other"):
        score(spark, pipeline, grown.lake, models=["other@1"])
    with pytest.raises(ModelError, match="'7'"):
        score(spark, pipeline, grown.lake, models=["flights@7"])


MONTHS = ["2013-09", "2013-10", "2013-11", None]


@pytest.mark.parametrize(
    ("present", "span", "covered"),
    [
        (MONTHS, ("2013-10-01", "2013-11-30"), {"2013-10", "2013-11"}),
        (MONTHS, ("2013-10", "2013-10"), {"2013-10"}),
        (MONTHS, ("2013-09-01", "2013-10"), {"2013-09", "2013-10"}),
        (["2012", "2013"], ("2012-01-01", "2012-12-31"), {"2012"}),
        (["2013-Q1", "2013-Q2"], ("2013-04-01", "2013-06-30"), {"2013-Q2"}),
        (["2013-W01", "2013-W02"], ("2012-12-31", "2013-01-06"), {"2013-W01"}),
        (["2013-02-28", "2013-03-01"], ("2013-02-28", "2013-03-01"), {"2013-02-28", "2013-03-01"}),
        (["a", "b", "c"], ("a", "b"), {"a", "b"}),
    ],
)
def test_a_span_covers_whole_periods(
    present: list[str | None], span: tuple[str, str], covered: set[str | None]
) -> None:
    assert periods_of(Span(*span), present, "table features") == covered


@pytest.mark.parametrize(
    ("present", "span", "told"),
    [
        (MONTHS, ("2013-10-02", "2013-11-30"), r"--from: 2013-10-02 is not the first day.*"
         r"2013-10-01 and 2013-11-01"),
        (MONTHS, ("2013-10-01", "2013-11-29"), r"--to: 2013-11-29 is not the last day.*"
         r"2013-10-31 and 2013-11-30"),
        (MONTHS, ("2013-12-01", "2013-12-31"), "--from.*2013-10-01 and 2013-11-01"),
        (MONTHS, ("soon", "2013-11-30"), "--from: 'soon' is neither a day nor a period"),
        (["a", "b"], ("2013-10-01", "b"), "neither a day nor a period of table features.*a, b"),
        (MONTHS, ("2013-11", "2013-10"), "has no period from 2013-11 to 2013-10"),
        ([None], ("2013-11", "2013-10"), "has no period"),
    ],
)  # fmt: skip
def test_a_bound_inside_a_period_is_refused_with_the_nearest(
    present: list[str | None], span: tuple[str, str], told: str
) -> None:
    with pytest.raises(ScoringError, match=told):
        periods_of(Span(*span), present, "table features")
