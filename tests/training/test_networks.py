from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import Tensor, nn

from pipeline.config import Cnn, Custom, Mlp, Model, Rnn, Vae
from pipeline.errors import ConfigError, ModelError
from pipeline.training.networks import (
    Architecture,
    Input,
    Shapes,
    add_export,
    architecture_of,
    build,
    rebuilt_from,
)
from pipeline.training.networks.dense import Bags, embedding_width
from pipeline.training.tasks.reconstruction import coded

DENSE = Shapes(numeric=3, cardinalities=(5, 9))
IMAGE = Shapes(image=(12, 10))
COLOUR = Shapes(image=(9, 8, 3), numeric=2)
TOKENS = Shapes(token_ids=11, numeric=2, cardinalities=(4,))
SERIES = Shapes(series=True)
BAG = Input(form="sequence", ids=7, ordered=False)
BAGS = Shapes(numeric=2, cardinalities=(5,), others={"bag_a": BAG, "bag_b": BAG})
VECTORS = {"vector": Input(form="vector", shape=(3,))}

EVERY: dict[str, tuple[Model, Shapes]] = {
    "mlp": (Mlp(hidden=(6,), dropout=0.2), DENSE),
    "mlp without hidden layers": (Mlp(hidden=()), Shapes(numeric=3)),
    "mlp of an image": (Mlp(hidden=(4,), activation="gelu"), IMAGE),
    "cnn": (Cnn(family="cnn", channels=(3, 4), hidden=(5,), dropout=0.1), IMAGE),
    "cnn in colour": (Cnn(family="cnn", channels=(3,), batch_norm=True, hidden=()), COLOUR),
    "gru of tokens": (Rnn(family="rnn", units=4, token_dimension=3), TOKENS),
    "lstm of a series": (Rnn(family="rnn", cell="lstm", units=4, layers=2), SERIES),
    "mlp of bags": (Mlp(hidden=(6,)), BAGS),
    "cnn beside a bag": (
        Cnn(family="cnn", channels=(3,), hidden=()),
        Shapes(image=(8, 8), others={"bag": BAG}),
    ),
    "gru beside a bag and a vector": (
        Rnn(family="rnn", units=4),
        Shapes(series=True, others={"bag": BAG, **VECTORS}),
    ),
    "vae of an image": (Vae(family="vae", hidden=(7,), latent=2), IMAGE),
    "vae of numbers": (Vae(family="vae", hidden=(7,), latent=2), Shapes(numeric=5)),
}
OUTPUTS = 3
every_family = pytest.mark.parametrize("name", EVERY)


def architecture(name: str) -> Architecture:
    return architecture_of(*EVERY[name], OUTPUTS)


def random_inputs(shapes: Shapes, rows: int, longest: int = 6, seed: int = 0) -> dict[str, Tensor]:
    random = torch.Generator().manual_seed(seed)
    inputs: dict[str, Tensor] = {}
    if shapes.numeric:
        inputs["numeric"] = torch.rand(rows, shapes.numeric, generator=random)
    if shapes.cardinalities:
        ids = [torch.randint(0, size, (rows,), generator=random) for size in shapes.cardinalities]
        inputs["categorical"] = torch.stack(ids, dim=1).int()
    if shapes.image:
        inputs["image"] = torch.randint(0, 256, (rows, *shapes.image), generator=random).byte()
    if shapes.token_ids or shapes.series:
        inputs["lengths"] = torch.randint(0, longest + 1, (rows,), generator=random)
        valid = torch.arange(longest) < inputs["lengths"].unsqueeze(1)
        if shapes.token_ids:
            tokens = torch.randint(1, shapes.token_ids, (rows, longest), generator=random)
            inputs["tokens"] = (tokens * valid).int()
        else:
            inputs["series"] = torch.rand(rows, longest, generator=random) * valid
    if shapes.series and shapes.others:
        inputs[shapes.lengths["series"]] = inputs.pop("lengths")
    for place, (name, each) in enumerate(shapes.others.items()):
        if each.form == "vector":
            inputs[name] = torch.rand(rows, *each.shape, generator=random)
            continue
        own = longest + place if longest else 0  # bags have a longest of their own
        lengths = torch.randint(0, own + 1, (rows,), generator=random)
        drawn = torch.randint(1, each.ids, (rows, own), generator=random)
        inputs[shapes.lengths[name]] = lengths
        inputs[name] = (drawn * (torch.arange(own) < lengths.unsqueeze(1))).int()
    return inputs


@every_family
@pytest.mark.parametrize("rows", [0, 1, 7])
def test_any_number_of_rows_gives_outputs_and_gradients(name: str, rows: int) -> None:
    described = architecture(name)
    module = build(described)
    if rows < 2:
        module.eval()  # a batch norm asks for two rows; its last batch is dropped
    inputs = random_inputs(described.shapes, rows)
    outputs = module(inputs)
    assert outputs.shape == (rows, described.outputs)
    assert outputs.dtype == torch.float32
    outputs.sum().backward()
    gradients = {name: weight.grad for name, weight in module.named_parameters()}
    assert all(gradient is not None for gradient in gradients.values())
    assert all((gradient == 0).all() for gradient in gradients.values() if not rows)  # type: ignore[union-attr]


@every_family
def test_a_sequence_batch_without_any_step_gives_outputs(name: str) -> None:
    described = architecture(name)
    inputs = random_inputs(described.shapes, 3, longest=0)
    assert torch.isfinite(build(described).eval()(inputs)).all()


@every_family
@pytest.mark.parametrize("precision", [torch.float64, torch.bfloat16])
def test_other_precisions_come_close(name: str, precision: torch.dtype) -> None:
    described = architecture(name)
    module, inputs = build(described).eval(), random_inputs(described.shapes, 5)
    expected = module(inputs)
    if precision == torch.float64:
        doubles = {k: v.double() if v.is_floating_point() else v for k, v in inputs.items()}
        found = module.double()(doubles)
        assert found.dtype == torch.float64
    else:
        with torch.autocast("cpu", torch.bfloat16):
            found = module(inputs)
    exact = precision == torch.float64
    torch.testing.assert_close(
        found.float(), expected, rtol=1e-4 if exact else 0.1, atol=1e-5 if exact else 0.1
    )


@every_family
def test_the_seed_alone_decides_the_weights(name: str) -> None:
    described = architecture(name)
    torch.manual_seed(1)
    before = torch.get_rng_state()
    one, again, other = (build(described, seed).state_dict() for seed in (4, 4, 5))
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(one[key], again[key]) for key in one)
    assert any(not torch.equal(one[key], other[key]) for key in one)


@every_family
def test_an_architecture_survives_json(name: str) -> None:
    described = architecture(name)
    assert Architecture.from_dict(json.loads(json.dumps(described.to_dict()))) == described


def test_the_reference_network_is_784_32_10() -> None:
    shapes = Shapes(image=(28, 28))
    module: Any = build(architecture_of(Mlp(hidden=(32,)), shapes, 10))
    sizes = [tuple(weight.shape) for weight in module.parameters()]
    assert sizes == [(32, 784), (32,), (10, 32), (10,)]
    black = torch.zeros(1, 28, 28, dtype=torch.uint8)
    white = torch.full((1, 28, 28), 255, dtype=torch.uint8)
    first = module.layers[0]
    rest = module.layers[1:]
    expected = rest(torch.stack([first.bias, first.weight.sum(1) + first.bias]))
    found = module({"image": torch.cat([black, white])})
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("cardinality", "width"), [(2, 2), (9, 3), (10, 4), (10_000, 8)])
def test_small_vocabularies_get_narrow_embeddings(cardinality: int, width: int) -> None:
    assert embedding_width(cardinality, 8) == width


@pytest.mark.parametrize("name", ["mlp", "cnn", "cnn in colour", "gru of tokens"])
def test_every_input_reaches_the_outputs(name: str) -> None:
    described = architecture(name)
    module, inputs = build(described).eval(), random_inputs(described.shapes, 4, seed=3)
    inputs["lengths"] = torch.tensor([6, 5, 4, 3])
    before = module(inputs)
    for key in inputs.keys() - {"lengths"}:
        changed = {**inputs, key: inputs[key].flip(0)}
        assert not torch.allclose(module(changed), before, atol=1e-6), key


def test_a_bag_is_the_mean_of_its_ids_whatever_their_order() -> None:
    bags = Bags(Shapes(others={"bag": BAG}), 8)
    (table,) = bags.tables.parameters()
    assert not table[0].any()
    rows = torch.tensor([[3, 5, 6], [6, 3, 5], [4, 0, 0], [0, 0, 0]]).int()
    (found,) = bags({"bag": rows})
    three = (table[3] + table[5] + table[6]) / 3
    torch.testing.assert_close(
        found, torch.stack([three, three, table[4], torch.zeros(bags.width)])
    )
    found.sum().backward()
    assert table.grad is not None
    assert not table.grad[0].any()


def test_a_bag_without_ids_is_refused() -> None:
    with pytest.raises(ValidationError, match="is a bag, but not one of ids"):
        Shapes(others={"bag": Input(form="sequence", ordered=False)})


@settings(max_examples=25, deadline=None)
@given(
    st.sampled_from(["gru of tokens", "lstm of a series"]), st.integers(0, 9), st.integers(0, 99)
)
def test_what_is_said_of_a_row_does_not_depend_on_the_rows_beside_it(
    name: str, further: int, seed: int
) -> None:
    described = architecture(name)
    module, inputs = build(described).eval(), random_inputs(described.shapes, 5, seed=seed)
    together = module(inputs)
    for row in range(5):
        alone = {key: tensor[row : row + 1] for key, tensor in inputs.items()}
        for key in ("tokens", "series"):
            if key in alone:
                whole = alone[key][:, : int(alone["lengths"])]
                alone[key] = nn.functional.pad(whole, (0, further))
        torch.testing.assert_close(module(alone)[0], together[row], rtol=1e-4, atol=1e-6)


def test_an_autoencoder_samples_only_when_it_is_asked_to() -> None:
    module: Any = build(architecture("vae of an image"))
    inputs = random_inputs(IMAGE, 4)
    assert not torch.equal(module(inputs), module(inputs))
    module.eval()
    assert torch.equal(module(inputs), module(inputs))
    module.sampling = True
    assert not torch.equal(module(inputs), module(inputs))
    target = rebuilt_from(inputs, torch.float32)
    parts = coded(module(inputs), target.shape[1])
    assert [part.shape[1] for part in parts] == [120, 2, 2]
    assert torch.equal(target, inputs["image"].reshape(4, 120).float() / 255)


@pytest.mark.parametrize(
    ("path", "value", "named"),
    [
        (("settings", "family"), "os.system", "settings"),
        (("settings", "hidden"), [0], "hidden"),
        (("settings", "hidden"), [3.0], "hidden.0"),
        (("settings", "hidden"), [True], "hidden.0"),
        (("settings", "hidden"), [2, 2.0], "hidden.1"),
        (("settings", "hidden"), "8", "hidden"),
        (("settings", "dropout"), 1.0, "dropout"),
        (("settings", "dropout"), float("nan"), "dropout"),
        (("settings", "surprise"), 1, "surprise"),
        (("settings", "hidden"), ..., "hidden"),
        (("shapes", "numeric"), -1, "numeric"),
        (("settings", "dropout"), 0, "dropout"),
        (("settings",), [], "settings"),
        (("settings",), ..., "settings"),
        (("shapes", "numeric"), True, "shapes.numeric"),
        (("shapes", "numeric"), "3", "shapes.numeric"),
        (("shapes", "series"), 0, "shapes.series"),
        (("shapes", "series"), True, "none that mlp reads"),
        (("shapes", "cardinalities"), [1], "cardinalities"),
        (("shapes", "cardinalities"), None, "cardinalities"),
        (("shapes", "image"), [4], "image"),
        (("shapes",), {}, "shapes"),
        (("outputs",), 0, "outputs"),
        (("outputs",), ..., "outputs"),
        (("surprise",), 1, "surprise"),
    ],
)
def test_an_impossible_value_is_refused(path: tuple[str, ...], value: Any, named: str) -> None:
    described = architecture("mlp").to_dict()
    place = described
    for part in path[:-1]:
        place = place[part]
    place[path[-1]] = value
    if value is ...:
        del place[path[-1]]
    with pytest.raises(ModelError, match=named):
        Architecture.from_dict(described)


def test_more_poolings_than_an_image_has_sides_for_are_refused() -> None:
    with pytest.raises(ModelError, match=r"4 blocks halve an image of 12 x 10 to nothing"):
        architecture_of(Cnn(family="cnn", channels=(2, 2, 2, 2)), IMAGE, 2)


@pytest.mark.parametrize(
    ("model", "shapes"),
    [
        (Cnn(family="cnn"), DENSE),
        (Rnn(family="rnn"), DENSE),
        (Rnn(family="rnn"), Shapes(token_ids=5, series=True)),
        (Rnn(family="rnn"), Shapes(series=True, image=(4, 4))),
        (Vae(family="vae"), TOKENS),
        (Vae(family="vae"), Shapes(numeric=3, others={"bag": BAG})),
        (Rnn(family="rnn"), BAGS),
    ],
)
def test_inputs_that_a_family_does_not_read_are_refused(model: Model, shapes: Shapes) -> None:
    with pytest.raises(ModelError, match=f"none that {model.family} reads"):
        architecture_of(model, shapes, 1)


@pytest.mark.parametrize(
    ("name", "section", "key", "value"),
    [
        ("vae of numbers", "settings", "latent", 3),
        ("vae of numbers", "shapes", "numeric", 6),
        ("gru of tokens", "settings", "layers", 10**30),
    ],
)
def test_a_file_cannot_ask_for_a_network_that_is_none(
    name: str, section: str, key: str, value: int
) -> None:
    described = architecture(name).to_dict()
    described[section][key] = value
    with pytest.raises(ModelError, match=r"outputs|layers"):
        Architecture.from_dict(described)


# --- learning -------------------------------------------------------------------------------------


def loss_of(described: Architecture, outputs: Tensor, inputs: dict[str, Tensor]) -> Tensor:
    """Of rebuilding, or of telling which rows are in the first half."""
    if not isinstance(described.settings, Vae):
        labels = (torch.arange(len(outputs)) < len(outputs) // 2).to(outputs.dtype)
        return nn.functional.binary_cross_entropy_with_logits(outputs[:, 0], labels)
    target = rebuilt_from(inputs, outputs.dtype)
    return nn.functional.mse_loss(coded(outputs, target.shape[1]).rebuilt, target)


@pytest.mark.parametrize("name", [name for name in EVERY if EVERY[name][0] != Mlp(hidden=())])
@pytest.mark.parametrize("precision", [torch.float32, torch.float64, torch.bfloat16])
def test_every_family_learns_a_few_rows_by_heart(name: str, precision: torch.dtype) -> None:
    described = architecture(name)
    torch.manual_seed(0)
    # Evaluation mode: neither dropout nor samples hide whether the gradients lead down.
    module, inputs = build(described, 3).eval(), random_inputs(described.shapes, 12, seed=1)
    if "lengths" in inputs:
        inputs["lengths"].clamp_(min=2)
    if precision == torch.float64:
        module = module.double()
        inputs = {k: v.double() if v.is_floating_point() else v for k, v in inputs.items()}
    optimiser = torch.optim.Adam(module.parameters(), lr=0.03)
    losses = []
    for _ in range(60):
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == torch.bfloat16):
            outputs = module(inputs)
        loss = loss_of(described, outputs.to(torch.promote_types(precision, torch.float32)), inputs)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]


# --- export ---------------------------------------------------------------------------------------


@every_family
def test_an_exported_network_says_the_same_of_any_rows(name: str, tmp_path: Path) -> None:
    described = architecture(name)
    module = build(described).eval()
    assert add_export(tmp_path, module, described)
    exported = torch.export.load(tmp_path / "network.pt2").module()
    for rows, longest in ((1, 2), (9, 13)):
        inputs = random_inputs(described.shapes, rows, longest)
        found = exported(inputs)
        torch.testing.assert_close(found, module(inputs), rtol=1e-5, atol=1e-5)


# --- a network of the user's own ------------------------------------------------------------------


class Own(nn.Module):
    def __init__(self, shapes: Shapes, outputs: int, scale: float = 1.0) -> None:
        super().__init__()
        self.layer = nn.Linear(shapes.numeric, outputs)
        self.scale = scale

    def forward(self, inputs: dict[str, Tensor]) -> Tensor:
        outputs: Tensor = self.layer(inputs["numeric"]) * self.scale
        return outputs


class Normed(Own):
    def __init__(self, shapes: Shapes, outputs: int) -> None:
        super().__init__(shapes, outputs)
        self.norm = nn.BatchNorm1d(shapes.numeric)

    def forward(self, inputs: dict[str, Tensor]) -> Tensor:
        outputs: Tensor = self.layer(self.norm(inputs["numeric"]))
        return outputs


class Branching(Own):
    def forward(self, inputs: dict[str, Tensor]) -> Tensor:
        outputs = super().forward(inputs)
        return -outputs if outputs.sum().item() > 0 else outputs


class Narrow(Own):
    def forward(self, inputs: dict[str, Tensor]) -> Tensor:
        return super().forward(inputs)[:, 0]


class Failing(Own):
    def forward(self, inputs: dict[str, Tensor]) -> Tensor:
        raise ZeroDivisionError(f"of my own, {len(inputs)}")


HERE = "tests.training.test_networks"


def own(name: str, **settings: Any) -> nn.Module:
    model = Custom(family="custom", custom=name, settings=settings)
    described = architecture_of(model, Shapes(numeric=2), OUTPUTS)
    assert "Own" not in json.dumps(described.to_dict())
    return build(Architecture.from_dict(described.to_dict()), 0, model.custom)


def test_a_network_of_the_users_own_is_built_by_the_name_in_the_yaml() -> None:
    module = own(f"{HERE}:Own", scale=2.0)
    assert type(module).__name__ == "Own"
    assert module(random_inputs(Shapes(numeric=2), 5)).shape == (5, OUTPUTS)


def test_trying_a_network_leaves_it_fresh() -> None:
    module = own(f"{HERE}:Normed")
    assert module.training
    assert (module.norm.num_batches_tracked, module.norm.running_var.unique()) == (0, 1)  # type: ignore[union-attr, operator]
    assert all(weight.grad is None for weight in module.parameters())


def test_a_network_that_cannot_be_exported_is_only_warned_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = Custom(family="custom", custom=f"{HERE}:Branching")
    described = architecture_of(model, Shapes(numeric=2), OUTPUTS)
    assert not add_export(tmp_path, build(described, 0, model.custom).eval(), described)
    assert not list(tmp_path.iterdir())
    [record] = [one for one in caplog.records if one.name == "pipeline.training.networks.export"]
    assert "torch.export cannot export the network" in record.getMessage()
    assert record.exc_info is None


def test_a_file_must_not_name_the_class() -> None:
    model = Custom(family="custom", custom=f"{HERE}:Own")
    described = architecture_of(model, Shapes(numeric=2), OUTPUTS).to_dict()
    described["settings"]["custom"] = f"{HERE}:Own"
    with pytest.raises(ModelError, match="must not stand in a file"):
        Architecture.from_dict(described)


@pytest.mark.parametrize("code", ["1 / 0", "raise SystemExit(3)", "def"])
def test_a_module_that_cannot_be_imported_is_one_clear_error(
    code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = f"own_network_{len(code)}"
    (tmp_path / f"{name}.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ConfigError, match=r"^train\.model\.custom: "):
        own(f"{name}:Own")


def test_no_file_says_which_class_of_the_users_own_it_needs() -> None:
    described = architecture_of(
        Custom(family="custom", custom=f"{HERE}:Own"), Shapes(numeric=2), OUTPUTS
    )
    with pytest.raises(ModelError, match=r"train\.model\.custom"):
        build(described)


@pytest.mark.parametrize(
    ("name", "given", "told"),
    [
        ("no.such.module:Own", {}, "No module named 'no'"),
        (f"{HERE}:Missing", {}, "has no attribute 'Missing'"),
        (f"{HERE}:HERE", {}, "is no torch.nn.Module"),
        (f"{HERE}:Own", {"sale": 1}, "unexpected keyword argument 'sale'"),
        (f"{HERE}:Narrow", {}, "gives torch.float32 [2] for 2 rows. It must give floats [rows, 3]"),
        (f"{HERE}:Failing", {}, "raises ZeroDivisionError: of my own"),
    ],
)
def test_a_network_of_the_users_own_that_cannot_be_used_is_one_clear_error(
    name: str, given: dict[str, Any], told: str
) -> None:
    with pytest.raises(ConfigError, match=r"^train\.model\.custom: .*" + re.escape(told)):
        own(name, **given)
