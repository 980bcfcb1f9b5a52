"""Sensitive columns: where a reader is shown rows, a hash stands for the value.

`quarantine` has to tell which rejected rows hold the same value, and must not tell the value. A
plain hash of a telephone number or a date of birth is found out by trying all of them, which takes
seconds. So the hash has a key: `LAKESTORM_HASH_KEY` in the environment, or else one that is drawn
once for a lake and stored beside its checkpoints, where only its owner can read it. Equal values
have equal hashes as long as the key stays.

Source: NIST FIPS 180-4 (SHA-256). Nobody chooses the hashed text to forge another one's hash, so
that the key may simply stand before it.
"""

from __future__ import annotations

import hashlib
import os
import secrets
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from pyspark.sql import Column
from pyspark.sql import functions as F
from pyspark.sql.types import ArrayType, BinaryType, DataType, MapType, StructType

from pipeline.clean.contract import UNREADABLE
from pipeline.config import Pipeline
from pipeline.errors import LakeNotWritableError
from pipeline.lake import Lake
from pipeline.sources.raw import JSON_OPTIONS, MALFORMED, quoted

KEY_VARIABLE = "LAKESTORM_HASH_KEY"
PREFIX = "sha256:"
WITHHELD = "(withheld)"


@dataclass(frozen=True)
class Redaction:
    """What is not shown of rows, and what stands in its place."""

    is_sensitive: Callable[[str], bool]
    """Whether a column of `clean` is."""
    any: bool
    """Whether any column of the contract is."""
    key: str
    """What values are hashed with; empty where there is none."""

    @classmethod
    def of(cls, pipeline: Pipeline, lake: Lake) -> Redaction:
        """That of a pipeline; draws the lake's key where one is needed and there is none.

        Raises:
            LakeNotWritableError: The key cannot be stored.
        """
        marked = any(column.sensitive for column in pipeline.source.columns.values())
        return cls(pipeline.is_sensitive, marked, _key(lake) if marked else "")

    def of_row(self, schema: StructType, contract: Sequence[str]) -> Column:
        """A row as the text that `quarantine` stores.

        The line of a broken row may be cut in the wrong places, so that a sensitive value is under
        another column: all of its values are hashed.

        Args:
            schema: Of the frame.
            contract: The columns.
        """
        if not self.any:
            return as_json([quoted(name) for name in contract])
        hashed = {
            name: self._hashed(_text(quoted(name), schema[name].dataType)).alias(name)
            for name in contract
        }
        shown = as_json([hashed[n] if self.is_sensitive(n) else quoted(n) for n in contract])
        if UNREADABLE not in schema.names:  # rows that were accepted once
            return shown
        return F.when(_is_broken(), as_json(list(hashed.values()))).otherwise(shown)

    def of_unreadable(self, contract: Sequence[str]) -> Column:
        """Column to the text that did not cast, as it may be shown; lines are withheld."""
        if not self.any:
            return F.to_json(UNREADABLE)
        hidden = [name for name in contract if self.is_sensitive(name)]

        def shown(name: Column, text: Column) -> Column:
            hashed = F.when(name.isin(hidden) | _is_broken(), self._hashed(text))
            return F.when(name == MALFORMED, F.lit(WITHHELD)).otherwise(F.coalesce(hashed, text))

        return F.to_json(F.transform_values(UNREADABLE, shown))

    def _hashed(self, text: Column) -> Column:
        return F.concat(F.lit(PREFIX), F.sha2(F.concat(F.lit(self.key), text), 256))


def as_json(columns: Sequence[Column]) -> Column:
    """A raw row as JSON, nulls included."""
    return F.to_json(F.struct(*columns), JSON_OPTIONS)


def _is_broken() -> Column:
    return F.col(UNREADABLE).getItem(MALFORMED).isNotNull()


def _text(column: Column, kind: DataType) -> Column:
    if isinstance(kind, BinaryType):
        return F.hex(column)
    if isinstance(kind, ArrayType | MapType | StructType):
        return F.to_json(column, JSON_OPTIONS)
    return column.cast("string")


def _key(lake: Lake) -> str:
    """The key in the form that Spark's plans show blank."""
    given = os.environ.get(KEY_VARIABLE)
    if not given:  # empty where a compose file names it and nobody set it
        given = _stored_key(lake)
    return f"lakestorm-key-{hashlib.sha256(given.encode()).hexdigest()}"


def _stored_key(lake: Lake) -> str:
    path = lake.work("keys", "quarantine")
    if not path.exists():
        try:
            _draw(path)
        except OSError as error:
            raise LakeNotWritableError(
                f"file {path}",
                f"cannot be written: {error.strerror or error}",
                f"Make its folder writable, or set {KEY_VARIABLE}.",
            ) from error
    return path.read_text()


def _draw(path: Path) -> None:
    """Stores a new key, unless another run was faster; nobody sees half of one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f"{path.name}.{secrets.token_hex(8)}")
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(secrets.token_hex(32))
    try:
        with suppress(FileExistsError):
            os.link(draft, path)
    finally:
        draft.unlink()
