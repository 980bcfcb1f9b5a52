"""A raw folder with a good set in it, one file of which is to be spoiled, and how."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

from benchmarks.corrupting.good import RFC_4180, VICTIM, Format, ending


@dataclass(frozen=True)
class Scene:
    """What a spoiler works on."""

    folder: Path
    """The raw folder; the good set is there."""
    kind: Format
    rows: list[dict[str, Any]]
    """Rows of the victim."""
    rng: random.Random

    @property
    def victim(self) -> Path:
        """The file that is to be spoiled."""
        return self.folder / f"{VICTIM}{ending(self.kind)}"

    def replace(self, content: bytes, suffix: str | None = None) -> None:
        """Writes other bytes in the victim's place.

        Args:
            content: The bytes.
            suffix: Another ending, such as `.csv.gz`.
        """
        self.victim.unlink()
        name = self.victim.name if suffix is None else f"{VICTIM}{suffix}"
        (self.folder / name).write_bytes(content)


Spoil: TypeAlias = Callable[[Scene], None]


@dataclass(frozen=True, kw_only=True)
class Variant:
    """One way to spoil a good set."""

    format: Format
    kind: str
    """Such as `pages flipped`: variants of a kind are counted together."""
    label: str
    """Which of the kind."""
    spoil: Spoil
    options: Mapping[str, str] = field(default_factory=dict)
    """Of Spark's reader."""
    trusts_engine: bool = True
    """Whether what an engine reads from the spoiled file is right; else only the rows from before
    are: engines that guess how a quote was meant guess wrong."""

    @property
    def name(self) -> str:
        """What `--only` takes."""
        return f"{self.format}/{self.kind}/{self.label}".replace(" ", "-")


def variants(
    kind_of_file: Format, kind: str, spoils: Mapping[str, Spoil], *, trusts_engine: bool = True
) -> list[Variant]:
    """One variant for each way to spoil, all of a kind."""
    return [
        Variant(
            format=kind_of_file,
            kind=kind,
            label=label,
            spoil=spoil,
            options=RFC_4180 if kind_of_file == "csv" else {},
            trusts_engine=trusts_engine,
        )
        for label, spoil in spoils.items()
    ]


def flipped(content: bytes, rng: random.Random, start: int, stop: int, count: int) -> bytes:
    """Bytes with some of them changed, none to what it was.

    Args:
        content: All bytes.
        rng: Which ones, and what to.
        start: The first byte that may change.
        stop: The first byte behind it that may not.
        count: How many are changed.
    """
    spoiled = bytearray(content)
    for place in rng.sample(range(start, stop), count):
        spoiled[place] ^= rng.randrange(1, 256)
    return bytes(spoiled)
