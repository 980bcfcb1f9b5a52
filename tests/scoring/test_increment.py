"""Scores follow the rows: what came is added, what changed is scored again, the rest stays."""

from __future__ import annotations

import hashlib
import shutil
from collections import Counter
from pathlib import Path

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
        file.path: hashlib.sha256(Path(snapshot.root, file.path).read_bytes()).hexdigest()
        for file in snapshot.files
    }


def raw_flights(lake: Lake) -> Path:
    return Path(lake.root) / "raw" / "flights"


@pytest.fixture(scope="module")
def grown(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A lake that has been filled, trained and scored by increments, up to November."""
    root = tmp_path_factory.mktemp("grown")
    small_raw(root)
    december = root / "raw" / "flights" / "flights-2013-12.parquet"
    december.rename(root / "december.parquet")
    for _ in walk(spark, growing(root), Lake(root), STAGES, INCREMENTAL):
        pass
    return root


STAGES = ("clean", "featurize", "train", "score")


def growing(root: Path, *changes: str) -> Pipeline:
    """With corrections: the flight whose arrival was known last is the one that stays."""
    return small_pipeline(root, "clean.dedupe.latest_by=[air_time]", *changes)


@pytest.fixture
def grown_lake(grown: Path, tmp_path: Path) -> Lake:
    # In place, as Spark's checkpoint knows files by their absolute paths.
    kept = tmp_path / "kept"
    shutil.copytree(grown, kept)
    return Lake(grown)


@pytest.fixture(autouse=True)
def put_back(request: pytest.FixtureRequest, tmp_path: Path):
    yield
    if "grown_lake" in request.fixturenames:
        grown = request.getfixturevalue("grown")
        shutil.rmtree(grown)
        shutil.copytree(tmp_path / "kept", grown)


def test_an_increment_scores_what_came_and_leaves_the_rest_byte_for_byte(
    spark: SparkSession, grown_lake: Lake
) -> None:
    root = Path(grown_lake.root)
    pipeline = growing(root)
    before, versions = digests(grown_lake), Registry(grown_lake, "flights").versions()
    shutil.copy2(root / "december.parquet", raw_flights(grown_lake))
    outcomes = {o.stage: o for o in walk(spark, pipeline, grown_lake, STAGES, INCREMENTAL)}
    assert list(outcomes) == ["clean", "featurize", "score"]  # between trainings no training
    clean = pl.read_delta(grown_lake.table("clean").root)
    december = clean.filter(pl.col("period") == "2013-12").height
    assert outcomes["score"].counts == {"scored": december}
    after = digests(grown_lake)
    assert before.items() <= after.items()
    assert keys_of(predictions(grown_lake)) == keys_of(clean)
    assert len(Registry(grown_lake, "flights").versions()) == len(versions)
    assert [o.unchanged for o in walk(spark, pipeline, grown_lake, STAGES, INCREMENTAL)] == [
        True, True, True,
    ]  # fmt: skip
    assert digests(grown_lake) == after


def test_a_corrected_row_is_scored_again_with_its_period_only(
    spark: SparkSession, grown_lake: Lake
) -> None:
    root = Path(grown_lake.root)
    pipeline = growing(root)
    before = digests(grown_lake)
    old = predictions(grown_lake)
    march = pq.read_table(raw_flights(grown_lake) / "flights-2013-03.parquet").slice(0, 3)
    later = pa.array([9000.0] * 3)
    march = march.set_column(march.schema.get_field_index("air_time"), "air_time", later)
    far = pa.array([5999.0] * 3)
    march = march.set_column(march.schema.get_field_index("distance"), "distance", far)
    pq.write_table(march, raw_flights(grown_lake) / "corrected.parquet")
    outcomes = {o.stage: o for o in walk(spark, pipeline, grown_lake, STAGES, INCREMENTAL)}
    scored = predictions(grown_lake)
    assert keys_of(scored) == keys_of(old)
    in_march = old.filter(pl.col("period") == "2013-03").height
    assert outcomes["score"].counts == {"scored": in_march}
    both = scored.join(old, on=KEYS, suffix="_old", validate="1:1")
    changed = both.filter((pl.col("score") - pl.col("score_old")).abs() > 1e-7)
    assert changed.height == 3
    after = digests(grown_lake)
    left = {path: digest for path, digest in before.items() if "period=2013-03" not in path}
    assert left.items() <= after.items()
    assert not {path for path in before if "period=2013-03" in path} & set(after)


def test_a_shadow_scores_beside_the_champion_in_the_same_pass(
    spark: SparkSession, grown_lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = Path(grown_lake.root)
    # The same spec, another network.
    for _ in walk(spark, growing(root, "train.model.hidden=[8]"), grown_lake, ("train",)):
        pass
    registry = Registry(grown_lake, "flights")
    newest = max(version.version for version in registry.versions())
    champion = registry.champion()
    assert champion is not None
    other = ({1, newest} - {champion}).pop()
    shutil.copy2(root / "december.parquet", raw_flights(grown_lake))
    clean_increment(spark, growing(root), grown_lake)
    score(spark, growing(root), grown_lake, models=[f"flights@{other}"])
    passes = []
    run = stage._run
    monkeypatch.setattr(stage, "_run", lambda *given: passes.append(given) or run(*given))
    march = pq.read_table(raw_flights(grown_lake) / "flights-2013-03.parquet").slice(0, 50)
    zz = pa.array(["ZZ"] * 50)
    march = march.set_column(march.schema.get_field_index("carrier"), "carrier", zz)
    pq.write_table(march, raw_flights(grown_lake) / "late.parquet")
    score(spark, growing(root), grown_lake)  # champion alone: features up to december
    clean_increment(spark, growing(root), grown_lake)
    pipeline = growing(root, f"score.shadows=['flights@{other}']")
    passes.clear()
    outcome = score(spark, pipeline, grown_lake)
    assert len(passes) == 1
    assert outcome.counts == {"scored": 100}
    assert outcome.note == f"flights@{champion}, flights@{other}"
    found = predictions(grown_lake)
    clean = pl.read_delta(grown_lake.table("clean").root)
    for version in (champion, other):
        own = found.filter(pl.col("model_version") == version)
        assert keys_of(own) == keys_of(clean)
    assert score(spark, pipeline, grown_lake).unchanged


def test_a_backfill_replaces_its_periods_of_its_model_and_nothing_else(
    spark: SparkSession, grown_lake: Lake
) -> None:
    pipeline = growing(Path(grown_lake.root))
    before = digests(grown_lake)
    old = predictions(grown_lake)
    span = Span("2013-10-01", "2013-11-30")
    outcome = score(spark, pipeline, grown_lake, models=["flights@1"], span=span)
    after = digests(grown_lake)
    inside = {path for path in before if "2013-10" in path or "2013-11" in path}
    assert {p: d for p, d in before.items() if p not in inside}.items() <= after.items()
    assert not inside & set(after)
    found = predictions(grown_lake)
    assert keys_of(found) == keys_of(old)
    again = old.filter(pl.col("period").is_in(["2013-10", "2013-11"])).height
    assert outcome.counts == {"scored": again}
    # What comes afterwards is still added once.
    shutil.copy2(Path(grown_lake.root) / "december.parquet", raw_flights(grown_lake))
    for _ in walk(spark, pipeline, grown_lake, STAGES, INCREMENTAL):
        pass
    clean = pl.read_delta(grown_lake.table("clean").root)
    assert keys_of(predictions(grown_lake)) == keys_of(clean)


def test_two_runs_that_do_the_same_end_with_one_commit(
    spark: SparkSession, grown_lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = Path(grown_lake.root)
    pipeline = growing(root)
    shutil.copy2(root / "december.parquet", raw_flights(grown_lake))
    clean_increment(spark, pipeline, grown_lake)
    run = stage._run

    def overtaken(*given: object):
        files = run(*given)  # type: ignore[arg-type]
        monkeypatch.setattr(stage, "_run", run)
        assert not score(spark, pipeline, grown_lake).unchanged
        return files

    monkeypatch.setattr(stage, "_run", overtaken)
    late = score(spark, pipeline, grown_lake)
    assert late.unchanged
    assert "nothing to commit" in late.note
    clean = pl.read_delta(grown_lake.table("clean").root)
    assert keys_of(predictions(grown_lake)) == keys_of(clean)


def test_models_are_named_by_name_and_version_or_alias(
    spark: SparkSession, grown_lake: Lake
) -> None:
    pipeline = growing(Path(grown_lake.root))
    for reference in ("1", "champion", "flights@1", "flights@champion"):
        assert score(spark, pipeline, grown_lake, models=[reference]).note.startswith("flights@1")
    with pytest.raises(ModelError, match="other"):
        score(spark, pipeline, grown_lake, models=["other@1"])
    with pytest.raises(ModelError, match="'7'"):
        score(spark, pipeline, grown_lake, models=["flights@7"])


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

