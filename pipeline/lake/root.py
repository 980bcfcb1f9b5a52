"""The lake: one folder that holds all tables of a pipeline."""

from __future__ import annotations

import re
from pathlib import Path

from pipeline.address import refuse_escapes
from pipeline.config import Pipeline, Storage
from pipeline.errors import ConfigError, LakeError, LakeNotWritableError
from pipeline.lake.fingerprint import fingerprint
from pipeline.lake.table import Table
from pipeline.stores.folder import folder_of
from pipeline.stores.settings import Hadoop


class Lake:
    """A folder of tables.

    Args:
        root: The folder; relative paths start at the working directory. Or its URI in a store.
        storage: How the store is reached.

    Raises:
        ConfigError: The URI is none of a store that is known, or the path holds an escape.
    """

    def __init__(self, root: str | Path, storage: Storage | None = None) -> None:
        given = storage or Storage()
        # Executors have other working directories.
        work = None if given.work is None else str(Path(given.work).absolute())
        self.storage = given.model_copy(update={"work": work})
        self.folder = folder_of(str(root), self.storage)
        self.root = self.folder.root
        refuse_escapes(self.root, "lake")

    @classmethod
    def of(cls, pipeline: Pipeline) -> Lake:
        """The lake of a pipeline."""
        return cls(pipeline.lake, pipeline.storage)

    @property
    def is_remote(self) -> bool:
        """Whether it lies in an object store."""
        return self.folder.is_remote

    @property
    def hadoop(self) -> Hadoop | None:
        """What Spark is told of the store; None where there is none."""
        return self.folder.hadoop

    def table(self, name: str) -> Table:
        """The table of that name, which may hold `/`; it need not exist."""
        return Table(name, self.folder.below(name))

    def tables(self) -> list[Table]:
        """All tables of the lake, by name; `raw/` belongs to those who deliver files."""
        found = []
        waiting = [name for name in self.folder.subfolders() if name != "raw"]
        while waiting:
            name = waiting.pop()
            below = self.folder.below(name).subfolders()
            if "_delta_log" in below:
                found.append(self.table(name))
            else:
                waiting += [f"{name}/{each}" for each in below]
        return sorted(found, key=lambda table: table.name)

    def work(self, *names: str) -> Path:
        """A place on a disk for what is no table, such as checkpoints and locks.

        It is in the lake where that is a folder.

        Raises:
            ConfigError: The lake is in a store, and no folder is named for it.
        """
        if not self.is_remote:
            return Path(self.root, *names)
        if self.storage.work is None:
            raise ConfigError(
                "storage.work",
                f"is missing: {self.root} is in a store, which can hold no checkpoints and locks",
                "Name a folder on a disk.",
            )
        # One folder may serve several lakes.
        own = fingerprint(lake=self.root, endpoint=self.storage.endpoint)
        slug = re.sub(r"[^A-Za-z0-9.]+", "-", self.root)
        return Path(self.storage.work, f"{slug}-{own}", *names)

    def require_writable(self) -> None:
        """Proves that files can be made in it, and deleted; creates the folder where missing.

        Raises:
            LakeNotWritableError: They cannot.
        """
        try:
            self.folder.prove_writable()
        except OSError as error:
            raise LakeNotWritableError(
                f"lake {self.root}",
                f"cannot be written: {error.strerror or error}",
                "Make the folder writable, or set `lake` to another one.",
            ) from error
        except LakeError as error:
            raise LakeNotWritableError(error.where, error.problem, error.remedy) from error
