"""Lakes that a lakestorm wrote whose feature specs had format 1: see tests/data/format_1/README.md.

In the archive each path that a lake holds starts with `PLACEHOLDER`; unpacking puts the path of the
folder in its place, so that a lake is found as if it had been made there.
"""

from __future__ import annotations

import shutil
import sqlite3
import tarfile
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from pipeline.config import Pipeline, load_pipeline
from pipeline.lake import Lake
from pipeline.operate.walk import Asked

FOLDER = Path(__file__).parent.parent / "data" / "format_1"
ARCHIVE = FOLDER / "lakes.tar.gz"
PLACEHOLDER = "/FOLDER-OF-THE-LAKES"
NAMES = ("tabular", "pictures", "texts", "readings", "rebuilt")
INCREMENTAL = {"tabular": Asked(incremental=True)}
"""The lakes that were not filled by full runs."""
EXPECTED = ("features", "predictions", "drift")
"""Tables of which the archive holds what they were after the late rows came."""
RAW, LATE = "raw", "late"


@dataclass(frozen=True)
class StoredLake:
    """One of the lakes, unpacked into a folder."""

    name: str
    folder: Path

    @property
    def root(self) -> Path:
        """The lake itself; raw files lie beside it."""
        return self.folder / self.name / "lake"

    @property
    def lake(self) -> Lake:
        return Lake(self.root)

    @property
    def pipeline(self) -> Pipeline:
        places = [f"lake={self.root}", f"source.path={self.raw}"]
        return load_pipeline(FOLDER / f"{self.name}.yaml", places)

    @property
    def raw(self) -> Path:
        return self.folder / self.name / RAW

    @property
    def asked(self) -> Asked:
        return INCREMENTAL.get(self.name, Asked())

    def expected(self, table: str) -> Path:
        """What a table was after the late rows, as one Parquet file."""
        return self.folder / self.name / "expected" / f"{table}.parquet"

    def deliver_late_rows(self) -> None:
        for path in (self.folder / self.name / LATE).iterdir():
            shutil.copy2(path, self.raw)


def unpack(name: str, folder: Path) -> StoredLake:
    """Unpacks one lake into a folder, with that folder's path in it."""
    with tarfile.open(ARCHIVE) as archive:
        own = [each for each in archive.getmembers() if each.name.startswith(f"{name}/")]
        archive.extractall(folder, own, filter="data")
    rename_folder(folder, PLACEHOLDER, str(folder))
    return StoredLake(name, folder)


def rename_folder(folder: Path, before: str, after: str) -> None:
    """Replaces a path in all that lies in a folder: texts, and databases of SQLite."""
    for path in folder.rglob("*"):
        if path.suffix == ".db":
            _rename_in_database(path, before, after)
        elif path.is_file() and path.suffix != ".parquet" and before.encode() in path.read_bytes():
            path.write_bytes(path.read_bytes().replace(before.encode(), after.encode()))


def _rename_in_database(path: Path, before: str, after: str) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as database:
        tables = database.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
        for (table,) in tables:
            for _, column, kind, *_ in database.execute(f"PRAGMA table_info('{table}')").fetchall():
                if "CHAR" in kind.upper() or "TEXT" in kind.upper():
                    database.execute(
                        f'UPDATE "{table}" SET "{column}" = replace("{column}", ?, ?) '  # noqa: S608
                        f'WHERE instr("{column}", ?)',
                        (before, after, before),
                    )
        database.execute("VACUUM")  # pages that are free hold the old texts
