"""A model's folder: weights, architecture, provenance and the feature spec it was trained with.

    weights.safetensors   the tensors
    model.json            architecture, task, spec hash, features table and version, SHA-256
    spec.json             the fitted feature spec
    reference.json        histograms of the training data, to measure drift by; since format 3
    local.json            how its features are made without Spark, or why they are not; format 4
    MLmodel               what MLflow's own serving reads; see `pipeline/serving/pyfunc.py`
    network.pt2           the network for other programs, which lakestorm does not read
    network.pt2.sha256    its SHA-256; both are there or neither

Loading runs no code of these files: safetensors holds numbers only, the rest is JSON. A damaged,
foreign or mixed-up folder is refused. Models of format 2 have no reference, and score without;
those before format 4 score on Spark only.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Self

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor, nn

from pipeline.config import TaskName
from pipeline.errors import LakestormError, ModelError
from pipeline.features.local import Local
from pipeline.features.spec import FeatureSpec
from pipeline.training.histograms import Outputs
from pipeline.training.networks import Architecture, build
from pipeline.training.networks.export import EXPORT_DIGEST_FILE, EXPORT_FILE
from pipeline.training.reference import Reference
from pipeline.training.tasks import TASKS

FORMAT_VERSION = 4
READABLE_VERSIONS = (2, 3, 4)
WEIGHTS_FILE = "weights.safetensors"
FACTS_FILE = "model.json"
SPEC_FILE = "spec.json"
REFERENCE_FILE = "reference.json"
LOCAL_FILE = "local.json"
_TEXTS = ("spec_hash", "features_table", "task", "loss")


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What a model is, and what it was made of."""

    architecture: Architecture
    spec_hash: str
    features_table: str
    """Table of the lake that it was trained on, in split `train` of `features_version`."""
    features_version: int
    task: TaskName
    loss: str
    """What it was trained to make small, see `pipeline.training.tasks`."""
    classes: tuple[str, ...]
    """For `multiclass`: what its outputs stand for."""
    labels: tuple[str, ...]
    """Columns that hold what it predicts; none for `reconstruction`."""

    @property
    def outputs(self) -> Outputs:
        """What it says of a row."""
        return self.task, self.classes, self.labels

    def to_dict(self) -> dict[str, Any]:
        """Values that JSON can hold; `from_dict` takes them back."""
        plain = {field.name: getattr(self, field.name) for field in fields(self)}
        lists = {name: list(plain[name]) for name in ("classes", "labels")}
        return {**plain, **lists, "architecture": self.architecture.to_dict()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """The facts that `to_dict` was called on.

        Raises:
            ModelError: A value is missing, unknown or of another type.
        """
        lists = ("classes", "labels")
        wrong = [name for name in _TEXTS if not isinstance(values.get(name), str)]
        wrong += [name for name in lists if not _is_list_of_texts(values.get(name))]
        wrong += [] if type(values.get("features_version")) is int else ["features_version"]
        wrong += [] if isinstance(values.get("architecture"), dict) else ["architecture"]
        wrong += sorted(set(values) - {"architecture", "features_version", *_TEXTS, *lists})
        if not wrong and values["task"] not in TASKS:
            wrong = ["task"]
        elif not wrong and values["loss"] not in TASKS[values["task"]].losses:
            wrong = ["loss"]
        if wrong:
            raise ModelError(
                f"{FACTS_FILE}, {wrong[0]}",
                f"is missing, unknown or of the wrong type: {values.get(wrong[0])!r}",
                "Use the model's own files as they were saved, or train it again.",
            )
        architecture = Architecture.from_dict(values["architecture"])
        texts = {name: tuple(values[name]) for name in lists}
        return cls(**{**values, **texts, "architecture": architecture})


@dataclass(frozen=True, kw_only=True)
class Bundle:
    """A model ready to be used: the network in evaluation mode, on the CPU."""

    module: nn.Module
    spec: FeatureSpec
    facts: Facts
    reference: Reference | None = None
    """What drift is measured by; None for models that were saved without."""
    local: Local | None = None
    """How its features are made without Spark; None for models that were saved without."""


def save_bundle(
    folder: Path,
    weights: Mapping[str, Tensor],
    facts: Facts,
    spec: FeatureSpec,
    *,
    reference: Reference | None = None,
    local: Local | None = None,
) -> None:
    """Writes a model's files into an existing folder.

    Args:
        folder: Where they go; files of these names are replaced.
        weights: The network's state dict.
        facts: What the model is.
        spec: The feature spec it was trained with, of the hash in `facts`.
        reference: Histograms of what it was trained on.
        local: How its features are made without Spark.

    Raises:
        ModelError: The spec is not the one in `facts`.
    """
    _require_same_spec(folder, spec, facts)
    tensors = save_tensors(
        {name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}
    )
    (folder / WEIGHTS_FILE).write_bytes(tensors)
    known = None if reference is None else reference.to_json().encode()
    proven = None if local is None else local.model_dump_json().encode()
    described = {
        "format_version": FORMAT_VERSION,
        "weights_sha256": hashlib.sha256(tensors).hexdigest(),
        "reference_sha256": _put(folder / REFERENCE_FILE, known),
        "local_sha256": _put(folder / LOCAL_FILE, proven),
        **facts.to_dict(),
    }
    (folder / FACTS_FILE).write_text(json.dumps(described, indent=2) + "\n", encoding="utf-8")
    (folder / SPEC_FILE).write_text(spec.to_json(), encoding="utf-8")


def _put(path: Path, content: bytes | None) -> str | None:
    """Writes a file, or removes it where there is no content; its SHA-256."""
    path.unlink(missing_ok=True)
    if content is None:
        return None
    path.write_bytes(content)
    return hashlib.sha256(content).hexdigest()


def load_bundle(folder: Path, custom: str | None = None) -> Bundle:
    """Reads a model's files and checks that they belong together.

    Args:
        folder: What `save_bundle` wrote.
        custom: The user's own class, `package.module:Class`, where the network is one.

    Raises:
        ModelError: A file is missing, damaged, of another format version or of another model.
    """
    described = _read_json(folder / FACTS_FILE)
    found = described.pop("format_version", None)
    if found not in READABLE_VERSIONS:
        raise ModelError(
            str(folder / FACTS_FILE),
            f"has format_version {found!r}, this lakestorm reads {READABLE_VERSIONS}",
            "Load it with the version of lakestorm that saved it, or train the model again.",
        )
    digest = described.pop("weights_sha256", None)
    known = described.pop("reference_sha256", "") if found > 2 else None
    proven = described.pop("local_sha256", "") if found > 3 else None
    try:
        facts = Facts.from_dict(described)
    except ModelError as error:
        raise ModelError(f"{folder}: {error.where}", error.problem, error.remedy) from error
    spec = _read_spec(folder / SPEC_FILE)
    _require_same_spec(folder, spec, facts)
    _require_whole_export(folder)
    return Bundle(
        module=_read_module(folder, facts, digest, custom),
        spec=spec,
        facts=facts,
        reference=_read_reference(folder, spec, facts, known),
        local=_read_local(folder, proven),
    )


def _read_module(folder: Path, facts: Facts, digest: object, custom: str | None) -> nn.Module:
    path = folder / WEIGHTS_FILE
    content = _read_bytes(path)
    if hashlib.sha256(content).hexdigest() != digest:
        raise _damaged(path, f"its SHA-256 is not the one in {FACTS_FILE}")
    try:
        tensors = load_tensors(content)
        module = _empty(facts, custom)
        types = {name: tensor.dtype for name, tensor in module.state_dict().items()}
        module.load_state_dict(tensors, strict=True, assign=True)
    # Sizes that no tensor can have are TypeErrors and OverflowErrors to torch.
    except (SafetensorError, RuntimeError, TypeError, OverflowError) as error:
        raise _damaged(path, " ".join(str(error).split())) from error
    if any(tensors[name].dtype != expected for name, expected in types.items()):
        raise _damaged(path, "its numbers are of another type than the network's")
    module.requires_grad_(False)
    return module.eval()


def _read_reference(
    folder: Path, spec: FeatureSpec, facts: Facts, digest: object
) -> Reference | None:
    """The histograms, of that SHA-256; None where the model was saved without."""
    content = _checked(folder / REFERENCE_FILE, digest)
    try:
        return None if content is None else Reference.from_json(content, spec, facts.outputs)
    except ValueError as error:
        raise _damaged(folder / REFERENCE_FILE, " ".join(str(error).split())) from error


def _read_local(folder: Path, digest: object) -> Local | None:
    """The local transform, of that SHA-256; None where the model was saved without."""
    content = _checked(folder / LOCAL_FILE, digest)
    try:
        return None if content is None else Local.model_validate_json(content)
    except ValueError as error:
        raise _damaged(folder / LOCAL_FILE, " ".join(str(error).split())) from error


def _checked(path: Path, digest: object) -> bytes | None:
    """A file of that SHA-256; None where there is to be none."""
    if digest is None:
        return None
    content = _read_bytes(path)
    if hashlib.sha256(content).hexdigest() != digest:
        raise _damaged(path, f"its SHA-256 is not the one in {FACTS_FILE}")
    return content


def _empty(facts: Facts, custom: str | None) -> nn.Module:
    """The network without its weights."""
    if facts.architecture.settings.user_class is not None:
        return build(facts.architecture, custom=custom)
    # On the meta device nothing is allocated before the shapes are known to agree.
    with torch.device("meta"):
        return build(facts.architecture)


def _require_whole_export(folder: Path) -> None:
    """That the export, if there is one, is the one that was saved."""
    path, digest_path = folder / EXPORT_FILE, folder / EXPORT_DIGEST_FILE
    if path.exists() or digest_path.exists():
        line = f"{hashlib.sha256(_read_bytes(path)).hexdigest()}  {EXPORT_FILE}\n"
        if _read_bytes(digest_path) != line.encode():
            raise _damaged(path, f"its SHA-256 is not the one in {EXPORT_DIGEST_FILE}")


def _is_list_of_texts(value: object) -> bool:
    return isinstance(value, list | tuple) and all(isinstance(item, str) for item in value)


def _read_spec(path: Path) -> FeatureSpec:
    text = _read_bytes(path)
    try:
        return FeatureSpec.from_json(text.decode("utf-8"))
    except (LakestormError, ValueError) as error:
        raise _damaged(path, str(error)) from error


def _read_json(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(_read_bytes(path))
    except (ValueError, RecursionError) as error:
        raise _damaged(path, f"not JSON: {error}") from error
    if not isinstance(values, dict):
        raise _damaged(path, "not a JSON object")
    return values


def _read_bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ModelError(
            str(path),
            f"cannot be read: {error.strerror or error}",
            f"A model's folder holds {WEIGHTS_FILE}, {FACTS_FILE}, {SPEC_FILE} and "
            f"{REFERENCE_FILE}: restore it, or train the model again.",
        ) from error


def _require_same_spec(folder: Path, spec: FeatureSpec, facts: Facts) -> None:
    if spec.hash != facts.spec_hash:
        raise ModelError(
            str(folder),
            f"the feature spec has hash {spec.hash}, the model was trained with {facts.spec_hash}",
            f"Put the model's own {SPEC_FILE} back, or train the model again.",
        )


def _damaged(path: Path, why: str) -> ModelError:
    return ModelError(
        str(path), f"is damaged: {why}", "Restore the file, or train the model again."
    )
