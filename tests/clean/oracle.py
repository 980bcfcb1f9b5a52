"""What stage clean should do with dirty rows, in plain Python that shares no code with it."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import pyarrow as pa

# Every raw row has a `uid`; the others are dirty. One file spells its columns in one way.
Spelling = Literal["typed", "doubles", "text"]
COLUMNS = ("uid", "id", "at", "x", "place")
TYPES: dict[Spelling, tuple[pa.DataType, ...]] = {
    "typed": (pa.string(), pa.int64(), pa.int32(), pa.float32(), pa.string()),
    "doubles": (pa.string(), pa.float64(), pa.float64(), pa.float64(), pa.string()),
    "text": (pa.string(),) * 5,
}
SPELLINGS = {
    name: pa.schema(list(zip(COLUMNS, types, strict=True))) for name, types in TYPES.items()
}
CHANGES: dict[str, Any] = {
    "source.columns": {
        "uid": {"type": "string", "required": True},
        "id": {"type": "int", "required": True},
        "at": {"type": "int"},
        "x": {"type": "double"},
        "place": {"type": "string"},
    },
    "clean.rules": {
        "share": {"check": "4 / x > 1", "action": "quarantine"},
        "known": {"check": "place IN ('a', 'b')", "action": "drop"},
        "near": {"check": "x < 3 OR place = 'b'", "action": "drop"},
        "early": {"check": "at < 2", "action": "warn"},
    },
    "clean.dedupe": {"keys": ["id"], "latest_by": ["at"]},
    "clean.period": {"column": "period", "expression": "place"},
    "features.keys": ["id"],
    "features.label": {"name": "late", "expression": "x > 1"},
    "features.splits": {"train": "true", "validation": "false", "test": "false"},
    "features.leakage": [],
    "features.numeric": {"at": {}},
    "features.categorical": {"place": {}},
}


@dataclass
class Fate:
    """What becomes of one row."""

    verdict: str
    reasons: list[str] = field(default_factory=list)
    dropped_by: str | None = None
    warned: bool = False


def whole(value: Any) -> tuple[int | None, bool]:
    """The value as an int of 32 bits, and whether it is at fault."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None, False
    if isinstance(value, str):
        digits = value.strip().removeprefix("-")
        if not (digits.isascii() and digits.isdigit()):
            return None, True
        value = int(value)
    if math.isinf(value) or value != int(value) or not -(2**31) <= value < 2**31:
        return None, True
    return int(value), False


def number(value: Any) -> tuple[float | None, bool]:
    if isinstance(value, str):
        try:
            value = float(value)
        except ValueError:
            return None, True
    return (None, False) if value is None or math.isnan(value) else (float(value), False)


def judged(row: Mapping[str, Any]) -> tuple[Fate, int | None, int | None]:
    """A row's fate if it has no rivals, its key and its age."""
    key, key_faulty = whole(row["id"])
    at, at_faulty = whole(row["at"])
    x, x_faulty = number(row["x"])
    faults = (("id", key_faulty), ("at", at_faulty), ("x", x_faulty))
    reasons = [f"cast:{column}" for column, faulty in faults if faulty]
    if key is None and not key_faulty:
        reasons.append("required:id")
    if not (x is not None and x != 0 and 4 / x > 1):
        reasons.append("rule:share")
    drops = []
    if row["place"] not in ("a", "b"):
        drops.append("rule:known")
    if not ((x is not None and x < 3) or row["place"] == "b"):
        drops.append("rule:near")
    if reasons:
        return Fate("quarantine", reasons + drops), key, at
    if drops:
        return Fate("drop", drops, drops[0]), key, at
    return Fate("clean", warned=not (at is not None and at < 2)), key, at


def fates(files: Mapping[str, Sequence[Mapping[str, Any]]]) -> dict[str, Fate]:
    """The fate of each row by its uid."""
    told: dict[str, Fate] = {}
    rivals: dict[int, list[tuple[Any, ...]]] = defaultdict(list)
    for name, rows in files.items():
        for position, row in enumerate(rows):
            fate, key, at = judged(row)
            told[row["uid"]] = fate
            if fate.verdict == "clean" and key is not None:
                age = (at is not None, at or 0)
                rivals[key].append((age, name, position, row["uid"]))
    for same in rivals.values():
        for *_, uid in sorted(same)[:-1]:
            told[uid] = Fate("quarantine", ["duplicate"])
    return told


def counts(told: Mapping[str, Fate]) -> dict[str, int]:
    """The counts that the stage reports."""
    found: Counter[str] = Counter()
    for fate in told.values():
        if fate.verdict == "quarantine":
            found.update(f"quarantine {reason}" for reason in fate.reasons)
        if fate.dropped_by:
            found[f"dropped {fate.dropped_by}"] += 1
        if fate.warned:
            found["warned early"] += 1
    return dict(found)
