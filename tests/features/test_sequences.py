from __future__ import annotations

import hashlib
import math
import re
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from pyspark.sql import DataFrame, SparkSession

from pipeline.config import Features, Pipeline, load_pipeline
from pipeline.errors import ConfigError, LeakageError, SpecError
from pipeline.features.fit import fit
from pipeline.features.kinds import Sequence
from pipeline.features.prepared import prepared
from pipeline.features.spec import FeatureSpec
from pipeline.features.transform import features
from tests.features import examples

PIPELINES = Path(__file__).parents[2] / "conf" / "pipelines"


def described(**changes: Any) -> Features:
    """Nothing to fit at all."""
    return examples.described(numeric={}, categorical={}, cyclic={}, **changes)


def made(clean: DataFrame, how: Features) -> tuple[FeatureSpec, dict[int, dict[str, Any]]]:
    rows = prepared(clean, how)
    spec = fit(rows, how, "small", "period")
    return spec, {row["id"]: row.asDict() for row in features(rows, spec).collect()}


def ids_of(text: str, buckets: int, longest: int) -> list[int]:
    """Tokens by Python: words of ASCII letters and digits."""
    words = re.findall(r"[a-z0-9]+", text.lower(), re.ASCII)[:longest]
    return [1 + zlib.crc32(word.encode()) % (buckets - 1) for word in words]


@settings(
    max_examples=2,
    deadline=None,
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
    suppress_health_check=[HealthCheck.too_slow],
)
@given(
    texts=st.lists(st.text(st.sampled_from("abzAZ09 .,-\n\t'€日"), max_size=40), max_size=60),
    buckets=st.integers(2, 1000),
    longest=st.integers(1, 8),
)
def test_tokens_are_the_hashed_words_of_the_text(
    spark: SparkSession, texts: list[str], buckets: int, longest: int
) -> None:
    asked = [*texts, None, "", " . ", "One one ONE", "a" * 300, "x " * 20]
    raw = [
        examples.clean_row(number, month=1, delay=1.0, place=text)
        for number, text in enumerate(asked)
    ]
    how = described(
        tokens={"place": {"buckets": buckets, "longest": longest, "separator": "[^A-Za-z0-9]+"}}
    )
    spec, rows = made(examples.frame(spark, raw), how)
    (tokens,) = spec.columns_of(Sequence)
    assert (tokens.name, tokens.ids) == ("tokens_place", buckets)
    for number, text in enumerate(asked):
        wanted = [] if text is None else ids_of(text, buckets, longest)
        assert rows[number]["tokens_place"] == wanted
        assert all(0 < token < buckets for token in wanted)


def test_words_are_of_any_script_by_default(spark: SparkSession) -> None:
    raw = [examples.clean_row(0, month=1, place="Über_日本 x²—ÉTÉ 7")]
    _, rows = made(examples.frame(spark, raw), described(tokens={"place": {}}))
    words = ["über", "日本", "x²", "été", "7"]
    assert rows[0]["tokens_place"] == [1 + zlib.crc32(w.encode()) % 32_767 for w in words]


def test_a_series_is_its_newest_values(spark: SparkSession) -> None:
    readings: list[list[float | None] | None] = [
        None,
        [],
        [1.5],
        [1.0, 2.0, 3.0, 4.0],
        [9.0, None, math.nan, math.inf, -math.inf, 1e300, -0.1],
        [None] * 9,
    ]
    raw = [(number, 1, 0.0, reading, "2013") for number, reading in enumerate(readings)]
    clean = spark.createDataFrame(
        raw, "id int, month int, delay double, reading array<double>, period string"
    )
    for longest in (1, 4):
        how = described(
            derive={"whole": "transform(reading, x -> int(try_cast(x AS int)))"},
            label={"name": "late", "expression": "delay > 15"},
            series={"reading": {"longest": longest}},
        )
        spec, rows = made(clean, how)
        assert [c.name for c in spec.columns_of(Sequence)] == ["series_reading"]
        for number, reading in enumerate(readings):
            held = [
                x if x is not None and math.isfinite(x) and abs(x) < 1e38 else 0.0
                for x in (reading or [])
            ]
            assert rows[number]["series_reading"] == [np.float32(x) for x in held[-longest:]]
    _, rows = made(clean, described(
        derive={"whole": "transform(reading, x -> try_cast(x AS int))"},
        label={"name": "late", "expression": "delay > 15"},
        series={"whole": {}},
    ))  # fmt: skip
    assert rows[3]["series_whole"] == [1, 2, 3, 4]


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"tokens": {"amount": {}}}, "column amount: is double, and tokens are made of a string"),
        ({"series": {"amount": {}}}, "amount: is double, and a series is to be an array of num"),
        (
            {"derive": {"x": "split(place, ',')"}, "series": {"x": {}}},
            "column x: is array<string>, and a series is to be an array of numbers",
        ),
        (
            {"images": {"place": {"shape": [2, 2]}}},
            "column place: is string, and an image is to be binary",
        ),
        (
            {"tokens": {"place": {"separator": "[a"}}},
            r"^features\.tokens\.place\.separator: '\[a' is no regular expression: Unclosed",
        ),
    ],
)
def test_a_column_of_a_wrong_type_is_refused(
    spark: SparkSession, changes: dict[str, Any], told: str
) -> None:
    with pytest.raises(SpecError, match=told):
        made(examples.frame(spark, []), described(**changes))


@pytest.mark.parametrize("section", ["tokens", "series", "images"])
def test_leakage_is_no_text_no_series_and_no_image(spark: SparkSession, section: str) -> None:
    settings = {"shape": [2, 2]} if section == "images" else {}
    with pytest.raises(ValueError, match=rf"{section}\.delay is listed under leakage"):
        described(**{section: {"delay": settings}})
    how = described(derive={"x": "string(delay)"}, **{section: {"x": settings}})
    with pytest.raises(LeakageError, match="uses a column listed under"):
        prepared(examples.frame(spark, []), how)


def mail(subject: str, body: str, group: str = "easy-ham-1") -> tuple[str, str, bytes, str]:
    head = f"From a@b.org  Thu Aug 22\nReceived: from spamtrap.example\nSubject: {subject}\nTo: c"
    raw = f"{head}\n\n{body}".encode("latin-1")
    return group, f"{hashlib.sha256(raw).hexdigest()[:8]}.txt", raw, "corpus"


def spam() -> Pipeline:
    return load_pipeline(PIPELINES / "spam.yaml")


def test_a_mail_is_its_subject_and_its_body_without_tags(spark: SparkSession) -> None:
    long = mail("Re: a long\n subject", "<p class='x'>Caf\xe9</p>\n\nSubject: no")
    crlf = ("spam-2", "crlf.txt", long[2].replace(b"\n", b"\r\n"), "corpus")
    bare = ("spam-1", "bare.txt", b"Subject: only a header", "corpus")
    mails = [long, crlf, bare, mail("", "Buy <b>now</b>!", "spam-1")]
    mails += [mail("copies", "of one mail", group) for group in ("spam-1", "hard-ham-1")]
    clean = spark.createDataFrame(mails, "group string, file string, raw binary, period string")
    how = spam().features
    rows = prepared(clean, how)
    spec = fit(rows, how.model_copy(update={"splits": how.splits}), "spam", "period")
    texts = {row["file"]: row["text"].split() for row in rows.collect()}
    wanted = ["Re:", "a", "long", "subject", "Café", "Subject:", "no"]
    assert texts[long[1]] == texts["crlf.txt"] == wanted
    assert texts["bare.txt"] == ["only", "a", "header"]
    got = features(rows, spec).collect()
    assert [row["spam"] for row in got] == [group.startswith("spam") for group, *_ in mails]
    assert got[3]["tokens_text"] == [1 + zlib.crc32(w) % 32_767 for w in (b"buy", b"now")]
    tenth = zlib.crc32(b"copies of one mail") % 10
    split = "train" if tenth < 8 else "validation" if tenth == 8 else "test"
    assert [row["split"] for row in got[4:]] == [split] * 2


def test_tokens_need_an_id_beside_the_padding() -> None:
    with pytest.raises(ConfigError, match=r"features\.tokens\.text\.buckets"):
        load_pipeline(PIPELINES / "spam.yaml", ["features.tokens.text.buckets=1"])
