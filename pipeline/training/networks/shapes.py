"""What a network is given for a row: names, forms and shapes of its inputs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)

from pipeline.features.kinds import (
    Bag,
    FeatureColumn,
    Id,
    Image,
    Number,
    Sequence,
    Vector,
    lengths_names,
)

Count = Annotated[int, Field(ge=0)]
Ids = Annotated[int, Field(ge=2)]
Side = Annotated[int, Field(gt=0)]


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

    @property
    def forms(self) -> Mapping[type[FeatureColumn], int]:
        """How many features there are of each form, as `Family.refusal` asks for."""
        return {
            Number: self.numeric,
            Id: len(self.cardinalities),
            Image: len(self.of_form("image")),
            Vector: len(self.of_form("vector")),
            Sequence: len(self.ordered),
            Bag: len(self.bags),
        }

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
