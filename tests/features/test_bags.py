"""Bags against plain Python: hashed by CRC-32, or by the words of enough train rows."""

from __future__ import annotations

import zlib
from collections import Counter
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from pydantic import ValidationError
from pyspark.sql import SparkSession

from pipeline.config import Cnn, Mlp, Rnn, Vae
from pipeline.errors import SpecError
from pipeline.features.kinds import Bag, FeatureColumn
from pipeline.features.kinds.bags import FittedBag
from pipeline.training.histograms import Tally, input_columns
from pipeline.training.splits import shapes_of
from tests.features.one_kind import described, is_train, made, spec_of, table

DRAWN = np.random.default_rng(7)
WORDS = ["milk", "egg", "", "Brot", "é", "日本", "rare", None]
ITEMS: list[Any] = [
    [WORDS[place] for place in DRAWN.integers(0, len(WORDS), DRAWN.integers(0, 9))]
    for _ in range(60)
]
ITEMS[3:5] = [None, [None]]
STRINGS = pa.list_(pa.string())


def first_distinct(ids: list[int], longest: int) -> list[int]:
    found: list[int] = []
    for id_ in ids:
        if id_ not in found:
            found.append(id_)
    return found[:longest]


def test_elements_are_hashed(spark: SparkSession) -> None:
    how = {"buckets": 6, "longest": 3}
    spec, found = made(spark, table(STRINGS, ITEMS), bags={"x": how})
    for items, ids in zip(ITEMS, found["bag_x"], strict=True):
        hashed = [1 + zlib.crc32(each.encode()) % 5 for each in items or [] if each is not None]
        assert ids == first_distinct(hashed, 3)
    (column,) = spec.columns_of(Bag)
    assert (column.ids, column.longest, column.ordered) == (6, 3, False)
    (name,) = shapes_of(spec).bags
    assert name == "bag"
    tally = Tally(input_columns(spec), spec.imputed_columns)
    lengths = torch.tensor([len(ids) for ids in found["bag_x"]])
    bits = torch.tensor([int(items is None) for items in ITEMS])
    tally.add({"lengths": lengths, "_missing_0": bits}, len(ITEMS))
    counted = tally.histograms()
    assert counted.bins["bag_x"] == dict(sorted(Counter(lengths.tolist()).items()))
    assert counted.missing == {"x": 1}


def test_a_vocabulary_holds_what_enough_train_rows_have(spark: SparkSession) -> None:
    numbers = [
        None if items is None else [None if each is None else len(each) for each in items]
        for items in ITEMS
    ]
    # In rows, not occurrences: a row with an element twice counts once.
    rows = Counter(
        str(each)
        for place, items in enumerate(numbers)
        if is_train(place)
        for each in {*(items or [])} - {None}
    )
    minimum = sorted(rows.values())[len(rows) // 2]
    clean = table(pa.list_(pa.int32()), numbers)
    # Beside another vocabulary, which is counted in the same pass.
    sections = {
        "bags": {"x": {"minimum_count": minimum}},
        "categorical": {"period": {"minimum_count": 1}},
    }
    spec, found = made(spark, clean, **sections)
    assert spec.parts[0].word(2) == "p"
    part = next(part for part in spec.parts if isinstance(part, FittedBag))
    words = tuple(sorted(word for word, count in rows.items() if count >= minimum))
    assert part.words == words
    assert 0 < len(words) < len(rows)
    for items, ids in zip(numbers, found["bag_x"], strict=True):
        known = [str(each) for each in items or [] if each is not None]
        places = [words.index(each) + 2 if each in words else 1 for each in known]
        assert ids == first_distinct(places, 64)
    assert spec.columns_of(Bag)[0].ids == len(words) + 2
    hashes = {spec_of(spark, clean, parts, **sections).hash for parts in (1, 3)}
    assert hashes == {spec.hash}


def test_an_empty_vocabulary_knows_nothing(spark: SparkSession) -> None:
    _, found = made(spark, table(STRINGS, ITEMS), bags={"x": {"minimum_count": 1000}})
    assert found["bag_x"] == [
        [1] if any(each is not None for each in items or []) else [] for items in ITEMS
    ]


def test_both_settings_are_refused() -> None:
    with pytest.raises(ValidationError, match="set either buckets or minimum_count"):
        described(bags={"x": {"buckets": 9, "minimum_count": 3}})


def test_a_list_of_floats_is_no_bag(spark: SparkSession) -> None:
    with pytest.raises(SpecError, match="a bag is to be an array of strings or whole numbers"):
        spec_of(spark, table(pa.list_(pa.float64()), [[1.0]] * 3), bags={"x": {}})


def test_bags_are_no_ordered_sequences() -> None:
    how = described(bags={"x": {}, "y": {}}, series={"z": {}})
    forms = Counter(form for _, _, each in how.asked() for form in each.forms)
    assert Rnn(family="rnn").refusal(forms) is None
    assert Mlp().refusal(forms) == "reads no sequence; choose rnn"
    bags: dict[type[FeatureColumn], int] = {Bag: 2}
    assert Mlp().refusal(bags) is None
    assert Cnn(family="cnn").refusal(bags) == "needs an image; name one under features.images"
    assert Rnn(family="rnn").refusal(bags) == "needs a sequence: features.tokens, .series or .audio"
    assert Vae(family="vae").refusal(bags) == "rebuilds numbers or an image, no bags"
