"""What a network is: its family's settings and the shapes of its inputs, as JSON holds them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    model_serializer,
    model_validator,
)

from pipeline.config import Custom, Model, Rnn, Vae
from pipeline.errors import ModelError
from pipeline.features.kinds import lengths_names

Count = Annotated[int, Field(ge=0)]
Ids = Annotated[int, Field(ge=2)]
Side = Annotated[int, Field(gt=0)]
MOST_LAYERS = 1_000
"""Recurrent layers: a file that asks for a million must not hang who reads it."""


class Input(BaseModel):
    """An input that has a tensor of its own."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    form: Literal["image", "vector", "sequence"]
    shape: tuple[Side, ...] = ()
    """Of one row, or of one step of a sequence: () where that is one id or one number."""
    ids: Count = 0
    """Of a sequence of ids how many there are, the padding's among them; 0 for numbers."""
    ordered: bool = True
    """False for a bag, whose order means nothing."""


_IMAGE, _TOKENS, _SERIES = "image", "tokens", "series"


class Shapes(BaseModel):
    """What a network is given for a row."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    numeric: Count = 0
    """Numbers."""
    cardinalities: tuple[Ids, ...] = ()
    """Ids of each category; 0 is a missing value, 1 one out of the vocabulary."""
    image: tuple[Side, ...] = ()
    """Height and width, then channels if there are several; () unless there is one image."""
    token_ids: Count = 0
    """Ids of the input `tokens`, the padding's among them; 0 without it."""
    series: bool = False
    """Whether there is an input `series`, of numbers."""
    others: dict[str, Input] = {}
    """Further inputs by name: vectors, bags, several images or sequences."""

    @classmethod
    def of(cls, numeric: int, cardinalities: tuple[int, ...], named: Mapping[str, Input]) -> Self:
        """Shapes of numbers, ids, and inputs with a tensor of their own."""
        own = dict(named)
        image, tokens = own.pop(_IMAGE, None), own.pop(_TOKENS, None)
        return cls(
            numeric=numeric,
            cardinalities=cardinalities,
            image=image.shape if image else (),
            token_ids=tokens.ids if tokens else 0,
            series=own.pop(_SERIES, None) is not None,
            others=own,
        )

    @property
    def named(self) -> Mapping[str, Input]:
        """All inputs that have a tensor of their own."""
        found = {}
        if self.image:
            found[_IMAGE] = Input(form="image", shape=self.image)
        if self.token_ids:
            found[_TOKENS] = Input(form="sequence", ids=self.token_ids)
        if self.series:
            found[_SERIES] = Input(form="sequence")
        return {**found, **self.others}

    def of_form(self, form: str) -> Mapping[str, Input]:
        """The inputs of one form."""
        return {name: each for name, each in self.named.items() if each.form == form}

    @property
    def sequences(self) -> Mapping[str, Input]:
        """The inputs whose length differs from row to row."""
        return self.of_form("sequence")

    @property
    def bags(self) -> Mapping[str, Input]:
        """Those of them whose order means nothing: ids, of which networks take the mean."""
        return {name: each for name, each in self.sequences.items() if not each.ordered}

    @property
    def ordered(self) -> Mapping[str, Input]:
        """Those whose order has a meaning."""
        return {name: each for name, each in self.sequences.items() if each.ordered}

    @property
    def lengths(self) -> Mapping[str, str]:
        """Sequence to the input that holds its lengths."""
        return lengths_names(self.sequences)

    @model_serializer(mode="wrap")
    def _without_empty_others(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        # As version 0.1 wrote it, where that had such inputs.
        dumped: dict[str, Any] = dump(self)
        return dumped if self.others else {k: v for k, v in dumped.items() if k != "others"}

    @model_validator(mode="after")
    def _something(self) -> Self:
        if not (self.numeric or self.cardinalities or self.named):
            raise ValueError("no input at all")
        for name, bag in self.bags.items():
            if not bag.ids or bag.shape:
                raise ValueError(f"{name} is a bag, but not one of ids")
        for name, image in self.of_form("image").items():
            if len(image.shape) not in (2, 3):
                raise ValueError(f"{name} {list(image.shape)} has neither 2 nor 3 dimensions")
        return self


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
    def _image_survives_the_poolings(self) -> Self:
        blocks = len(getattr(self.settings, "channels", ()))
        if self.shapes.image and min(self.shapes.image[:2]) < 2**blocks:
            raise ValueError(
                f"settings.channels: {blocks} blocks halve an image of "
                f"{self.shapes.image[0]} x {self.shapes.image[1]} to nothing; set fewer"
            )
        return self

    @model_validator(mode="after")
    def _family_can_be_built(self) -> Self:
        images, sequences = len(self.shapes.of_form("image")), len(self.shapes.ordered)
        wanted = {
            "cnn": images == 1 and not sequences,
            "rnn": sequences == 1 and not images,
            "vae": images < 2 and not self.shapes.sequences,
        }
        if not wanted.get(self.family, self.family == "custom" or (images < 2 and not sequences)):
            raise ValueError(f"shapes: {self.shapes!r} are none that {self.family} reads")
        if isinstance(self.settings, Vae):
            width = rebuilt_width(self.shapes) + 2 * self.settings.latent
            if self.outputs != width:
                raise ValueError(f"outputs: {self.outputs} is not {width}, as the shapes have it")
        if isinstance(self.settings, Rnn) and self.settings.layers > MOST_LAYERS:
            raise ValueError(f"settings.layers: {self.settings.layers} are over {MOST_LAYERS}")
        if isinstance(self.settings, Custom) and self.settings.custom != NAMELESS:
            raise ValueError(f"settings.custom: {self.settings.custom!r} must not stand in a file")
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
        outputs: Numbers to predict; an autoencoder gives more, see `Vae.forward`.

    Raises:
        ModelError: The settings do not fit the shapes.
    """
    if isinstance(model, Vae):
        outputs = rebuilt_width(shapes) + 2 * model.latent
    try:
        return Architecture(settings=without_class(model), shapes=shapes, outputs=outputs)
    except ValidationError as error:
        raise _refused(error) from error


def rebuilt_width(shapes: Shapes) -> int:
    """Numbers that an autoencoder rebuilds: those of the image, else the numeric features."""
    return math.prod(shapes.image) if shapes.image else shapes.numeric


def without_class(model: Model) -> Model:
    """The settings, less the user's class."""
    if not isinstance(model, Custom):
        return model
    return model.model_copy(update={"custom": NAMELESS})


NAMELESS = "named.in:YAML"


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
