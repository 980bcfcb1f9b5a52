"""A folder of the lake: what is in it, read and written, on a disk and in an object store.

Whatever else knows a lake's files goes through here, so that nobody else asks where they lie.
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
import uuid
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Protocol
from urllib.parse import quote

import pyarrow as pa
import pyarrow.fs as pafs

from pipeline.address import Address, address_of
from pipeline.config import Storage
from pipeline.errors import LakeError, one_line
from pipeline.stores import settings
from pipeline.stores.reading import open_file, writable

# Questions to an object store that are under way at once.
_THREADS = 16
_ANSI = re.compile(r"\x1b\[[0-9;]*m")
_SIGNED = re.compile(r"\b(sig|sv|se|X-Amz-[A-Za-z-]+)=[^&\s\"')]+")


@dataclass(frozen=True, slots=True)
class Entry:
    """What lies in a folder."""

    path: str
    """Relative to the folder that was listed."""
    is_file: bool
    bytes: int
    modified_seconds: float
    """Since 1970; 0 where the store does not say."""


class Folder(Protocol):
    """A folder; paths are relative to it, with `/` between their parts."""

    @property
    def root(self) -> str:
        """Absolute path, or URI without options."""

    @property
    def is_remote(self) -> bool:
        """Whether it lies in an object store."""

    def below(self, name: str) -> Folder:
        """A folder in it."""

    def uri(self, path: str) -> str:
        """A file as `reading.open_file` takes it."""

    def spark_path(self, path: str) -> str:
        """A file or a folder as Spark takes it."""

    @property
    def delta_options(self) -> dict[str, str] | None:
        """What delta-rs is told of the store."""

    @property
    def hadoop(self) -> settings.Hadoop | None:
        """What Spark is told of it."""

    def entries(self) -> list[Entry]:
        """All that is in it, at any depth; nothing if it is not there."""

    def subfolders(self) -> list[str]:
        """Names of the folders directly in it; none if it is not there."""

    def sizes(self, paths: Sequence[str]) -> list[int | None]:
        """Bytes of files; None for one that is not there."""

    def open(self, path: str) -> pa.NativeFile:
        """Opens a file to be read, by several threads."""

    def create(self, path: str) -> AbstractContextManager[pa.NativeFile]:
        """Opens a new file to be written, and makes the folders that it lies in."""

    def put(self, path: str, content: bytes) -> None:
        """Writes a whole file in place of what is there: a reader sees the old or the new one."""

    def remove(self, path: str) -> None:
        """Removes a file or a folder with all that is in it; does nothing if it is not there."""

    def modified_seconds(self) -> float:
        """When what lies directly in it last changed; 0 where no store says."""

    def prove_writable(self) -> None:
        """Makes a file in it and removes it; makes the folder where it is missing.

        Raises:
            OSError: A disk does not allow it.
            LakeError: A store does not.
        """

    def fault(self, error: Exception) -> LakeError:
        """An error of whoever reached for the store as one of ours."""


@dataclass(frozen=True)
class DiskFolder:
    """A folder of a file system."""

    root: str

    is_remote = False
    delta_options = None
    hadoop = None

    def below(self, name: str) -> DiskFolder:
        """A folder in it."""
        return DiskFolder(f"{self.root}/{name}")

    def uri(self, path: str) -> str:
        """An absolute path."""
        return f"{self.root}/{path}"

    spark_path = uri

    def entries(self) -> list[Entry]:
        """All that is in it."""
        found = pafs.FileSelector(self.root, allow_not_found=True, recursive=True)
        return _entries(pafs.LocalFileSystem().get_file_info(found), self.root)

    def subfolders(self) -> list[str]:
        """Links are not followed."""
        try:
            found = list(os.scandir(self.root))
        except (FileNotFoundError, NotADirectoryError):
            return []
        return [each.name for each in found if each.is_dir(follow_symlinks=False)]

    def sizes(self, paths: Sequence[str]) -> list[int | None]:
        """One after the other: a disk answers at once."""
        files = [Path(self.root) / path for path in paths]
        return [file.stat().st_size if file.is_file() else None for file in files]

    def open(self, path: str) -> pa.NativeFile:
        """Opens a file."""
        return open_file(self.uri(path))

    @contextmanager
    def create(self, path: str) -> Iterator[pa.NativeFile]:
        """Opens a new file."""
        place = Path(self.root) / path
        place.parent.mkdir(parents=True, exist_ok=True)
        with pa.OSFile(str(place), "wb") as file:
            yield file

    def put(self, path: str, content: bytes) -> None:
        """Beside its place, then renamed."""
        place = Path(self.root) / path
        beside = place.with_name(f".{place.name}.{os.getpid()}")
        try:
            place.parent.mkdir(exist_ok=True)
            beside.write_bytes(content)
            beside.replace(place)
        except OSError:
            with suppress(OSError):  # the first fault is the one to show
                beside.unlink(missing_ok=True)
            raise

    def remove(self, path: str) -> None:
        """Removes what it can."""
        gone = Path(self.root) / path
        if gone.is_dir():
            shutil.rmtree(gone, ignore_errors=True)
        else:
            with suppress(OSError):
                gone.unlink(missing_ok=True)

    def modified_seconds(self) -> float:
        """As the system has it."""
        return Path(self.root).stat().st_mtime

    def prove_writable(self) -> None:
        """By a file that is gone with this process."""
        Path(self.root).mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=self.root, prefix="."):
            pass

    def fault(self, error: Exception) -> LakeError:
        """What the system said."""
        told = error.strerror if isinstance(error, OSError) else None
        return LakeError(
            f"folder {self.root}", f"cannot be used: {told or plain(error)}", "Mend the cause."
        )


@dataclass(frozen=True)
class StoreFolder:
    """A folder in an object store, which keeps no folders: only names that begin alike."""

    address: Address
    storage: Storage

    is_remote = True

    @property
    def root(self) -> str:
        """The URI, by which delta-rs finds it."""
        return str(self.address)

    def below(self, name: str) -> StoreFolder:
        """A folder in it."""
        path = f"{self.address.path}/{name}".lstrip("/")
        return StoreFolder(Address(self.address.scheme, self.address.bucket, path), self.storage)

    def uri(self, path: str) -> str:
        """A URI that holds where the store is, so that whoever gets it needs nothing else."""
        named = quote(self._key(path)) if self.address.scheme == "s3" else self._key(path)
        return f"{self.address.scheme}://{named}{settings.query(self.address, self.storage)}"

    def spark_path(self, path: str) -> str:
        """A URI that Hadoop knows."""
        scheme = "s3a" if self.address.scheme == "s3" else self.address.scheme
        return f"{scheme}://{self._key(path)}"

    @property
    def delta_options(self) -> dict[str, str] | None:
        """Endpoint and region; delta-rs finds credentials by itself."""
        return settings.delta_options(self.address, self.storage)

    @property
    def hadoop(self) -> settings.Hadoop | None:
        """Endpoint, region, credentials' providers and jars."""
        return settings.hadoop(self.address, self.storage)

    def entries(self) -> list[Entry]:
        """One question for a thousand objects."""
        with self._told():
            filesystem, root = self._store("")
            found = pafs.FileSelector(root, allow_not_found=True, recursive=True)
            return _entries(filesystem.get_file_info(found), root)

    def subfolders(self) -> list[str]:
        """The beginnings of names."""
        with self._told():
            filesystem, root = self._store("")
            found = pafs.FileSelector(root, allow_not_found=True, recursive=False)
            infos = filesystem.get_file_info(found)
        return [info.base_name for info in infos if info.type == pafs.FileType.Directory]

    def sizes(self, paths: Sequence[str]) -> list[int | None]:
        """Several questions at once."""

        def size(path: str) -> int | None:
            filesystem, key = self._store(path)
            info = filesystem.get_file_info(key)
            return info.size if info.is_file else None

        with self._told(), ThreadPoolExecutor(_THREADS) as threads:
            return list(threads.map(size, paths))

    def open(self, path: str) -> pa.NativeFile:
        """Opens an object."""
        return open_file(self.uri(path))

    @contextmanager
    def create(self, path: str) -> Iterator[pa.NativeFile]:
        """Nobody sees the object before it is closed."""
        with self._told():
            filesystem, key = self._store(path)
            with filesystem.open_output_stream(key) as file:
                yield file

    def put(self, path: str, content: bytes) -> None:
        """An object is whole when it is seen."""
        with self.create(path) as file:
            file.write(content)

    def remove(self, path: str) -> None:
        """Removes an object, or all whose names begin so."""
        with self._told():
            filesystem, key = self._store(path)
            kind = filesystem.get_file_info(key).type
            if kind == pafs.FileType.File:
                filesystem.delete_file(key)
            elif kind == pafs.FileType.Directory:
                with suppress(FileNotFoundError):  # somebody else was removing it, too
                    filesystem.delete_dir(key)

    def modified_seconds(self) -> float:
        """There is no folder that could change."""
        return 0.0

    def prove_writable(self) -> None:
        """By an object that is written, read back and removed."""
        name, content = f".writable-{uuid.uuid4().hex}", b"lakestorm"
        with self.create(name) as file:
            file.write(content)
        with self._told(), self.open(name) as file:
            read = file.read()
        self.remove(name)
        if read != content:
            raise LakeError(
                f"lake in {self.address.scheme}://{self.address.bucket}",
                "gives back other bytes than were written",
                "Look at what lies between us and the store.",
            )

    def fault(self, error: Exception) -> LakeError:
        """What the store said, or what kept it from being asked."""
        told = plain(error)
        where = f"lake in {self.address.scheme}://{self.address.bucket}"
        if re.search("NO_SUCH_BUCKET|NoSuchBucket|bucket does not exist", told):
            return LakeError(where, "there is no such bucket", "Make it, or correct `lake`.")
        if re.search("ACCESS_DENIED|AccessDenied|INVALID_ACCESS_KEY|SIGNATURE|\\b40[13]\\b", told):
            return LakeError(
                where,
                f"does not let us in: {told}",
                "Set credentials in the environment of the driver and of all executors, or give "
                "the machines a role that may read, write and delete there: docs/deploy.md.",
            )
        return LakeError(
            where,
            f"does not answer as it should: {told}",
            "See that it can be reached: network, proxy, `storage.endpoint`, `storage.region`.",
        )

    @cached_property
    def _bucket(self) -> str:
        return f"{self.address.bucket}/{self.address.path}".rstrip("/")

    def _key(self, path: str) -> str:
        return f"{self._bucket}/{path}".rstrip("/")

    def _store(self, path: str) -> tuple[pafs.FileSystem, str]:
        return writable(self.uri(path))

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise self.fault(error) from error


def folder_of(root: str, storage: Storage | None = None) -> Folder:
    """The folder at a path or a URI.

    Args:
        root: As the setting `lake` has it; relative paths start at the working directory.
        storage: How a store is reached.

    Raises:
        ConfigError: The URI is none of a store, or holds what does not belong there.
    """
    address = address_of(root)
    if address is None:
        return DiskFolder(str(Path(root).absolute()))
    return StoreFolder(address, storage or Storage())


def plain(error: Exception) -> str:
    """What a store's error says, in one line, without colours and without what signs a request."""
    told = one_line(_ANSI.sub("", str(error)))
    return _SIGNED.sub(r"\1=...", told.replace("↳ ", ""))


def _entries(infos: Sequence[pafs.FileInfo], root: str) -> list[Entry]:
    return [
        Entry(
            path=info.path[len(root) :].strip("/"),
            is_file=info.is_file,
            bytes=info.size or 0,
            modified_seconds=(info.mtime_ns or 0) / 1e9,
        )
        for info in infos
    ]
