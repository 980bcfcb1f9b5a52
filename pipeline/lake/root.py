"""The lake: one folder that holds all tables of a pipeline."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from pipeline.errors import LakeNotWritableError
from pipeline.lake.table import Table


class Lake:
    """A folder of tables.

    Args:
        root: The folder; relative paths start at the working directory.
    """

    def __init__(self, root: str | Path) -> None:
        self.root = str(Path(root).absolute())

    def table(self, name: str) -> Table:
        """The table of that name, which may hold `/`; it need not exist."""
        return Table(name, f"{self.root}/{name}")

    def tables(self) -> list[Table]:
        """All tables of the lake, by name; `raw/` belongs to those who deliver files."""
        found = []
        for folder, subfolders, _ in os.walk(self.root):
            name = Path(folder).relative_to(self.root).as_posix()
            if "_delta_log" in subfolders:
                found.append(self.table(name))
                subfolders.clear()
            elif name == ".":
                subfolders[:] = [each for each in subfolders if each != "raw"]
        return sorted(found, key=lambda table: table.name)

    def require_writable(self) -> None:
        """Creates the folder where missing and proves that files can be made in it.

        Raises:
            LakeNotWritableError: They cannot.
        """
        try:
            Path(self.root).mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile(dir=self.root, prefix="."):
                pass
        except OSError as error:
            raise LakeNotWritableError(
                f"lake {self.root}",
                f"cannot be written: {error.strerror or error}",
                "Make the folder writable, or set `lake` to another one.",
            ) from error
