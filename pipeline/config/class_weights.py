"""The setting `train.class_weights`: what the rows of each class count in the loss."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

from pydantic import PlainValidator

from pipeline.config.label import Label

MOST = 1e9


def _read(given: Any) -> Any:
    """As it is kept: names of classes as text, since YAML reads `0` and `true` as something else.

    Raises:
        ValueError: It is something else, or a weight is no number above 0.
    """
    if given is None or given == "balanced":
        return given
    if not isinstance(given, dict) or not given:
        raise ValueError(f"{given!r} is neither balanced nor a mapping of class to weight")
    named = [(_text(name), weight) for name, weight in given.items()]
    for name, weight in named:
        is_number = isinstance(weight, int | float) and not isinstance(weight, bool)
        if not is_number or not 0 < weight < math.inf:
            raise ValueError(f"the weight of class {name!r} is {weight!r}, not a number above 0")
        if not 1 / MOST <= weight <= MOST:  # the loss is added up in float32
            raise ValueError(f"the weight of class {name!r} is not between {1 / MOST} and {MOST}")
    weights = {name: float(weight) for name, weight in named}
    if len(weights) < len(named):
        raise ValueError(f"names a class twice: {', '.join(name for name, _ in named)}")
    return weights


def _text(name: object) -> str:
    return str(name).lower() if isinstance(name, bool) else str(name)


ClassWeights = Annotated[Literal["balanced"] | dict[str, float] | None, PlainValidator(_read)]
"""`balanced`, or class to weight; a class that is not named has 1."""


def require_classes_known(
    weights: Literal["balanced"] | dict[str, float] | None, label: Label
) -> None:
    """Refuses weights of what is no class of the label.

    Raises:
        ValueError: It names the class and those there are.
    """
    if weights is None:
        return
    classes = label.definition.class_names(label)
    if not classes:
        raise ValueError(
            f"train.class_weights says nothing to the task {label.task}, whose rows are of no "
            "class; weigh rows by features.weight"
        )
    if weights == "balanced":
        return
    places = {name: place for place, names in enumerate(classes) for name in names}
    unknown = [name for name in weights if name not in places]
    if unknown:
        raise ValueError(
            f"train.class_weights: there is no class {unknown[0]!r}, only {', '.join(places)}"
        )
    if len({places[name] for name in weights}) < len(weights):
        raise ValueError(f"train.class_weights: {', '.join(weights)} name a class twice")
