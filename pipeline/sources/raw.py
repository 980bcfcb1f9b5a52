"""What every source gives to `clean`: files as they were found, and rows with their origin.

Every row carries where it came from, so that ties between duplicates are broken the same way
every time and a quarantined row can be traced back.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

from py4j.protocol import Py4JJavaError
from pyspark.errors import PySparkException
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from pipeline.config import Files
from pipeline.errors import LakestormError, SourceError
from pipeline.lake.faults import unreadable_file
from pipeline.lake.snapshot import unescaped

FILE = "_source_file"
POSITION = "_source_position"
MALFORMED = "_malformed"
# Spark's own formats end at the millisecond.
_STAMP = "yyyy-MM-dd'T'HH:mm:ss.SSSSSS"
JSON_TIMES = {"timestampFormat": f"{_STAMP}XXX", "timestampNTZFormat": _STAMP}
"""Options of Spark's JSON under which times survive."""
JSON_OPTIONS = {"ignoreNullFields": "false", **JSON_TIMES}
"""How values are written as JSON, so that those that differ have texts that differ."""
PARTITION_NULL = "__HIVE_DEFAULT_PARTITION__"


@dataclass(frozen=True, kw_only=True)
class RawFile:
    """One raw file as it was found."""

    path: str
    """Absolute path, or a URI that `stores.reading.open_file` takes."""
    name: str
    """Path relative to the source, such as `2013/flights-01.parquet`: the same on every machine."""
    bytes: int
    modified_ns: int
    spark_path: str
    """The file as Spark takes it."""
    partition: Mapping[str, str | None] = field(default_factory=dict)
    """Columns that the folders it lies in name, such as `code=01`, to their text."""


@dataclass(frozen=True)
class Found:
    """All files of one source."""

    files: tuple[RawFile, ...]
    root: str
    """Folder that names are relative to, as `_metadata.file_path` spells it."""
    state: str = ""
    """What else the rows depend on, where files alone do not tell."""

    @property
    def bytes(self) -> int:
        """Of all files, as they are stored."""
        return sum(file.bytes for file in self.files)

    def only(self, paths: set[str]) -> Found:
        """Those of the files that Spark calls by these paths."""
        chosen = tuple(file for file in self.files if file.spark_path in paths)
        return replace(self, files=chosen)


@contextmanager
def reading(setting: str) -> Iterator[None]:
    """Translates Spark's failure to read raw files.

    Args:
        setting: Section of the YAML that describes them.

    Raises:
        SourceError: In the place of Spark's error; it names the file where Spark did.
    """
    try:
        yield
    except LakestormError:
        raise
    except (PySparkException, Py4JJavaError) as error:
        raise unreadable_file(error) or SourceError(
            setting,
            f"could not be read: {str(error).strip().splitlines()[0]}",
            "Mend the cause and run the stage again; nothing was committed.",
        ) from error


def with_origin(frame: DataFrame, root: str, position: Column) -> DataFrame:
    """Adds `FILE` and `POSITION`.

    Args:
        frame: Rows with Spark's `_metadata`, which is dropped.
        root: The folder that names are relative to, as `_metadata.file_path` spells it.
        position: Of a row in its file.
    """
    path = unescaped(F.col("_metadata.file_path"))
    usual = f"{root.rstrip('/')}/"
    # A pattern takes longer, for every row, than all else that is done for it here.
    below = F.when(
        F.startswith(path, F.lit(usual)), F.substr(path, F.lit(len(usual) + 1))
    ).otherwise(
        F.regexp_replace(path, rf"^\w+:/*\Q{usual.partition('://')[2].lstrip('/')}\E/*", "")
    )
    return frame.withColumns({FILE: below, POSITION: position}).drop("_metadata")


def partition_value(key: str) -> Column:
    """The text of a partition column, by the name of the row's file in `FILE`; null where unset."""
    folder = F.regexp_replace(F.col(FILE), r"[^/]*$", "")
    below = F.substring_index(F.concat(F.lit("/"), folder), f"/{key}=", -1)
    text = unescaped(F.substring_index(below, "/", 1))
    return F.when(text != PARTITION_NULL, text)


def quoted(*path: str) -> Column:
    """A column, or a field of a struct, whatever characters its name has."""
    escaped = (name.replace("`", "``") for name in path)
    return F.col(".".join(f"`{name}`" for name in escaped))


def shortened(text: str, most: int = 300) -> str:
    """A text that may come from data, cut where it becomes too long for a message."""
    return text if len(text) <= most else f"{text[:most]}..."


def has_option(files: Files, name: str) -> str | None:
    """The value of a reader's option, however its name is spelled; None where it is not set."""
    given = {option.lower(): value for option, value in files.options.items()}
    return given.get(name.lower())
