"""What is stored in a spec: numbers and words, in a form that later versions can add to."""

from __future__ import annotations

from typing import Any, Literal, get_origin

from pydantic import BaseModel, ConfigDict, SerializerFunctionWrapHandler, model_serializer


class Part(BaseModel):
    """No unknown field, no change; a dump leaves out what is as by default.

    So a field that a later version adds changes no hash of the specs that were fitted before.
    Literals stay, whatever their default is: they tell which class a part is of.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    @model_serializer(mode="wrap")
    def _without_defaults(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        dumped: dict[str, Any] = dump(self)
        fields = type(self).model_fields
        return {
            name: value
            for name, value in dumped.items()
            if get_origin(fields[name].annotation) is Literal
            or getattr(self, name) != fields[name].get_default()
        }
