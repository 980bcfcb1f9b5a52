"""The contract's columns among those that files have, by name, alias, pattern and policy."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from pipeline.config import Column, Files
from pipeline.errors import ConfigError, SchemaError, one_line
from pipeline.settings import is_pattern
from pipeline.sources.raw import shortened

_CONTRACT_NAME = re.compile(r"[^_.`][^.`]*")


@dataclass(frozen=True)
class Match:
    """The contract against the columns of one file."""

    found: Mapping[str, tuple[str, ...]]
    """Column of the contract to the column it is read from, and the fields below it."""
    missing: tuple[str, ...]
    """Columns of the contract that the file lacks."""
    new: tuple[str, ...]
    """Columns of the file that the contract does not name."""


def match(files: Files, names: Sequence[str], where: str, nested: Collection[str] = ()) -> Match:
    """Finds the contract's columns in a file, and applies the policies for names.

    Args:
        files: The contract, without patterns.
        names: Columns of the file, partition columns among them.
        where: The file, for the message.
        nested: Those of them that have fields.

    Raises:
        SchemaError: A column is missing, new, there twice, or there in two cases.
    """
    _refuse_doubled(names, where)
    found = {
        name: path
        for name, column in files.columns.items()
        if (path := find_column(files, name, column, names, nested)) is not None
    }
    refuse_twins([path[0] for path in found.values()], names, where)
    missing = tuple(name for name in files.columns if name not in found)
    used = {path[0] for path in found.values()}
    new = tuple(name for name in names if name not in used)
    if missing and files.policies.missing_column == "fail":
        spelled = files.columns[missing[0]].names
        also = f" (from: {', '.join(spelled)})" if spelled else ""
        raise SchemaError(
            f"{where}, column {missing[0]}{also}",
            f"is missing; the file has {_shown(files, names)}",
            "Correct the contract under `columns` (`from` gives other names), deliver the file "
            "again, or choose policies.missing_column.",
        )
    if new and files.policies.new_column == "fail":
        raise SchemaError(
            f"{where}, column {shortened(one_line(new[0]))}",
            "is not in the contract, and policies.new_column is fail",
            "Add it to `columns`, or choose another policy.",
        )
    return Match(found, missing, new)


def find_column(
    files: Files, name: str, column: Column, names: Sequence[str], nested: Collection[str] = ()
) -> tuple[str, ...] | None:
    """Where a column of the contract is among columns of a file; None where it is not.

    Args:
        files: For the policy on case.
        name: Of the column in the contract.
        column: The contract's.
        names: Columns of the file.
        nested: Those of them that have fields.
    """
    for wanted in column.names or (name,):
        top = _same(files, wanted, names)
        if top is not None:
            return (top,)
        first, *fields = wanted.split(".")
        top = _same(files, first, names)
        if fields and top is not None and top in nested:
            return (top, *fields)
    return None


def expanded(
    files: Files, seen: Iterable[str], setting: str, reserved: Collection[str] = ()
) -> Files:
    """The same contract with each pattern written out.

    Args:
        files: Its patterns stand for columns that no other entry names.
        seen: Columns of all files.
        setting: Section of the YAML, for the message.
        reserved: Names that columns of ours have; they, and names that a contract may not have, are
            only taken by `from`.

    Raises:
        ConfigError: A pattern matches nothing.
    """
    if not files.patterns:
        return files
    names = list(dict.fromkeys(seen))
    explicit = {n: c for n, c in files.columns.items() if not is_pattern(n)}
    paths = (find_column(files, name, column, names) for name, column in explicit.items())
    taken = {path[0] for path in paths if path} | set(explicit) | set(reserved)
    free = [n for n in names if n not in taken and _CONTRACT_NAME.fullmatch(n)]
    columns: dict[str, Column] = {}
    for name, column in files.columns.items():
        if not is_pattern(name):
            columns[name] = column
            continue
        matched = [n for n in free if fnmatchcase(n, name) and n not in columns]
        if not matched:
            raise ConfigError(
                f"{setting}.columns.{name}",
                f"matches no column; the files have {_listed(names)}",
                "Correct the pattern.",
            )
        columns |= dict.fromkeys(matched, column)
    return files.model_copy(update={"columns": columns})


def _same(files: Files, wanted: str, names: Sequence[str]) -> str | None:
    if wanted in names:
        return wanted
    if files.policies.case == "exact":
        return None
    alike = [name for name in names if name.lower() == wanted.lower()]
    return alike[0] if len(alike) == 1 else None


def _refuse_doubled(names: Sequence[str], where: str) -> None:
    doubled = (
        [name for place, name in enumerate(names) if name in names[:place]]
        if len(set(names)) < len(names)
        else []
    )
    if doubled:
        raise SchemaError(
            f"{where}, column {shortened(one_line(doubled[0]))}",
            "is there twice, so which of the two is meant is not known",
            "Deliver the file with one column of each name.",
        )


def refuse_twins(used: Sequence[str], names: Sequence[str], where: str) -> None:
    """Spark tells columns apart without their case, whatever the policy says."""
    lowered: dict[str, list[str]] = {}
    for name in names:
        lowered.setdefault(name.lower(), []).append(name)
    for name in used:
        twins = lowered[name.lower()]
        if len(twins) > 1:
            raise SchemaError(
                f"{where}, column {name}",
                f"is beside {next(n for n in twins if n != name)}, which Spark takes for the same",
                "Deliver the file with names that differ in more than their case.",
            )


def _shown(files: Files, names: Sequence[str]) -> str:
    # Where a header is missing, these are the values of a row.
    if any(column.sensitive for column in files.columns.values()):
        return f"{len(names)} columns, which are not shown as one of the contract is sensitive"
    return _listed(names)


def _listed(names: Sequence[str], most: int = 30) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return shortened(one_line(", ".join(names[:most]))) + more
