from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.config import Label, Splits
from pipeline.errors import SpecError
from pipeline.features.spec import (
    Circle,
    FeatureSpec,
    HashedText,
    NumberSeries,
    Picture,
    PlainNumber,
    QuantileNumber,
    StandardNumber,
    Vocabulary,
)

finite = st.floats(allow_nan=False, allow_infinity=False)
names = st.text(min_size=1, max_size=8)
text = st.text(max_size=20)
numbers = st.one_of(
    st.builds(StandardNumber, column=names, indicator=st.booleans(), mean=finite, deviation=finite),
    st.builds(
        QuantileNumber,
        column=names,
        indicator=st.booleans(),
        boundaries=st.lists(finite, max_size=4).map(tuple),
    ),
    st.builds(PlainNumber, column=names, indicator=st.booleans()),
)
written = st.text(min_size=1, max_size=20)
labels = st.one_of(
    st.builds(Label, task=st.sampled_from(["binary", "regression"]), expression=written),
    st.builds(
        Label,
        task=st.just("multiclass"),
        expression=written,
        classes=st.lists(text, min_size=2, max_size=4, unique=True).map(tuple),
    ),
    st.builds(
        Label,
        task=st.just("multilabel"),
        expressions=st.dictionaries(st.sampled_from("abc"), written, min_size=1),
    ),
    st.just(Label(task="reconstruction")),
)
sides = st.integers(1, 99)
specs = st.builds(
    FeatureSpec,
    pipeline=names,
    keys=st.lists(names, max_size=3).map(tuple),
    period_column=names,
    label=labels,
    splits=st.builds(Splits, train=text, validation=text, test=text),
    leakage=st.lists(names, max_size=3).map(tuple),
    derive=st.dictionaries(names, text, max_size=3),
    numbers=st.lists(numbers, max_size=3).map(tuple),
    circles=st.lists(st.builds(Circle, column=names, period=finite), max_size=2).map(tuple),
    categories=st.lists(
        st.builds(Vocabulary, column=names, words=st.lists(text, max_size=4).map(tuple)), max_size=2
    ).map(tuple),
    images=st.lists(
        st.builds(
            Picture,
            column=names,
            shape=st.one_of(st.tuples(sides, sides), st.tuples(sides, sides, sides)),
            encoding=st.sampled_from(["raw", "png", "jpeg"]),
        ),
        max_size=1,
    ).map(tuple),
    tokens=st.lists(
        st.builds(HashedText, column=names, separator=text, buckets=sides, longest=sides),
        max_size=1,
    ).map(tuple),
    series=st.lists(st.builds(NumberSeries, column=names, longest=sides), max_size=1).map(tuple),
)


@given(specs)
def test_a_spec_read_back_is_the_same_and_has_the_same_hash(spec: FeatureSpec) -> None:
    again = FeatureSpec.from_json(spec.to_json())
    assert again == spec
    assert again.hash == spec.hash
    assert again.table == f"features/{spec.hash}"


@given(specs, specs)
def test_specs_with_one_hash_are_the_same(one: FeatureSpec, other: FeatureSpec) -> None:
    assert (one.hash == other.hash) == (one.to_json() == other.to_json())


@pytest.mark.parametrize(
    ("broken", "place"),
    [("", "whole"), ("{}", "pipeline"), ('{"format": 2}', "format"), ('{"code": "x"}', "pipeline")],
)
def test_what_is_no_spec_is_refused(broken: str, place: str) -> None:
    with pytest.raises(SpecError, match=f"feature spec, {place}"):
        FeatureSpec.from_json(broken)
