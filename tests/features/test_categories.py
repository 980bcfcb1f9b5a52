"""The kinds of categories and texts against plain Python and scikit-learn."""

from __future__ import annotations

import itertools
import re
import zlib
from collections import Counter, defaultdict
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.preprocessing import TargetEncoder

from pipeline.config import Features
from pipeline.features import fit as module
from pipeline.features.fit import fit
from pipeline.features.kinds import Id
from pipeline.features.kinds.categorical import FittedTarget
from pipeline.features.kinds.tokens import FittedTokenWords
from pipeline.features.kinds.units import WHITE_SPACES
from pipeline.features.prepared import SPLIT, TRAIN, prepared
from pipeline.features.spec import FeatureSpec
from pipeline.features.transform import features

SCHEMA = "id int, month int, word string, other string, y double, period string"


def row(number: int, **changes: Any) -> dict[str, Any]:
    given = {
        "id": number,
        "month": number % 4 + 1,
        "word": f"w{number % 7}",
        "other": ("x", None, "y|z")[number % 3],
        "y": float(number % 2),
        "period": "p",
    }
    return {**given, **changes}


def described(task: str = "binary", **sections: Any) -> Features:
    return Features.model_validate(
        {
            "keys": ["id"],
            "label": {"task": task, "name": "label", "expression": "y"},
            "splits": {"train": "month <= 2", "validation": "month = 3", "test": "month = 4"},
            "leakage": ["y"],
            **sections,
        }
    )


def frame(spark: SparkSession, rows: list[dict[str, Any]]) -> DataFrame:
    names = [part.split()[0] for part in SCHEMA.split(", ")]
    return spark.createDataFrame([tuple(each[name] for name in names) for each in rows], SCHEMA)


def made(
    spark: SparkSession, rows: list[dict[str, Any]], how: Features, parts: int | None = None
) -> tuple[FeatureSpec, dict[int, Any]]:
    """The spec, and the features by `id`."""
    clean = frame(spark, rows)
    clean = clean if parts is None else clean.repartition(parts, "word")
    whole = prepared(clean, how)
    spec = fit(whole.where(F.col(SPLIT) == TRAIN), how, "small", "period")
    return spec, {each["id"]: each for each in features(whole, spec).collect()}


def is_train(each: dict[str, Any]) -> bool:
    return bool(each["month"] <= 2)


def test_a_hashed_category_needs_no_fit(spark: SparkSession) -> None:
    words = ["a", "", "ß", "a|b", None, "\x00", "long " * 50]
    rows = [row(n, word=words[n % len(words)]) for n in range(40)]
    how = described(categorical={"word": {"encoding": "hash", "buckets": 11}})
    spec, got = made(spark, rows, how)
    assert spec.cardinalities == (11,)
    for each in rows:
        word = each["word"]
        wanted = 0 if word is None else 1 + zlib.crc32(word.encode()) % 10
        assert got[each["id"]]["cat_word"] == wanted
    (column,) = spec.columns_of(Id)
    assert (column.missing, column.unknown) == (0, None)


def test_a_frequency_is_the_share_of_the_train_rows(spark: SparkSession) -> None:
    rows = [row(n, word=("a", "a", "b", None, "rare")[n % 5]) for n in range(200)]
    rows += [row(1001, month=3, word="never seen")]
    rows[4]["word"] = "rarest"
    how = described(categorical={"word": {"encoding": "frequency", "minimum_count": 2}})
    spec, got = made(spark, rows, how)
    train = Counter(each["word"] for each in rows if is_train(each))
    kept = {word: count for word, count in train.items() if count >= 2}
    for each in rows:
        wanted = np.float32(kept.get(each["word"], 0) / sum(train.values()))
        assert got[each["id"]]["freq_word"] == wanted
    assert got[1001]["freq_word"] == got[4]["freq_word"] == 0 < kept[None]
    assert spec.categorical_columns == ()


def folds_of(spark: SparkSession, rows: list[dict[str, Any]], folds: int) -> dict[int, int]:
    ids = frame(spark, rows).select("id", F.expr(f"pmod(xxhash64(id), {folds})").alias("fold"))
    return {each["id"]: each["fold"] for each in ids.collect()}


def unscaled(spec: FeatureSpec, value: float) -> float:
    (part,) = spec.parts
    assert isinstance(part, FittedTarget)
    return value * part.deviation + part.mean


@pytest.mark.parametrize("task", ["binary", "regression"])
def test_a_target_is_the_smoothed_mean_without_the_rows_own_fold(
    spark: SparkSession, task: str
) -> None:
    random = np.random.default_rng(3)
    labels = random.integers(0, 2, 300) if task == "binary" else random.normal(1000, 50, 300)
    rows = [
        row(n, word=(None if n % 29 == 0 else f"w{n % 13 % 5}"), y=float(y))
        for n, y in enumerate(labels)
    ]
    rows += [row(2000, month=3, word="never seen"), row(2001, month=1, word=None, y=1.0)]
    section = {"word": {"encoding": "target", "minimum_count": 1, "smoothing": 7.5, "folds": 4}}
    spec, got = made(spark, rows, described(task, categorical=section))
    fold = folds_of(spark, rows, 4)
    train = [each for each in rows if is_train(each)]

    def oracle(word: str | None, seen: list[dict[str, Any]]) -> float:
        prior = float(np.mean([np.float32(each["y"]) for each in seen]))
        own = [float(np.float32(each["y"])) for each in seen if each["word"] == word]
        return prior if word is None else (sum(own) + 7.5 * prior) / (len(own) + 7.5)

    for each in rows:
        without = [t for t in train if fold[t["id"]] != fold[each["id"]]]
        wanted = oracle(each["word"], without if is_train(each) else train)
        found = unscaled(spec, got[each["id"]]["target_word"])
        assert found == pytest.approx(wanted, rel=1e-5), each
    # Of the whole split, scikit-learn's own encoder says the same.
    words = np.array([[t["word"]] for t in train if t["word"]])
    encoder = TargetEncoder(smooth=7.5, target_type={"regression": "continuous"}.get(task, task))
    encoder.fit(words, np.array([t["y"] for t in train if t["word"]]))
    known = [t["y"] for t in train if t["word"]]
    missing = [t["y"] for t in train if not t["word"]]
    ours = {
        each["word"]: unscaled(spec, got[each["id"]]["target_word"])
        for each in rows
        if not is_train(each) and each["word"] and each["id"] != 2000
    }
    counts = Counter(words[:, 0].tolist())
    shift = float(np.mean(known + missing) - np.mean(known))
    for word, theirs in zip(encoder.categories_[0], encoder.encodings_[0], strict=True):
        # Theirs has the mean of the rows that have a word as the prior; ours that of all rows.
        prior_share = 7.5 / (counts[word] + 7.5)
        assert ours[word] == pytest.approx(theirs + prior_share * shift, rel=1e-4)


def test_no_own_label_enters_a_train_rows_encoding(spark: SparkSession) -> None:
    """A change of one label changes the encodings of other folds, never that of its own row."""
    rows = [row(n, word=f"w{n % 3}") for n in range(60)]
    section = {"word": {"encoding": "target", "minimum_count": 1, "smoothing": 1.0}}
    how = described(categorical=section)
    one, before = made(spark, rows, how)
    changed = next(each for each in rows if is_train(each))
    other_rows = [{**r, "y": 1 - r["y"]} if r is changed else r for r in rows]
    other, after = made(spark, other_rows, how)
    fold = folds_of(spark, rows, 5)
    for each in filter(is_train, rows):
        values = [
            unscaled(s, g[each["id"]]["target_word"]) for s, g in ((one, before), (other, after))
        ]
        same_fold = fold[each["id"]] == fold[changed["id"]]
        assert (values[0] == pytest.approx(values[1], abs=1e-6)) == same_fold, each


def test_a_random_category_of_many_values_tells_nothing_of_the_label(spark: SparkSession) -> None:
    random = np.random.default_rng(5)
    labels = random.integers(0, 2, 4000)
    words = random.integers(0, 1000, 4000)
    rows = [
        row(n, month=1, word=str(w), y=float(y))
        for n, (w, y) in enumerate(zip(words, labels, strict=True))
    ]
    section = {"word": {"encoding": "target", "minimum_count": 1, "smoothing": 1.0}}
    _, got = made(spark, rows, described(categorical=section))
    encoded = np.array([got[n]["target_word"] for n in range(4000)])
    by_word: dict[int, list[int]] = defaultdict(list)
    for word, label in zip(words, labels, strict=True):
        by_word[word].append(label)
    naive = np.array([(sum(by_word[w]) + 0.5) / (len(by_word[w]) + 1) for w in words])
    # Three standard errors of a correlation by chance are 3 / sqrt(4000) = 0.047.
    assert np.corrcoef(naive, labels)[0, 1] > 0.4
    assert np.corrcoef(encoded, labels)[0, 1] < 0.047


def test_a_target_needs_a_label_that_is_one_number() -> None:
    section = {"word": {"encoding": "target"}}
    with pytest.raises(ValidationError, match=r"categorical\.word: encoding target needs a label"):
        Features.model_validate(
            {
                **described(numeric={"id": {}}).model_dump(mode="json"),
                "label": {"task": "multiclass", "expression": "y", "classes": ["0", "1"]},
                "categorical": section,
            }
        )


@pytest.mark.parametrize(
    ("section", "wrong", "told"),
    [
        ("categorical", {"word": {"encoding": "hash", "minimum_count": 2}}, "minimum_count says"),
        ("categorical", {"word": {"buckets": 9}}, "buckets says nothing to the encoding vocab"),
        ("crosses", {"c": {"columns": ["word"]}}, "at least 2"),
        ("crosses", {"c": {"columns": ["word", "word"]}}, "names a column twice"),
        ("crosses", {"c": {"columns": ["a", "b"], "buckets": 9, "minimum_count": 2}}, "leave one"),
        ("tokens", {"word": {"ngrams": [2, 4]}}, "ngrams says nothing to the units words"),
        ("tokens", {"word": {"largest": 4}}, "largest says nothing to the encoding hash"),
        ("tokens", {"word": {"units": "characters", "ngrams": [4, 2]}}, r"\[4, 2\] is no range"),
    ],
)
def test_settings_that_say_nothing_are_refused(
    section: str, wrong: dict[str, Any], told: str
) -> None:
    with pytest.raises(ValidationError, match=told):
        described("binary", **{section: wrong})


def test_new_settings_leave_old_fingerprints_alone() -> None:
    how = described(categorical={"word": {}}, tokens={"other": {}})
    assert how.model_dump(mode="json")["categorical"]["word"] == {"minimum_count": 20}
    assert set(how.model_dump(mode="json")["tokens"]["other"]) == {
        "separator",
        "buckets",
        "longest",
    }
    assert "crosses" not in how.model_dump(mode="json")


nasty = st.none() | st.text(st.sampled_from(["a", "|", "\\", "N"]), max_size=3)


def text_of(values: tuple[str | None, ...]) -> str | None:
    if all(value is None for value in values):
        return None
    spelled = (re.sub(r"([\\|])", r"\\\1", v) if v is not None else r"\N" for v in values)
    return "|".join(spelled)


def test_different_pairs_have_different_texts() -> None:
    texts = ["".join(t) for n in range(4) for t in itertools.product("a|\\N", repeat=n)]
    pairs = list(itertools.product([None, *texts[:40]], repeat=2))
    assert len({text_of(pair) for pair in pairs}) == len(pairs)


@settings(
    max_examples=3,
    deadline=None,
    derandomize=True,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=[HealthCheck.too_slow],
)
@given(pairs=st.lists(st.tuples(nasty, nasty), min_size=30, max_size=60))
def test_a_cross_is_the_category_of_the_pair(
    spark: SparkSession, pairs: list[tuple[str | None, str | None]]
) -> None:
    pairs = [*pairs, ("a", "b|c"), ("a|b", "c"), (None, None), ("\\N", "a"), (None, "a")] * 2
    rows = [row(n, month=1, word=a, other=b) for n, (a, b) in enumerate(pairs)]
    how = described(
        crosses={
            "hashed": {"columns": ["word", "other"], "buckets": 100},
            "known": {"columns": ["word", "other"], "minimum_count": 2},
        }
    )
    spec, got = made(spark, rows, how)
    texts = {n: text_of(pair) for n, pair in enumerate(pairs)}
    counts = Counter(text for text in texts.values() if text is not None)
    known = sorted(text for text, count in counts.items() if count >= 2)
    assert spec.cardinalities == (100, 2 + len(known))
    for n, text in texts.items():
        hashed = 0 if text is None else 1 + zlib.crc32(text.encode()) % 99
        place = 0 if text is None else known.index(text) + 2 if text in known else 1
        assert (got[n]["cross_hashed"], got[n]["cross_known"]) == (hashed, place), pairs[n]


TEXTS = [
    "The quick  brown fox",
    "the QUICK dog,\t\n the dog",
    "",
    None,
    "a",
    "ab",
    "Ünïcödé \u2003 spaces \U0001f600!",
    "the fox the fox",
]


@pytest.mark.parametrize("largest", [4, 1000])
@pytest.mark.parametrize("units", ["words", "characters"])
def test_a_vocabulary_of_a_text_is_that_of_scikit_learn(
    spark: SparkSession, units: str, largest: int
) -> None:
    rows = [row(n, word=TEXTS[n % len(TEXTS)]) for n in range(40)]
    rows += [row(3000, month=4, word="never met QUICK")]
    own = {"units": "characters", "ngrams": [1, 3]} if units == "characters" else {}
    section = {"word": {"encoding": "vocabulary", "minimum_count": 1, "largest": largest, **own}}
    spec, got = made(spark, rows, described(tokens=section))
    how: dict[str, Any] = {"token_pattern": r"(?u)[^\W_]+"}
    if own:
        how = {"analyzer": "char", "ngram_range": (1, 3)}
    vectors = CountVectorizer(max_features=largest, **how)
    counts = vectors.fit_transform([r["word"] or "" for r in rows if is_train(r)]).toarray()
    names = vectors.get_feature_names_out().tolist()
    (part,) = spec.parts
    assert isinstance(part, FittedTokenWords)
    found = list(part.words)
    assert found == sorted(found)
    if largest == 1000:
        assert found == names
    else:
        # Of equally frequent words scikit-learn takes any, lakestorm the first by word.
        whole = CountVectorizer(**how)
        totals = whole.fit_transform([r["word"] or "" for r in rows if is_train(r)]).sum(axis=0)
        by_word = dict(zip(whole.get_feature_names_out(), totals.A1.tolist(), strict=True))
        assert found == sorted(sorted(by_word, key=lambda w: (-by_word[w], w))[:4])
        assert len(counts[0]) == 4
    analyze = vectors.build_analyzer()
    for each in rows:
        wanted = [found.index(w) + 2 if w in found else 1 for w in analyze(each["word"] or "")]
        assert got[each["id"]]["tokens_word"] == wanted, each["word"]


def test_runs_of_characters_are_hashed_and_cut(spark: SparkSession) -> None:
    rows = [row(n, word=TEXTS[n % len(TEXTS)]) for n in range(len(TEXTS))]
    section = {"word": {"units": "characters", "ngrams": [2, 4], "longest": 9, "buckets": 50}}
    _, got = made(spark, rows, described(tokens=section))
    analyze = CountVectorizer(analyzer="char", ngram_range=(2, 4)).build_analyzer()
    for each in rows:
        runs = analyze(each["word"] or "")[:9]
        wanted = [1 + zlib.crc32(run.encode()) % 49 for run in runs]
        assert got[each["id"]]["tokens_word"] == wanted, each["word"]


def test_white_spaces_are_those_of_python() -> None:
    ours = re.compile(WHITE_SPACES.removesuffix("{2,}"))
    for code in range(0x110000):
        assert bool(ours.match(chr(code))) == bool(re.match(r"\s", chr(code))), hex(code)


def test_the_spec_does_not_depend_on_the_partitions(spark: SparkSession) -> None:
    random = np.random.default_rng(7)
    rows = [row(n, word=f"w{n % 37}", y=float(v)) for n, v in enumerate(random.normal(0, 1e6, 600))]
    how = described(
        "regression",
        categorical={"word": {"encoding": "target", "minimum_count": 2}},
        tokens={"other": {"encoding": "vocabulary", "minimum_count": 1, "largest": 2}},
        crosses={"both": {"columns": ["word", "other"], "minimum_count": 3}},
    )
    one, _ = made(spark, rows, how)
    for parts in (1, 5):
        assert made(spark, rows[::-1], how, parts)[0].hash == one.hash


def test_a_fit_reads_the_train_rows_once(
    spark: SparkSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many features ask for words: the rows read are counted by an accumulator."""
    monkeypatch.setattr(module, "INLINE_WORDS", 100)
    seen = spark.sparkContext.accumulator(0)

    def count(pieces: Any) -> Any:
        for piece in pieces:
            seen.add(piece.num_rows)
            yield piece

    how = described(
        numeric={"id": {}},
        categorical={
            "word": {"encoding": "target", "minimum_count": 1},
            "other": {"minimum_count": 1},
        },
        crosses={"both": {"columns": ["word", "other"], "minimum_count": 1}},
    )
    clean = frame(spark, [row(n) for n in range(200)]).mapInArrow(count, SCHEMA)
    fit(prepared(clean, how).where(F.col(SPLIT) == TRAIN), how, "small", "period")
    assert seen.value == 200
