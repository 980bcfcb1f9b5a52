"""What every family of networks promises the rest of the system, asked of each in `FAMILIES`."""

from __future__ import annotations

import ast
import importlib
import json
import subprocess
import sys
from collections import Counter
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from pydantic import TypeAdapter
from torch import Tensor, nn

from pipeline.config import Train
from pipeline.errors import ModelError
from pipeline.training import networks
from pipeline.training.networks import (
    DEFAULT_FAMILY,
    FAMILIES,
    Architecture,
    Family,
    Input,
    Model,
    NetworkModule,
    Shapes,
    add_export,
    architecture_of,
    build,
    example_inputs,
    folded,
)
from pipeline.training.tasks import TASKS

ROOT = Path(__file__).parents[3]
OUTPUTS = 3


class Own(nn.Module):
    """A user's own network: the sum of all numbers, through a linear layer."""

    def __init__(self, shapes: Shapes, outputs: int, scale: float) -> None:
        super().__init__()
        self.names = (*shapes.named, *(["numeric"] * bool(shapes.numeric)))
        self.layer = nn.Linear(1, outputs)
        self.scale = scale

    def forward(self, inputs: dict[str, Tensor]) -> Tensor:
        sums = [inputs[each].flatten(1).float().sum(1) for each in self.names]
        total = torch.stack(sums).sum(0).unsqueeze(1)
        outputs: Tensor = self.layer(total * self.scale)
        return outputs


OWN = f"{__name__}:Own"
BAG = Input(form="sequence", ids=7, ordered=False)
TEXT = Input(form="sequence", ids=9)
FRONT = Input(form="image", shape=(9, 8, 3))

SETTINGS: dict[str, dict[str, Any]] = {
    "mlp": {"hidden": [6]},
    "cnn": {"channels": [3], "hidden": [4]},
    "rnn": {"units": 4, "token_dimension": 3},
    "vae": {"hidden": [7], "latent": 2},
    "custom": {"custom": OWN, "settings": {"scale": 0.5}},
}
"""Small ones of each family; a new one must stand here."""

SHAPES = {
    "numbers": Shapes(numeric=4),
    "numbers, ids": Shapes(numeric=2, cardinalities=(5, 30)),
    "ids, bag, vector": Shapes(
        cardinalities=(5,), others={"bag": BAG, "vector": Input(form="vector", shape=(3,))}
    ),
    "bag": Shapes(others={"bag": BAG}),
    "image": Shapes(image=(9, 8)),
    "colour": Shapes(image=(9, 8, 3)),
    "numbers, image": Shapes(numeric=2, image=(9, 8)),
    "two images": Shapes(others={"image_front": FRONT, "image_back": FRONT}),
    "tokens": Shapes(numeric=2, token_ids=11),
    "series": Shapes(series=True),
    "audio, bag": Shapes(others={"audio": Input(form="sequence", shape=(5,)), "bag": BAG}),
    "two texts": Shapes(others={"tokens_a": TEXT, "tokens_b": TEXT}),
    "image, tokens": Shapes(image=(9, 8), token_ids=11),
}
FLAT = {"numbers", "numbers, ids", "ids, bag, vector", "bag"}
ONE_IMAGE = {"image", "colour", "numbers, image"}
READS = {
    "mlp": FLAT | ONE_IMAGE,
    "cnn": ONE_IMAGE,
    "rnn": {"tokens", "series", "audio, bag"},
    "vae": {"numbers", "image", "colour"},
    "custom": set(SHAPES),
}
REBUILDS = {"vae": {"reconstruction"}, "custom": {*TASKS}}
"""Families that learn other tasks than all but the reconstruction."""

each = pytest.mark.parametrize("name", FAMILIES)
accepted = pytest.mark.parametrize(
    ("name", "shapes"), [(name, shapes) for name in READS for shapes in sorted(READS[name])]
)


def settings_of(name: str) -> Family:
    found = TypeAdapter(Model).validate_python({"family": name, **SETTINGS[name]})
    assert type(found) is FAMILIES[name]
    return found


def architecture(name: str, shapes: str) -> Architecture:
    return architecture_of(settings_of(name), SHAPES[shapes], OUTPUTS)


def built(name: str, shapes: str, seed: int = 0) -> nn.Module:
    return build(architecture(name, shapes), seed, settings_of(name).user_class)


def bits(module: nn.Module) -> dict[str, bytes]:
    return {key: value.numpy().tobytes() for key, value in module.state_dict().items()}


def test_the_table_has_each_family_by_the_name_of_its_folder() -> None:
    assert SETTINGS.keys() == READS.keys() == FAMILIES.keys()
    folder = ROOT / "pipeline" / "training" / "networks"
    assert {path.parent.name for path in folder.glob("*/__init__.py")} == FAMILIES.keys()
    for name, family in FAMILIES.items():
        assert family.__module__ == f"pipeline.training.networks.{name}"
        assert callable(importlib.import_module(f"{family.__module__}.module").NETWORK)
    # A section without a family is of the first.
    assert TypeAdapter(Model).validate_python({}) == DEFAULT_FAMILY == Train().model


@accepted
def test_a_network_is_built_by_its_seed_and_maps_rows_to_outputs(name: str, shapes: str) -> None:
    described = architecture(name, shapes)
    before = torch.random.get_rng_state()
    module = built(name, shapes)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert bits(module) == bits(built(name, shapes))
    assert bits(module) != bits(built(name, shapes, seed=1))
    assert module.training
    assert all(weight.dtype == torch.float32 for weight in module.parameters())
    for rows in (5, 0):
        for longest in (4, 0):
            outputs = module.eval()(example_inputs(SHAPES[shapes], rows, longest))
            assert outputs.shape == (rows, described.outputs)
            assert torch.isfinite(outputs).all()
    assert (described.outputs == OUTPUTS) == (REBUILDS.get(name) != {"reconstruction"})


@accepted
def test_an_architecture_survives_json_and_names_no_code(name: str, shapes: str) -> None:
    described = architecture(name, shapes)
    text = json.dumps(described.to_dict())
    again = Architecture.from_dict(json.loads(text))
    assert again == described
    assert json.dumps(again.to_dict()) == text
    assert again.family == name
    assert OWN not in text
    users = settings_of(name).user_class is not None
    assert (again.settings.user_class is not None) == users
    if users:
        with pytest.raises(ModelError, match="do not say which"):
            build(again)
    assert bits(build(again, 3, settings_of(name).user_class)) == bits(built(name, shapes, 3))


@each
def test_what_a_family_does_not_read_is_refused_by_the_description_and_by_files(name: str) -> None:
    [good] = sorted(READS[name])[:1]
    for shapes, given in SHAPES.items():
        refusal = settings_of(name).refusal(Counter(given.forms))
        assert (refusal is None) == (shapes in READS[name])
        if refusal is not None:
            with pytest.raises(ModelError, match=f"are none that {name} reads"):
                architecture(name, shapes)
            file = {**architecture(name, good).to_dict(), "shapes": given.model_dump(mode="json")}
            with pytest.raises(ModelError, match=f"are none that {name} reads"):
                Architecture.from_dict(file)


@each
def test_a_family_learns_the_tasks_that_its_outputs_are_for(name: str) -> None:
    usual = {*TASKS} - {"reconstruction"}
    learned = {task for task in TASKS if settings_of(name).learns(TASKS[task])}
    assert learned == REBUILDS.get(name, usual)


@each
def test_a_family_says_whether_it_can_train_on_a_shorter_batch(name: str) -> None:
    model = settings_of(name)
    assert model.last_batch_refusal() is None
    assert Train(model=model).last_batch == "keep"
    if "batch_norm" in type(model).model_fields:
        normed = model.model_copy(update={"batch_norm": True})
        with pytest.raises(ValueError, match=r"batch_norm: .* set last_batch: drop"):
            Train(model=normed)
        assert Train(model=normed, last_batch="drop").model == normed


@accepted
def test_the_form_for_scoring_says_the_same(name: str, shapes: str) -> None:
    module = built(name, shapes).eval()
    inputs = example_inputs(SHAPES[shapes], 5)
    torch.testing.assert_close(folded(module)(inputs), module(inputs))


@each
def test_a_network_is_exported_for_other_programs(name: str, tmp_path: Path) -> None:
    shapes = sorted(READS[name])[0]
    module = built(name, shapes).eval()
    keys = list(module.state_dict())
    assert add_export(tmp_path, module, architecture(name, shapes))
    program = torch.export.load(tmp_path / "network.pt2").module()
    inputs = example_inputs(SHAPES[shapes], 6, longest=5)
    torch.testing.assert_close(program(inputs), module(inputs))
    assert list(module.state_dict()) == keys  # it is a copy that was changed
    assert isinstance(module, NetworkModule) == (settings_of(name).user_class is None)


def test_nothing_but_its_folder_names_a_family() -> None:
    found = []
    for path in sorted((ROOT / "pipeline").rglob("*.py")):
        texts = {
            node.value
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
            if isinstance(node, ast.Constant) and isinstance(node.value, str)
        }
        found += [(path.parent.name, name) for name in FAMILIES.keys() & texts]
    assert {*found} == {(name, name) for name in FAMILIES}


def test_names_that_need_torch_are_found_in_the_package_all_the_same() -> None:
    for name in networks.__all__:
        assert getattr(networks, name) is not None
    assert {*networks._WITH_TORCH} < {*networks.__all__}
    # Submodules of the same name would hide them.
    assert not any(isinstance(getattr(networks, name), ModuleType) for name in networks.__all__)
    with pytest.raises(AttributeError, match="no attribute 'unknown'"):
        _ = networks.unknown  # type: ignore[attr-defined]


@pytest.mark.parametrize("first", ["networks", *(f"networks.{name}" for name in FAMILIES)])
def test_settings_need_no_torch_whatever_is_imported_first(first: str) -> None:
    code = (
        f"import sys; import pipeline.training.{first}; import pipeline.config; "
        "print('torch' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert done.stdout.strip() == "False"
