"""The feature spec: everything that turns a row of `clean` into a row of `features`.

It is fitted on the train split, kept as JSON, and never changes: another fit is another spec with
another hash. Training, scoring and every later row use the same one.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping
from functools import cached_property
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import (
    BaseModel,
    ConfigDict,
    PlainValidator,
    PrivateAttr,
    SerializeAsAny,
    SerializerFunctionWrapHandler,
    ValidationError,
    model_serializer,
)

from pipeline.config import History, Label, LaterEvents, SpecSplits
from pipeline.errors import SpecError
from pipeline.features.format_1 import FormatOne
from pipeline.features.kinds import FeatureColumn, Fitted, Id, Number, kinds
from pipeline.features.weight import WEIGHT
from pipeline.lake import fingerprint

Form = TypeVar("Form", bound=FeatureColumn)
BITS_PER_COLUMN = 63
"""Of a `bigint`, its sign left out."""


def _of_its_kind(part: Any) -> Fitted:
    """A part of a spec, by the name of its kind.

    Raises:
        ValueError: No kind is called so.
    """
    if isinstance(part, Fitted):
        return part
    name = str(part.get("kind")) if isinstance(part, dict) else ""
    if name not in kinds():
        raise ValueError(
            f"there is no kind {name!r}, only {', '.join(kinds())}; name the module of your own "
            "kinds in the YAML: features.kinds"
        )
    return kinds()[name].parsed(part)


Part = Annotated[SerializeAsAny[Fitted], PlainValidator(_of_its_kind)]


class FeatureSpec(BaseModel):
    """A fitted spec."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: Literal[2] = 2
    pipeline: str
    keys: tuple[str, ...]
    period_column: str
    label: Label
    splits: SpecSplits
    leakage: tuple[str, ...]
    derive: dict[str, str]
    weight: str | None = None
    """Spark SQL of a row's weight in the training's loss."""
    histories: dict[str, History] = {}
    """What an entity's earlier events say."""
    outcomes: dict[str, LaterEvents] = {}
    """What an entity's later events say; for the label only."""
    parts: tuple[Part, ...]
    """The fitted features, in the order of a network's inputs."""

    _format_1: str | None = PrivateAttr(default=None)
    """The text that it was read from, of format 1."""

    @model_serializer(mode="wrap")
    def _without_what_is_unset(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        dumped: dict[str, Any] = dump(self)
        unset = [name for name in ("weight", "histories", "outcomes") if not getattr(self, name)]
        return {name: value for name, value in dumped.items() if name not in unset}

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """A copy with other values, and nothing that was computed of the old ones."""
        copied = super().model_copy(update=update, deep=deep)
        for name in ("hash", "parts_by_column", "columns"):
            copied.__dict__.pop(name, None)
        return copied

    @cached_property
    def hash(self) -> str:
        """16 hexadecimal digits over the whole spec."""
        if self._format_1 is not None:
            return fingerprint(spec=json.loads(self._format_1))
        return fingerprint(spec=self.model_dump(mode="json"))

    @property
    def table(self) -> str:
        """Name of the table that holds the features of this spec."""
        return f"features/{self.hash}"

    @cached_property
    def parts_by_column(self) -> Mapping[str, Fitted]:
        """Column of the table to the part that makes it."""
        return {column.name: part for part in self.parts for column in part.columns()}

    @cached_property
    def columns(self) -> tuple[FeatureColumn, ...]:
        """Columns of the table that a network is given, in the order of its inputs.

        Numbers, then ids, then the others, kind after kind; of each kind the values first, then
        what tells of missing ones.
        """
        ordered: list[FeatureColumn] = []
        for _, parts in itertools.groupby(self.parts, key=lambda part: part.kind):
            columns = [column for part in parts for column in part.columns()]
            ordered += sorted(columns, key=lambda column: column.is_indicator)
        forms = (Number, Id)
        places = {form: place for place, form in enumerate(forms)}
        return tuple(sorted(ordered, key=lambda column: places.get(type(column), len(forms))))

    @property
    def feature_columns(self) -> tuple[str, ...]:
        """Names of these columns."""
        return tuple(column.name for column in self.columns)

    def columns_of(self, form: type[Form]) -> tuple[Form, ...]:
        """The columns of one form."""
        return tuple(column for column in self.columns if isinstance(column, form))

    @property
    def numeric_columns(self) -> tuple[str, ...]:
        """Columns of the table that are numbers, in the order of the model's input."""
        return tuple(column.name for column in self.columns_of(Number))

    @property
    def categorical_columns(self) -> tuple[str, ...]:
        """Columns of the table that are ids, in the order of the model's input."""
        return tuple(column.name for column in self.columns_of(Id))

    @property
    def cardinalities(self) -> tuple[int, ...]:
        """Number of ids of each of these columns, reserved ids included."""
        return tuple(column.size for column in self.columns_of(Id))

    @property
    def imputed_columns(self) -> tuple[str, ...]:
        """Columns of `clean` whose missing values leave no trace in the features, each once."""
        traceless = (part.reads for part in self.parts if part.traceless)
        return tuple(dict.fromkeys(column for reads in traceless for column in reads))

    @property
    def missing_columns(self) -> tuple[str, ...]:
        """Columns of the table that tell what was missing, for drift; no network is given them.

        `bigint`: bit i of column k is set where `imputed_columns[63 k + i]` was missing.
        """
        columns = -(-len(self.imputed_columns) // BITS_PER_COLUMN)
        return tuple(f"_missing_{place}" for place in range(columns))

    @property
    def label_columns(self) -> tuple[str, ...]:
        """Columns of the table that hold the label: all of them null, or none."""
        return self.label.columns

    @property
    def of_other_rows(self) -> Mapping[str, History]:
        """Histories and outcomes: what makes columns of other rows of an entity."""
        return {**self.histories, **self.outcomes}

    @property
    def weight_columns(self) -> tuple[str, ...]:
        """The column of the table that holds the rows' weights, if there are any."""
        return () if self.weight is None else (WEIGHT,)

    @property
    def label_column(self) -> str:
        """The first of the label's columns."""
        return self.label_columns[0]

    @property
    def key_columns(self) -> tuple[str, ...]:
        """Columns that name a row."""
        return self.keys

    def to_json(self) -> str:
        """The spec for people and for `from_json`; one of format 1 as it was read."""
        return self._format_1 or self.model_dump_json(indent=2)

    @classmethod
    def from_json(cls, text: str | bytes) -> FeatureSpec:
        """Reads what `to_json` wrote, or version 0.1; runs nothing.

        Raises:
            SpecError: It is not a spec, or one of an unknown format or kind.
        """
        try:
            if _format_of(text) != 1:
                return cls.model_validate_json(text)
            old = FormatOne.model_validate_json(text)
            spec = cls.model_validate(old.upgraded())
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            place = ".".join(str(part) for part in first["loc"])
            raise SpecError(
                f"feature spec, {place or 'whole'}",
                first["msg"],
                "Run featurize again with this version of lakestorm.",
            ) from error
        spec._format_1 = old.model_dump_json(indent=2)  # noqa: SLF001
        return spec


def _format_of(text: str | bytes) -> object:
    """The format that a spec says it has; None where it says nothing."""
    try:
        described = json.loads(text)
    except ValueError:
        return None
    return described.get("format", 1) if isinstance(described, dict) else None
