"""Where a lake is: a folder, or a place in an object store, by what the setting `lake` says."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal, TypeAlias

from pipeline.errors import ConfigError

Scheme: TypeAlias = Literal["s3", "abfss", "gs"]

_SCHEMES: dict[str, Scheme] = {
    "s3": "s3",
    "s3a": "s3",
    "s3n": "s3",
    "abfs": "abfss",
    "abfss": "abfss",
    "gs": "gs",
    "gcs": "gs",
}
_AZURE = re.compile(r"[a-z0-9-]+@[a-z0-9]+(\.[a-z0-9-]+)+")
_BUCKET = re.compile(r"[a-z0-9][a-z0-9._-]+")
# What every store, Hadoop and delta-rs spell alike, with nothing to be escaped.
_ESCAPE = re.compile(r"%[0-9A-Fa-f]{2}")
_PATH = re.compile(r"[\w.=/-]*", re.ASCII)
_FORMS = "s3://BUCKET/FOLDER, abfss://CONTAINER@ACCOUNT.dfs.core.windows.net/FOLDER or gs://BUCKET/FOLDER"


@dataclass(frozen=True)
class Address:
    """A folder in an object store."""

    scheme: Scheme
    bucket: str
    """The bucket; with Azure `container@account.dfs.core.windows.net`."""
    path: str
    """The folder in it, without a slash at either end; empty for the whole bucket."""

    def __str__(self) -> str:
        return f"{self.scheme}://{self.bucket}/{self.path}".rstrip("/")


def address_of(place: str, setting: str = "lake") -> Address | None:
    """Reads where a lake or raw files are; None for a folder of this machine.

    Args:
        place: A path, or a URI of an object store. `s3a://` and `s3n://` mean `s3://`.
        setting: Where it is written, for the message.

    Raises:
        ConfigError: No store answers to the URI, it names no bucket, or it holds what does not
            belong there. A secret in it is not repeated.
    """
    scheme, found, rest = place.partition("://")
    if not found:
        return None
    if scheme not in _SCHEMES:
        raise ConfigError(
            setting,
            f"is in no store that is known: {scheme}://",
            f"Give a folder by its path, or {_FORMS}.",
        )
    bucket, _, path = rest.partition("/")
    known = _SCHEMES[scheme]
    if (":" in bucket or "@" in bucket) and (known != "abfss" or not _AZURE.fullmatch(bucket)):
        raise ConfigError(
            setting,
            f"the URI holds more than a bucket, perhaps a secret: {scheme}://...",
            f"Give {_FORMS}; credentials come from the environment: docs/deploy.md.",
        )
    fits = (_AZURE if known == "abfss" else _BUCKET).fullmatch(bucket)
    if not fits:
        what = "no container and account" if known == "abfss" else "no bucket"
        raise ConfigError(setting, f"{scheme}://{bucket} names {what}", f"Give {_FORMS}.")
    if not _PATH.fullmatch(path) or "//" in path or {".", ".."} & {*path.split("/")}:
        raise ConfigError(
            setting,
            f"the folder in {scheme}://{bucket} has characters that stores spell differently",
            "Name it with letters, digits, `.`, `_`, `-` and `=`, without a query.",
        )
    return Address(known, bucket, path.strip("/"))


def refuse_escapes(place: str, setting: str) -> None:
    """Refuses a path to a Delta table that delta-rs would decode, and so look for elsewhere.

    Raises:
        ConfigError: It holds a per cent sign with two hexadecimal digits behind it.
    """
    escape = _ESCAPE.search(place)
    if escape is not None:
        raise ConfigError(
            setting,
            f"has {escape.group()} in its path ({place}), which delta-rs takes for one character",
            "Name another folder, or rename this one.",
        )
