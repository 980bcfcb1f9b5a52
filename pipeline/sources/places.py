"""Where raw files lie: folders, files and globs, on disks and in object stores."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path, PurePosixPath
from urllib.parse import unquote

from pipeline.address import address_of
from pipeline.config import Files, Pipeline, Storage
from pipeline.errors import SourceError, one_line
from pipeline.sources.raw import PARTITION_NULL, Found, RawFile
from pipeline.stores.folder import Entry, Folder, folder_of
from pipeline.stores.settings import Hadoop

# In a path, Spark takes them for a pattern.
_UNREADABLE_NAME = re.compile(r"[:*?\[\]{}\\]")
_BAD_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")
_PARTITION = re.compile(r"([^/=]+)=([^/]*)")
# Folders by which other table formats are known.
_TABLE_FORMATS = {"_delta_log": "Delta", ".hoodie": "Hudi", "metadata": "Iceberg"}
_AS_TABLE = (
    "As loose files, rows that it no longer has would come in: name the table's own folder, "
    "without a wildcard."
)
_NO_TABLE = "Such tables are not read; export it as Parquet or Delta."


def find(files: Files, setting: str, endings: Sequence[str], storage: Storage) -> Found:
    """The raw files of a source, by name.

    Args:
        files: Paths from the YAML.
        setting: Where in the YAML, for the message.
        endings: What names end with, such as `.csv`.
        storage: How an object store is reached, unless `files` says otherwise.

    Raises:
        SourceError: There is none, one has no bytes or a name that Spark cannot read, or a folder
            holds a table of another format.
    """
    places = [_Place(path, files.storage or storage) for path in files.path]
    listed: dict[str, RawFile] = {}
    for place in places:
        here = list(place.files(endings))
        if not here:
            raise _nothing_there(place.path, files, setting, endings)
        place.refuse_tables(here, setting)
        listed |= {file.spark_path: file for file in here}
    root = _common_root([place.root_uri for place in places])
    named = [_named(file, root) for file in _by_content(listed.values())]
    found = sorted((file for file in named if not _is_hidden(file.name)), key=lambda f: f.name)
    if not found:
        raise _nothing_there(", ".join(files.path), files, setting, endings)
    _refuse_unreadable(found)
    return Found(tuple(_with_partitions(found)), root)


def _nothing_there(path: str, files: Files, setting: str, endings: Sequence[str]) -> SourceError:
    return SourceError(
        f"{setting}.path",
        f"there is no {files.format} file in {path}{_missing(path)}",
        f"Put the raw files there (named {', '.join(f'*{each}' for each in endings)}), or set the "
        "path to where they are.",
    )


def _missing(path: str) -> str:
    fixed, pattern = split_pattern(path)
    is_there = address_of(fixed) is not None or pattern is not None or Path(fixed).exists()
    return "" if is_there else ", which does not exist"


def stores_of(pipeline: Pipeline) -> list[Hadoop]:
    """What Spark is told of all object stores that a pipeline's lake and raw files are in."""
    places = [(pipeline.lake, pipeline.storage)]
    for files in pipeline.raw.values():
        storage = files.storage or pipeline.storage
        places += [(split_pattern(path)[0], storage) for path in files.path]
    found = (folder_of(place, storage).hadoop for place, storage in places)
    return list({str(each): each for each in found if each is not None}.values())


class _Place:
    """One path of a source, split into a folder and the part of it with wildcards."""

    def __init__(self, path: str, storage: Storage) -> None:
        self.path = path
        fixed, self.pattern = split_pattern(path)
        self.is_remote = address_of(fixed) is not None
        if self.is_remote and self.pattern is None:
            parent, _, name = fixed.rstrip("/").rpartition("/")
            # A store has no folders: what it has under this very name is a file.
            if not parent.endswith("/") and folder_of(parent, storage).sizes([name]) != [None]:
                fixed, self.pattern = parent, glob.escape(name)
        if not self.is_remote:
            fixed = os.path.abspath(fixed)  # noqa: PTH100 (links stay as they are named)
        self.folder: Folder = folder_of(fixed, storage)

    @property
    def root_uri(self) -> str:
        """The folder, as `_metadata.file_path` spells it."""
        if self.is_remote:
            return self.folder.spark_path("").rstrip("/")
        root = Path(self.folder.root)
        return f"file://{root.parent if root.is_file() else root}"

    def refuse_tables(self, files: Sequence[RawFile], setting: str) -> None:
        """Refuses files of a table whose format is read in another way, or in none."""
        base = self.folder.spark_path("").rstrip("/")
        folders = {"", *(parent for file in files for parent in _parents(file.spark_path, base))}
        for folder in sorted(folders):
            for name, kind in _TABLE_FORMATS.items():
                if self._is_table(folder, name):
                    raise SourceError(
                        f"{setting}.path",
                        f"{self.path} holds a table of {kind}: {folder or '.'}/{name}",
                        _AS_TABLE if name == "_delta_log" else _NO_TABLE,
                    )

    def _is_table(self, folder: str, name: str) -> bool:
        below = f"{folder}/{name}".lstrip("/")
        if self.is_remote:
            inside = [entry for entry in self._entries if entry.path.startswith(f"{below}/")]
            names = [entry.path for entry in inside]
        elif name == "metadata" or not Path(self.folder.root, below).is_dir():
            names = [str(path) for path in Path(self.folder.root, below).glob("*.metadata.json")]
        else:
            return True
        return any(name != "metadata" or each.endswith(".metadata.json") for each in names)

    def files(self, endings: Sequence[str]) -> Iterator[RawFile]:
        """The files that the path names, also hidden ones."""
        if self.is_remote:
            yield from self._remote(endings)
            return
        root = Path(self.folder.root)
        if self.pattern is not None:
            found = glob.glob(str(root / self.pattern), recursive=True)  # noqa: PTH207 (Path.glob takes no absolute pattern)
        elif root.is_dir():
            found = [str(p) for p in _walk(root) if _ends(p.name, endings)]
        else:
            found = [str(root)]
        for path in found:
            # A folder that Spark wrote is often called `x.parquet` itself.
            if Path(path).is_dir():
                if self.pattern is not None:
                    inside = _walk(Path(path))
                    yield from map(_local, (p for p in inside if _ends(p.name, endings)))
                continue
            if not os.path.lexists(path):
                continue
            if not Path(path).is_file():
                raise SourceError(
                    f"file {path}",
                    "is no file: a link to nothing, a pipe or a socket",
                    "Remove it, or deliver what it stands for.",
                )
            yield _local(Path(path))

    def _remote(self, endings: Sequence[str]) -> Iterator[RawFile]:
        wanted = None if self.pattern is None else re.compile(_regex(self.pattern))
        for entry in self._entries:
            fits = _ends(entry.path, endings)
            if wanted is not None:
                named = [*_parents(entry.path, ""), *([entry.path] if not fits else [])]
                within = fits and any(wanted.fullmatch(name) for name in named)
                fits = within or wanted.fullmatch(entry.path) is not None
            if entry.is_file and fits:
                yield RawFile(
                    path=self.folder.uri(entry.path),
                    name="",
                    bytes=entry.bytes,
                    modified_ns=int(entry.modified_seconds * 1e9),
                    spark_path=self.folder.spark_path(entry.path),
                )

    @cached_property
    def _entries(self) -> list[Entry]:
        return self.folder.entries()


def split_pattern(path: str) -> tuple[str, str | None]:
    """The folder that a path begins with, and the rest from its first wildcard on."""
    parts = path.split("/")
    wild = (place for place, part in enumerate(parts) if glob.has_magic(part))
    first = next(wild, None)
    if first is None:
        return path, None
    return "/".join(parts[:first]) or ("/" if path.startswith("/") else "."), "/".join(
        parts[first:]
    )


def _local(path: Path) -> RawFile:
    state = path.stat()
    return RawFile(
        path=str(path),
        name="",
        bytes=state.st_size,
        modified_ns=state.st_mtime_ns,
        spark_path=str(path),
    )


def _ends(name: str, endings: Sequence[str]) -> bool:
    return name.lower().endswith(tuple(endings))


def _by_content(files: Iterable[RawFile]) -> list[RawFile]:
    """Each file once, also where links name it again: by the name that is no link, if there is."""
    by_place: dict[str, RawFile] = {}
    for file in sorted(files, key=lambda each: (Path(each.path).is_symlink(), each.path)):
        place = file.path if "://" in file.path else os.path.realpath(file.path)
        known = by_place.setdefault(place, file)
        if known.path != place and file.path == place:
            by_place[place] = file
    return list(by_place.values())


def _parents(path: str, base: str) -> Iterator[str]:
    """The folders that a file lies in, below a base and relative to it."""
    parts = path.removeprefix(base).strip("/").split("/")[:-1]
    return ("/".join(parts[:count]) for count in range(1, len(parts) + 1))


def _walk(root: Path) -> Iterator[Path]:
    """All files below a folder; links to folders are followed, once."""
    seen: set[str] = set()
    for folder, folders, names in os.walk(root, followlinks=True):
        real = os.path.realpath(folder)
        if real in seen:  # a link that leads back
            folders.clear()
            continue
        seen.add(real)
        yield from (Path(folder, name) for name in names)


def _regex(pattern: str) -> str:
    """A glob as a regular expression: `*` and `?` stop at a slash, `**/` does not."""
    told = ""
    for piece in re.split(r"(\*\*/|\*|\?|\[[^\]]*\])", pattern):
        told += {"**/": "(?:.*/)?", "*": "[^/]*", "?": "[^/]"}.get(
            piece, piece if piece.startswith("[") else re.escape(piece)
        )
    return told


def _common_root(roots: Sequence[str]) -> str:
    if len(set(roots)) == 1:
        return roots[0]
    schemes = {root.partition("://")[0] for root in roots}
    if len(schemes) > 1:
        return ""
    scheme = schemes.pop()
    return f"{scheme}://{os.path.commonpath([root.partition('://')[2] for root in roots])}"


def _named(file: RawFile, root: str) -> RawFile:
    """The file with its name below the root."""
    uri = file.spark_path if "://" in file.spark_path else f"file://{file.spark_path}"
    return replace(file, name=uri.removeprefix(root).lstrip("/"))


def _is_hidden(name: str) -> bool:
    """Whether it is another writer's file in progress, or a log; `_x=1` is a partition."""
    parts = PurePosixPath(name).parts
    return any(part.startswith((".", "_")) and "=" not in part for part in parts)


def _refuse_unreadable(found: Sequence[RawFile]) -> None:
    for file in found:
        if not file.path.isprintable():
            raise SourceError(
                f"file {one_line(file.path)}",
                "has a name that is no text: bytes that are not UTF-8, or control characters",
                "Rename it.",
            )
    unreadable = [
        file.path
        for file in found
        if _UNREADABLE_NAME.search(file.spark_path.partition("://")[2] or file.spark_path)
    ]
    if unreadable:
        raise SourceError(
            f"file {unreadable[0]}",
            r"has one of : * ? [ ] { } \ in its path, which Spark would take for a pattern",
            "Rename it.",
        )
    empty = [file.path for file in found if file.bytes == 0]
    if empty:
        raise SourceError(
            f"file {empty[0]}",
            f"is empty (0 bytes; {len(empty)} such files)",
            "Remove it, or deliver it again.",
        )


def _with_partitions(found: Sequence[RawFile]) -> Iterator[RawFile]:
    for file in found:
        partition = partition_of(file.name)
        if any(value and _BAD_ESCAPE.search(value) for value in partition.values()):
            raise SourceError(
                f"file {file.path}",
                "lies in a folder whose name has a % that escapes nothing",
                "Write %25 for a per cent sign, as Hive does.",
            )
        yield replace(file, partition={k: unescape(v) for k, v in partition.items()})


def partition_of(name: str) -> Mapping[str, str]:
    """Columns that the folders of a file name, as they are spelled there.

    Source: Hive's layout of partitions, `key=value`, percent-escaped.
    """
    return {
        match[1]: match[2]
        for part in PurePosixPath(name).parts[:-1]
        if (match := _PARTITION.fullmatch(part)) is not None
    }


def unescape(value: str) -> str | None:
    """The value of a partition column by its folder's name."""
    return None if value == PARTITION_NULL else unquote(value)
