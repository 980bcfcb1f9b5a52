"""What Spark's checkpoint of `clean --incremental` says of the files that were read."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from pipeline.sources.raw import RawFile


def query_id(checkpoint: Path) -> str:
    """The query's id, which lasts as long as its checkpoint."""
    known: dict[str, Any] = json.loads((checkpoint / "metadata").read_text())
    return str(known["id"])


def last_batch(checkpoint: Path) -> int:
    """The last batch that Spark knows to be committed; -1 before the first."""
    names = [path.name for path in (checkpoint / "commits").glob("[0-9]*")]
    return max((int(name) for name in names if name.isdecimal()), default=-1)


def files_found(checkpoint: Path) -> Iterator[tuple[str, int, int]]:
    """Files that the query found, their time of change in ms and their batch, by Spark's log."""
    # A log a folder of the source.
    for part in sorted(checkpoint.glob("sources/*/[0-9]*")):
        for line in part.read_text().splitlines()[1:]:  # the first names the format's version
            entry: dict[str, Any] = json.loads(line)
            yield spark_path(entry["path"]), int(entry["timestamp"]), int(entry["batchId"])


def changed_ms(file: RawFile) -> int:
    """When a file was changed, as Spark counts."""
    return file.modified_ns // 1_000_000


def spark_path(uri: str) -> str:
    """The path of a file that Spark names by its URI; in an object store, a URI without escapes."""
    split = urlsplit(uri)
    return unquote(split.path if split.scheme in ("", "file") else uri)
