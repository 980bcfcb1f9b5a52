"""What a network is: its family's settings and the shapes of its inputs, as JSON holds them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from pipeline.errors import ModelError
from pipeline.training.networks.families import Model
from pipeline.training.networks.shapes import Shapes


class Architecture(BaseModel):
    """All that decides the shapes of a network's weights.

    A user's own class is not named here: a file must not decide which code runs.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    settings: Model
    """Of the family, as in the pipeline's YAML."""
    shapes: Shapes
    outputs: Annotated[int, Field(gt=0)]
    """Width of what the network gives for a row."""

    @model_validator(mode="after")
    def _can_be_built(self) -> Self:
        self.settings.require_fits(self.shapes, self.outputs)
        return self

    @property
    def family(self) -> str:
        """Such as `mlp`."""
        return self.settings.family

    def to_dict(self) -> dict[str, Any]:
        """Values that JSON can hold; `from_dict` takes them back."""
        return self.model_dump(mode="json")

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Architecture:
        """The architecture that `to_dict` was called on.

        Raises:
            ModelError: A value is missing, unknown, of another type or out of range.
        """
        # Config looks for the family before it looks whether this is a dict.
        wrong = None if isinstance(values.get("settings"), dict) else "settings"
        if wrong is None:
            try:
                found = cls.model_validate(values)
            except ValidationError as error:
                raise _refused(error) from error
            wrong = _first_difference(found.to_dict(), values)
        if wrong is not None:
            raise ModelError(
                f"architecture, {wrong}",
                "is missing or of another type than it was saved with",
                "Use the model's own files as they were saved, or train it again.",
            )
        return found


def architecture_of(model: Model, shapes: Shapes, outputs: int) -> Architecture:
    """The network for a pipeline's settings and features.

    Args:
        model: Section `train.model`.
        shapes: What a row looks like.
        outputs: Numbers to predict; see `Family.outputs`.

    Raises:
        ModelError: The settings do not fit the shapes.
    """
    width = model.outputs(shapes, outputs)
    try:
        return Architecture(settings=model.without_class(), shapes=shapes, outputs=width)
    except ValidationError as error:
        raise _refused(error) from error


def _first_difference(found: Any, given: Any, path: str = "") -> str | None:
    """Where the checked values are not the given ones: Pydantic takes 3.0 for 3, fills gaps."""
    if isinstance(found, dict) and isinstance(given, Mapping):
        below = [(key, value, given.get(key, ...)) for key, value in found.items()]
    elif isinstance(found, list) and isinstance(given, list):
        below = [(str(i), *both) for i, both in enumerate(zip(found, given, strict=True))]
    else:
        # Texts, for which 1, 1.0 and True are three, and nan is nan.
        return None if repr(found) == repr(given) else path
    for key, value, other in below:
        place = _first_difference(value, other, f"{path}.{key}".lstrip("."))
        if place is not None:
            return place
    return None


def _refused(error: ValidationError) -> ModelError:
    first = error.errors(include_url=False)[0]
    place = ".".join(str(part) for part in first["loc"])
    shown = "" if first["type"] == "value_error" else f" (value: {first['input']!r})"
    return ModelError(
        f"architecture, {place}" if place else "architecture",
        f"{first['msg'].removeprefix('Value error, ')}{shown}",
        "Use the model's own files as they were saved, or correct train.model and train again.",
    )
