from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

from pipeline.cli import main
from pipeline.lake import Lake
from pipeline.training import stage
from pipeline.training.registry import Registry
from tests.training import examples

SPEC = examples.spec()


def lakestorm(*arguments: str) -> tuple[int, str]:
    done = CliRunner().invoke(main, arguments)
    return done.exit_code, done.output


def test_models_are_listed_and_one_is_made_champion(lake: Lake) -> None:
    examples.write_features(lake, SPEC, {"train": 200, "validation": 100, "test": 50})
    for rate in (0.02, 1e-6):  # the second learns nothing
        pipeline = examples.pipeline(lake, epochs=1, learning_rate=rate)
        stage.train(pipeline, lake, SPEC, features_for=lambda _spec: pytest.fail("not needed"))
    place = ("--lake", str(lake.root))
    code, told = lakestorm("models", "--json", *place)
    assert code == 0
    [worse, better] = json.loads(told)["small"]
    assert [worse["version"], better["version"]] == [2, 1]
    assert [worse["aliases"], better["aliases"]] == [[], ["champion"]]
    assert better["metrics"]["test"]["rows"] == 50
    assert lakestorm("promote", "small", "2", *place) == (
        0,
        "champion of small is version 2; it was version 1\n",
    )
    assert Registry(lake, "small").champion() == 2
    code, told = lakestorm("models", *place)
    assert code == 0
    assert "champion" in told
    code, told = lakestorm("promote", "small", "7", *place)
    assert code == 1
    assert "has no version or alias '7'; versions: 1, 2" in told
    assert Registry(lake, "small").champion() == 2


def test_a_lake_without_models_says_so(lake: Lake) -> None:
    code, told = lakestorm("models", "--lake", str(lake.root))
    assert (code, told.splitlines()[0][:25]) == (0, "No model is registered in")
