from __future__ import annotations

import hashlib
import json
import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from pipeline.config import Cnn, Custom, Model, Rnn, Vae
from pipeline.errors import ModelError
from pipeline.training.bundle import load_bundle, save_bundle
from pipeline.training.histograms import Tally, input_columns, score_columns
from pipeline.training.networks import (
    Shapes,
    add_export,
    architecture_of,
    build,
    example_inputs,
)
from pipeline.training.reference import Reference
from tests.training import examples

SPEC = examples.spec()
FACTS = examples.facts(SPEC, 3, embedding_dimension=3, dropout=0.5)
ARCHITECTURE = FACTS.architecture


def described(**settings: Any) -> dict[str, Any]:
    """The architecture as JSON has it, with other settings."""
    whole = ARCHITECTURE.to_dict()
    return {**whole, "settings": {**whole["settings"], **settings}}


def reference(rows: int = 100) -> Reference:
    """What counting some rows of made-up inputs and scores gives."""
    inputs, scores = Tally(input_columns(SPEC)), Tally(score_columns(*FACTS.outputs))
    inputs.add(
        {
            "numeric": torch.randn(rows, 3),
            "categorical": torch.randint(0, 8, (rows, 2), dtype=torch.int32),
        },
        rows,
    )
    scores.add({"score": torch.rand(rows)}, rows)
    return Reference(inputs=inputs.histograms(), scores=scores.histograms())


REFERENCE = reference()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_bundle(tmp_path, build(ARCHITECTURE, 1).state_dict(), FACTS, SPEC, reference=REFERENCE)
    return tmp_path


def edit(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_a_saved_model_gives_the_same_outputs_without_dropout(folder: Path) -> None:
    bundle = load_bundle(folder)
    original = build(ARCHITECTURE, 1).eval()
    numeric = torch.randn(50, 3)
    categorical = torch.randint(0, 8, (50, 2), dtype=torch.int32)
    inputs = {"numeric": numeric, "categorical": categorical}
    assert torch.equal(bundle.module(inputs), original(inputs))
    assert (bundle.facts, bundle.spec, bundle.reference) == (FACTS, SPEC, REFERENCE)


FAMILIES: dict[str, tuple[Model, Shapes]] = {
    "cnn": (Cnn(family="cnn", channels=(2,), hidden=(), batch_norm=True), Shapes(image=(4, 5))),
    "rnn": (Rnn(family="rnn", units=3), Shapes(token_ids=7)),
    "vae": (Vae(family="vae", hidden=(3,), latent=2), Shapes(numeric=4)),
    "custom": (
        Custom(family="custom", custom=f"{__name__}:Own", settings={"units": 3, "share": 0.5}),
        Shapes(numeric=2),
    ),
}


class Own(nn.Module):
    def __init__(self, shapes: Shapes, outputs: int, units: int, share: float) -> None:
        super().__init__()
        dropout = nn.Dropout(share)
        self.layers = nn.Sequential(
            nn.Linear(shapes.numeric, units), dropout, nn.Linear(units, outputs)
        )

    def forward(self, inputs: dict[str, Tensor]) -> Tensor:
        outputs: Tensor = self.layers(inputs["numeric"])
        return outputs


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_survives_its_folder(tmp_path: Path, family: str) -> None:
    model, shapes = FAMILIES[family]
    custom = getattr(model, "custom", None)
    facts = replace(FACTS, architecture=architecture_of(model, shapes, 2))
    original = build(facts.architecture, 1, custom).eval()
    save_bundle(tmp_path, original.state_dict(), facts, SPEC)
    assert __name__ not in (tmp_path / "model.json").read_text()
    bundle = load_bundle(tmp_path, custom)
    assert bundle.facts == facts
    inputs = example_inputs(shapes, 5)
    assert torch.equal(bundle.module(inputs), original(inputs))
    if custom is not None:
        with pytest.raises(ModelError, match=r"train\.model\.custom"):
            load_bundle(tmp_path)


def test_an_export_that_is_not_the_saved_one_is_refused(folder: Path) -> None:
    add_export(folder, build(ARCHITECTURE, 1).eval(), ARCHITECTURE)
    path, digest = folder / "network.pt2", folder / "network.pt2.sha256"
    whole, line = path.read_bytes(), digest.read_text()
    assert line.split() == [hashlib.sha256(whole).hexdigest(), "network.pt2"]
    for content in (whole[:-1], b"", whole[:100] + bytes([whole[100] ^ 1]) + whole[101:]):
        path.write_bytes(content)
        with pytest.raises(ModelError, match=r"network\.pt2: is damaged"):
            load_bundle(folder)
    path.write_bytes(whole)
    load_bundle(folder)
    for one in (path, digest):
        content = one.read_bytes()
        one.unlink()
        with pytest.raises(ModelError, match=one.name):
            load_bundle(folder)
        one.write_bytes(content)


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(place=st.integers(0, 10_000), bit=st.integers(0, 7))
def test_a_flipped_bit_of_the_weights_is_noticed(folder: Path, place: int, bit: int) -> None:
    path = folder / "weights.safetensors"
    content = path.read_bytes()
    damaged = bytearray(content)
    damaged[place % len(content)] ^= 1 << bit
    path.write_bytes(damaged)
    with pytest.raises(ModelError, match=r"weights\.safetensors"):
        load_bundle(folder)
    path.write_bytes(content)


@pytest.mark.parametrize(
    "name", ["weights.safetensors", "model.json", "spec.json", "reference.json"]
)
def test_a_missing_or_truncated_file_is_refused_by_name(folder: Path, name: str) -> None:
    content = (folder / name).read_bytes()
    for left in (0, 1, len(content) // 2, len(content) - 2):
        (folder / name).write_bytes(content[:left])
        with pytest.raises(ModelError, match=name):
            load_bundle(folder)
    (folder / name).unlink()
    with pytest.raises(ModelError, match=name):
        load_bundle(folder)


def test_weights_that_are_a_pickle_run_nothing(folder: Path, tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> Any:
            return (Path.touch, (tmp_path / "exploded",))

    bomb = pickle.dumps(Bomb())
    (folder / "weights.safetensors").write_bytes(bomb)
    edit(folder / "model.json", weights_sha256=hashlib.sha256(bomb).hexdigest())
    with pytest.raises(ModelError, match="damaged"):
        load_bundle(folder)
    assert not (tmp_path / "exploded").exists()


def change_reference(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Changes the file, and the digest that goes with it."""
    values = json.loads((folder / "reference.json").read_text())
    change(values)
    content = json.dumps(values).encode()
    (folder / "reference.json").write_bytes(content)
    edit(folder / "model.json", reference_sha256=hashlib.sha256(content).hexdigest())


def test_a_changed_reference_is_refused(folder: Path) -> None:
    path = folder / "reference.json"
    whole = path.read_text()
    path.write_text(whole.replace('"rows":100', '"rows":101'))
    with pytest.raises(ModelError, match=r"reference\.json: is damaged: its SHA-256"):
        load_bundle(folder)
    facts = json.loads((folder / "model.json").read_text())
    del facts["reference_sha256"]
    (folder / "model.json").write_text(json.dumps(facts))
    with pytest.raises(ModelError, match=r"reference\.json: is damaged"):
        load_bundle(folder)


@pytest.mark.parametrize(
    "change",
    [
        lambda file: file.pop("scores"),
        lambda file: file.update(code="import os"),
        lambda file: file["inputs"].update(rows=99),
        lambda file: file["inputs"]["bins"].pop("num_n0"),
        lambda file: file["inputs"]["bins"].update(other=[[0, 100]]),
        lambda file: file["inputs"]["bins"].update(cat_c0=[[8, 100]]),
        lambda file: file["inputs"]["bins"].update(cat_c0=[[1, 50], [0, 50]]),
        lambda file: file["inputs"]["bins"].update(cat_c0=[[0, 150], [1, -50]]),
        lambda file: file["inputs"]["bins"].update(cat_c0=[["0", 100]]),
        lambda file: file["inputs"]["missing"].update(n0=101),
        lambda file: file["inputs"]["missing"].update(other=1),
    ],
)
def test_a_reference_that_cannot_be_the_models_is_refused(
    folder: Path, change: Callable[[dict[str, Any]], None]
) -> None:
    change_reference(folder, change)
    with pytest.raises(ModelError, match=r"reference\.json: is damaged"):
        load_bundle(folder)


def test_a_model_saved_before_there_were_references_has_none(folder: Path) -> None:
    facts = json.loads((folder / "model.json").read_text())
    del facts["reference_sha256"], facts["local_sha256"]
    (folder / "model.json").write_text(json.dumps({**facts, "format_version": 2}))
    (folder / "reference.json").unlink()
    assert load_bundle(folder).reference is None
    save_bundle(folder, build(ARCHITECTURE, 1).state_dict(), FACTS, SPEC)
    assert load_bundle(folder).reference is None
    assert not (folder / "reference.json").exists()


def test_another_spec_is_refused_when_saving_and_when_loading(folder: Path) -> None:
    other = examples.spec(numeric=2)
    with pytest.raises(ModelError, match=other.hash):
        save_bundle(folder, {}, FACTS, other)
    (folder / "spec.json").write_text(other.to_json())
    with pytest.raises(ModelError, match=other.hash):
        load_bundle(folder)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"format_version": 1}, "format_version"),
        ({"features_version": "3"}, "features_version"),
        ({"labels": None}, "labels"),
        ({"labels": [1]}, "labels"),
        ({"classes": "ab"}, "classes"),
        ({"task": "guess"}, "task"),
        ({"loss": 1}, "loss"),
        ({"loss": "mse"}, "loss"),
        ({"task": []}, "task"),
        ({"code": "import os"}, "code"),
        ({"architecture": []}, "architecture"),
        ({"architecture": described(hidden=[5])}, "weights"),
        ({"architecture": described(hidden=[10**9, 10**9])}, "weights"),
        ({"architecture": described(family="x")}, "settings"),
        ({"architecture": described(hidden=[10**30])}, "weights"),
        ({"architecture": {**described(), "settings": 3}}, "settings"),
    ],
)
def test_facts_that_do_not_fit_are_refused(
    folder: Path, changes: dict[str, Any], named: str
) -> None:
    edit(folder / "model.json", **changes)
    with pytest.raises(ModelError, match=named):
        load_bundle(folder)


@pytest.mark.parametrize("text", ["[]", "null", "{", "\x00", "[" * 100_000])
def test_facts_that_are_no_json_object_are_refused(folder: Path, text: str) -> None:
    (folder / "model.json").write_text(text)
    with pytest.raises(ModelError, match=r"model\.json"):
        load_bundle(folder)
