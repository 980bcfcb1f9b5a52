"""What a format of raw data is: everything that the rest of the system asks of one."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Protocol

from pyspark.sql import DataFrame, SparkSession

from pipeline.config import Files, Storage
from pipeline.errors import ConfigError
from pipeline.sources.matching import Match
from pipeline.sources.places import find
from pipeline.sources.raw import Found


class Rows(Protocol):
    """The rows of one source, as its files have them; each format has a class that does this."""

    @property
    def files(self) -> Files:
        """The contract and how the files are read."""

    @property
    def found(self) -> Found:
        """The files."""

    knows_columns: ClassVar[bool]
    """Whether it knows which columns a file has."""

    def columns(self) -> list[str]:
        """Names of all columns that the files have, some perhaps more than once."""

    def matches(self) -> list[Match]:
        """The contract against each file, or all of them.

        Raises:
            SchemaError: A policy forbids what a file has or lacks.
        """

    def frames(self, spark: SparkSession) -> list[DataFrame]:
        """The contract's columns as the files spell them, with where each row came from.

        Returns:
            Frames with equal columns: those of the contract, in types that may differ from frame
            to frame; `other_columns` under the policy `keep`; `FILE`, `POSITION`, `MALFORMED`.

        Raises:
            SourceError: A file cannot be read.
            SchemaError: A column has a type that cannot be cast.
        """

    def rows(self) -> int | None:
        """How many there are, by what the files say of themselves; None where they do not."""


class Format:
    """A format that is read as it is."""

    name: ClassVar[str]
    """Its key in the table of formats."""

    endings: ClassVar[tuple[str, ...]] = ()
    """What names of files end with; none where something else tells which files there are."""

    by_block: ClassVar[bool] = False
    """Whether a row's position is its place among those that one task reads of its file: then it is
    the same again only where a task reads a whole file."""

    by_log: ClassVar[bool] = False
    """Whether a Delta log tells which files there are: `version` and `as_of` pin it, an increment
    follows its commits, and rows do not stay in their files."""

    def require_readable(self, files: Files, setting: str) -> None:
        """Refuses settings that say nothing to the format, or under which rows would be lost.

        Args:
            files: A section of the YAML.
            setting: Its name, such as `source`, for messages.

        Raises:
            ConfigError: It names the setting.
        """
        if not self.by_log and (files.version is not None or files.as_of is not None):
            pinned = "version" if files.version is not None else "as_of"
            raise ConfigError(
                f"{setting}.{pinned}", f"says nothing to the format {self.name}", "Leave it out."
            )

    def open(self, spark: SparkSession, files: Files, setting: str, storage: Storage) -> Rows:
        """Finds the files of a source.

        Args:
            spark: The session.
            files: A section of the YAML.
            setting: Its name, for messages.
            storage: How an object store is reached, unless the section says otherwise.

        Raises:
            SourceError: There is no file, or one that cannot be read.
        """
        raise NotImplementedError

    def find(self, files: Files, setting: str, storage: Storage) -> Found:
        """The files with one of the endings, for `open`; raises as it does."""
        return find(files, setting, self.endings, storage)


class LaidOut(Protocol):
    """A format that Spark does not read: files are laid out as Parquet, which is the raw data."""

    def lay_out(self, folder: Path, target: Path) -> Path:
        """Writes the files below `target` as Parquet, all or none; once, until one changes.

        Args:
            folder: Holds the files.
            target: Folder for all that is laid out of this source.

        Returns:
            The folder of the Parquet files: another one for other files.

        Raises:
            SourceError: There is no file, or one that is not whole.
        """
