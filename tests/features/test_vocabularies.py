"""Vocabularies that are too large for a spec: stored once, joined, equal to the inline way."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pytest
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from pipeline.clean.stage import clean
from pipeline.config import Pipeline
from pipeline.errors import SpecError
from pipeline.features import fit as module
from pipeline.features.arrow import features_of
from pipeline.features.catalogue import newest_spec, stored_vocabularies
from pipeline.features.kinds.categorical import FittedCategory
from pipeline.features.kinds.kind import Stored
from pipeline.features.kinds.vocabulary import FittedWords
from pipeline.features.prepared import prepared
from pipeline.features.spec import FeatureSpec
from pipeline.features.stage import ensure_features, featurize
from pipeline.features.transform import features
from pipeline.features.vocabularies import VOCABULARIES, load, words_of
from pipeline.lake import Lake
from pipeline.operate.maintain import maintain
from tests.clean import examples

WORDS = [
    "",
    " ",
    "a",
    "A",
    "é",
    "e\u0301",
    "ß",
    "😀",
    "null",
    "\x00",
    "a b",
    "b a a",
    "%20",
    "x/y=z",
]
SECTIONS: dict[str, Any] = {
    "train.model": {"family": "rnn"},
    "features.numeric": {},
    "features.derive": {"text": "concat_ws(' ', place, place, month)"},
    "features.categorical": {
        "place": {"minimum_count": 1},
        "id": {"minimum_count": 1, "encoding": "frequency"},
        "amount_text": {"minimum_count": 1, "encoding": "target", "folds": 3},
        "month": {"minimum_count": 1},
    },
    "features.crosses": {"both": {"columns": ["place", "month"], "minimum_count": 1}},
    "features.tokens": {"text": {"encoding": "vocabulary", "minimum_count": 1}},
}
SECTIONS["features.derive"]["amount_text"] = "concat(string(cast(amount as int)), 'x')"


def raw_rows(month: int) -> list[dict[str, Any]]:
    rows = examples.some_rows(1000 * month, 150, month)
    for number, row in enumerate(rows):
        # Half of the rows have one word, and some have none.
        rare = None if number % 9 == 0 else WORDS[number // 2 % len(WORDS)]
        row["place"] = "most" if number % 2 else rare
        row["amount"] = None if number % 11 == 0 else row["amount"]
    return rows


ONE_SECTION = {"features.categorical": {"place": {"minimum_count": 1}}, "features.numeric": {}}


def described(
    root: Path, months: tuple[int, ...] = (1, 2, 3, 4), sections: dict[str, Any] = SECTIONS
) -> tuple[Pipeline, Lake]:
    for month in months:
        examples.write_raw(root / "raw" / f"{month}.parquet", raw_rows(month))
    pipeline = examples.pipeline(root, sections)
    return pipeline, Lake(pipeline.lake)


@pytest.fixture(scope="module")
def made(
    spark: SparkSession, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Pipeline, Lake, FeatureSpec]:
    """A lake whose vocabularies of more than 3 words are stored, never changed by a test."""
    pipeline, lake = described(tmp_path_factory.mktemp("stored"))
    clean(spark, pipeline, lake)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "INLINE_WORDS", 3)
        _, spec = featurize(spark, pipeline, lake)
    return pipeline, lake, spec


def stored_parts(spec: FeatureSpec) -> dict[str, FittedWords]:
    parts = (part for part in spec.parts if isinstance(part, FittedWords))
    return {f"{part.kind}.{part.column}": part for part in parts if part.stored}


def test_stored_and_inline_vocabularies_give_the_same_features(
    spark: SparkSession, made: tuple[Pipeline, Lake, FeatureSpec]
) -> None:
    pipeline, lake, spec = made
    assert set(stored_parts(spec)) == {
        "categorical.place",
        "categorical.id",
        "categorical.amount_text",
        "crosses.both",
        "tokens.text",
    }
    rows = prepared(lake.table("clean").snapshot().dataframe(spark), spec)
    inline = module.fit(
        rows.where("split = 'train'"), pipeline.features, spec.pipeline, spec.period_column
    )
    assert not stored_parts(inline)
    assert inline.columns == spec.columns
    wanted = pl.from_arrow(features(rows, inline).toArrow())
    found = examples.table(lake, spec.table)
    assert isinstance(wanted, pl.DataFrame)
    assert found.height == 600 == found["id"].n_unique()
    names = [*spec.feature_columns, "id", "split", "late"]
    assert found.select(names).sort("id").equals(wanted.select(names).sort("id"))


def test_the_table_holds_each_word_once_in_the_order_of_its_id(
    made: tuple[Pipeline, Lake, FeatureSpec],
) -> None:
    _, lake, spec = made
    words = examples.table(lake, VOCABULARIES)
    train = examples.table(lake, "clean").filter(pl.col("month") <= 2)
    places = Counter(word for word in train["place"].to_list() if word is not None)
    stored = words.filter(pl.col("feature") == "categorical.place").sort("id")
    assert stored["word"].to_list() == sorted(places)
    assert stored["id"].to_list() == list(range(2, 2 + len(places)))
    assert stored["rows"].to_list() == [places[word] for word in sorted(places)]
    texts = Counter(
        word
        for row in train.iter_rows(named=True)
        for place in [row["place"] or ""]
        for word in f"{place} {place} {row['month']}".lower().split()
        if word.isalnum()
    )
    tokens = words.filter(pl.col("feature") == "tokens.text").sort("id")
    assert {"most", "null", "1", "2"} <= set(tokens["word"].to_list())
    assert tokens["rows"].to_list()[tokens["word"].to_list().index("most")] == texts["most"]
    assert words["fit"].n_unique() == 1
    for name, part in stored_parts(spec).items():
        held = words.filter(pl.col("feature") == name)
        assert part.stored is not None
        assert held.height == part.stored.words == held["word"].n_unique() == held["id"].n_unique()


def test_arrow_reads_the_words_from_the_lake(made: tuple[Pipeline, Lake, FeatureSpec]) -> None:
    _, lake, spec = made
    rows = examples.table(lake, "clean").filter(pl.col("month") > 2).sort("id")
    text = pl.concat_str("place", "place", "month", separator=" ", ignore_nulls=True)
    amount = pl.col("amount").cast(pl.Int32).cast(pl.String) + "x"
    given = rows.with_columns(text=text, amount_text=amount).to_arrow()
    given = given.cast(pa.schema([(f.name, _plain(f.type)) for f in given.schema]))
    served = features_of(given, spec, load(lake, spec))
    found = examples.table(lake, spec.table).filter(pl.col("split") != "train").sort("id")
    assert pl.from_arrow(served).equals(found.select(spec.feature_columns))  # type: ignore[arg-type]
    with pytest.raises(SpecError, match=r"its \d+ words are in the table vocabularies"):
        features_of(given, spec)


def _plain(kind: pa.DataType) -> pa.DataType:
    return pa.string() if pa.types.is_large_string(kind) else kind


def test_running_again_changes_nothing(
    spark: SparkSession, made: tuple[Pipeline, Lake, FeatureSpec], monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline, lake, spec = made
    monkeypatch.setattr(module, "INLINE_WORDS", 3)
    before = lake.table(VOCABULARIES).snapshot().version
    outcome, again = featurize(spark, pipeline, lake)
    assert outcome.unchanged
    assert again == spec
    assert lake.table(VOCABULARIES).snapshot().version == before == 1


def test_a_fit_that_broke_off_after_the_words_finds_them(
    spark: SparkSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline, lake = described(tmp_path, (1,), ONE_SECTION)
    clean(spark, pipeline, lake)
    monkeypatch.setattr(module, "INLINE_WORDS", 3)
    with monkeypatch.context() as patch:
        patch.setattr("pipeline.features.stage.record", _killed)
        with pytest.raises(KeyboardInterrupt):
            featurize(spark, pipeline, lake)
    left = lake.table(VOCABULARIES).snapshot()
    outcome, spec = featurize(spark, pipeline, lake)
    assert outcome.rows_out == 150
    assert lake.table(VOCABULARIES).snapshot().version == left.version == 1
    assert {part.stored.version for part in stored_parts(spec).values() if part.stored} == {1}


def _killed(*_: Any) -> None:
    raise KeyboardInterrupt


def test_another_table_is_refused(
    spark: SparkSession, made: tuple[Pipeline, Lake, FeatureSpec]
) -> None:
    _, lake, spec = made
    stored = stored_parts(spec)["categorical.place"].stored
    assert stored is not None
    refused: list[tuple[dict[str, Any], str]] = [
        (
            {"words": stored.words + 1},
            f"has {stored.words} words, and the spec was fitted with {stored.words + 1}",
        ),
        ({"digest": "f.0.0"}, "has words with the digest f."),
        ({"fit": "another"}, "has 0 words"),
    ]
    for changes, told in refused:
        with pytest.raises(SpecError, match=told):
            words_of(spark, lake, stored.model_copy(update=changes))
    changed = [
        part.model_copy(update={"stored": part.stored.model_copy(update={"digest": "f.0.0"})})
        if isinstance(part, FittedWords) and part.stored
        else part
        for part in spec.parts
    ]
    with pytest.raises(SpecError, match=r"of the digest f\.0\.0"):
        load(lake, spec.model_copy(update={"parts": tuple(changed)}))
    rows = prepared(lake.table("clean").snapshot().dataframe(spark), spec)
    with pytest.raises(SpecError, match="its words are in the table vocabularies"):
        features(rows, spec)


def test_upkeep_keeps_what_specs_need(
    spark: SparkSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline, lake = described(tmp_path, (1, 2), ONE_SECTION)
    clean(spark, pipeline, lake)
    monkeypatch.setattr(module, "INLINE_WORDS", 3)
    _, old = featurize(spark, pipeline, lake)
    before = examples.table(lake, old.table)
    described(tmp_path, sections=ONE_SECTION)
    clean(spark, pipeline, lake)
    _, new = featurize(spark, pipeline, lake)
    assert new.hash != old.hash
    assert newest_spec(lake, pipeline.name) == new
    assert stored_vocabularies(lake) == {(VOCABULARIES, 1), (VOCABULARIES, 2)}
    done = {each.table: each for each in maintain(lake, 0, force=True)}
    assert done[VOCABULARIES].versions_kept == [1, 2]
    # The champion's spec goes on with its own words, on the rows that came since.
    ensure_features(spark, pipeline, lake, old, lake.table("clean").snapshot())
    after = examples.table(lake, old.table)
    assert after.height == 600
    names = ["id", *old.feature_columns]
    both = after.join(before, on="id", how="semi").sort("id")
    assert both.select(names).equals(before.select(names).sort("id"))


def test_a_word_with_half_of_the_rows_is_split_among_tasks(spark: SparkSession) -> None:
    """The plan that Spark ends with, at thresholds that a test can reach."""
    lower = {
        "spark.sql.autoBroadcastJoinThreshold": "-1",
        "spark.sql.adaptive.skewJoin.skewedPartitionThresholdInBytes": "20KB",
        "spark.sql.adaptive.skewJoin.skewedPartitionFactor": "1.5",
        "spark.sql.adaptive.advisoryPartitionSizeInBytes": "20KB",
    }
    before = {name: str(spark.conf.get(name)) for name in lower}
    rare = (F.col("id") % 500).cast("string")
    word = F.when(F.col("id") % 2 == 0, "most").when(F.col("id") % 3 > 0, rare)
    rows = spark.range(0, 60_000, 1, 4).select("id", word.alias("place"))
    words = spark.range(500).select(
        F.col("id").cast("string").alias("word"), (F.col("id") + 2).cast("int").alias("id")
    )
    stored = Stored(table="t", version=1, fit="f", feature="x", words=500, digest="")
    fitted = FittedCategory(column="place", stored=stored)
    try:
        for name, value in lower.items():
            spark.conf.set(name, value)
        joined = fitted.joined(rows, words)
        found = joined.select("id", *fitted.spark()).toArrow()
        joined.collect()
        plan = joined._jdf.queryExecution().executedPlan().toString()
    finally:
        for name, value in before.items():
            spark.conf.set(name, value)
    assert found.num_rows == 60_000
    assert "skew=true" in plan
    assert "Broadcast" not in plan
