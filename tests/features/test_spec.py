from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.config import Label, Splits
from pipeline.errors import SpecError
from pipeline.features.kinds.categorical import FittedCategory
from pipeline.features.kinds.cyclic import FittedCyclic
from pipeline.features.kinds.images import FittedImage
from pipeline.features.kinds.numeric import FittedNumber
from pipeline.features.kinds.scales import Plain, Quantile, Standard, Steps
from pipeline.features.kinds.series import FittedSeries
from pipeline.features.kinds.tokens import FittedTokens
from pipeline.features.spec import FeatureSpec

finite = st.floats(allow_nan=False, allow_infinity=False)
names = st.text(min_size=1, max_size=8)
text = st.text(max_size=20)
finites = st.lists(finite, min_size=1, max_size=4).map(tuple)
scales = st.one_of(
    st.builds(Standard, mean=finite, deviation=finite),
    st.builds(Steps, boundaries=finites),
    st.builds(Quantile, points=finites, places=finites),
    st.builds(Plain),
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
parts = st.one_of(
    st.builds(
        FittedNumber,
        column=names,
        indicator=st.booleans(),
        fill=st.none() | finite,
        scale=scales,
    ),
    st.builds(FittedCyclic, column=names, period=finite),
    st.builds(FittedCategory, column=names, words=st.lists(text, max_size=4).map(tuple)),
    st.builds(
        FittedImage,
        column=names,
        shape=st.one_of(st.tuples(sides, sides), st.tuples(sides, sides, sides)),
        encoding=st.sampled_from(["raw", "png", "jpeg"]),
    ),
    st.builds(FittedTokens, column=names, separator=text, buckets=sides, longest=sides),
    st.builds(FittedSeries, column=names, longest=sides),
)
specs = st.builds(
    FeatureSpec,
    pipeline=names,
    keys=st.lists(names, max_size=3).map(tuple),
    period_column=names,
    label=labels,
    splits=st.builds(Splits, train=text, validation=text, test=text),
    leakage=st.lists(names, max_size=3).map(tuple),
    derive=st.dictionaries(names, text, max_size=3),
    parts=st.lists(parts, max_size=6).map(tuple),
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
    [("", "whole"), ("{}", "pipeline"), ('{"format": 3}', "format"), ('{"code": "x"}', "pipeline")],
)
def test_what_is_no_spec_is_refused(broken: str, place: str) -> None:
    with pytest.raises(SpecError, match=f"feature spec, {place}"):
        FeatureSpec.from_json(broken)
