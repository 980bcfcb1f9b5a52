"""The one table of families, and the type of the setting `train.model`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Union, get_args

from pydantic import Discriminator, Tag

from pipeline.training.networks.cnn import Cnn
from pipeline.training.networks.custom import Custom
from pipeline.training.networks.family import Family
from pipeline.training.networks.mlp import Mlp
from pipeline.training.networks.rnn import Rnn
from pipeline.training.networks.vae import Vae

_CLASSES: tuple[type[Family], ...] = (Mlp, Cnn, Rnn, Vae, Custom)


def _name_of(family: type[Family]) -> str:
    """The only value of the field `family`; also the name of the folder."""
    [name] = get_args(family.model_fields["family"].annotation)
    return str(name)


FAMILIES: Mapping[str, type[Family]] = {_name_of(each): each for each in _CLASSES}
"""By the name that `train.model.family` has."""

DEFAULT_FAMILY = Mlp()
"""Where the YAML names none."""


def _family_of(model: Any) -> str:
    given = model.get("family") if isinstance(model, dict) else getattr(model, "family", None)
    return str(given or DEFAULT_FAMILY.family)


if TYPE_CHECKING:
    Model = Family
else:
    _TAGGED = tuple(Annotated[each, Tag(name)] for name, each in FAMILIES.items())
    Model = Annotated[Union[_TAGGED], Discriminator(_family_of)]  # noqa: UP007 - of a tuple
