"""Makes tests/data/format_1/lakes.tar.gz by the stages themselves; see the README beside it.

The lakes are what the lakestorm of this checkout writes, so run it only at the commit that the
README names, or to see that it still gives equal rows.
"""

from __future__ import annotations

import gzip
import io
import os
import sys
import tarfile
import tempfile
from collections.abc import Callable
from contextlib import chdir
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl
from pyspark.sql import SparkSession

from pipeline.features.catalogue import newest_spec
from pipeline.operate.walk import Asked, walk
from pipeline.session import spark_session
from pipeline.training.networks.export import EXPORT_DIGEST_FILE, EXPORT_FILE
from tests.scoring.format_1 import (
    ARCHIVE,
    EXPECTED,
    LATE,
    NAMES,
    PLACEHOLDER,
    RAW,
    StoredLake,
    rename_folder,
    unpack,
)

ROWS, LATE_ROWS = 220, 60
MADE = int(datetime(2026, 11, 28, tzinfo=UTC).timestamp())
Random = np.random.Generator


def with_nulls(random: Random, values: np.ndarray, share: float = 0.1) -> list[object]:
    """The values, some of them missing."""
    return [None if random.random() < share else value for value in values.tolist()]


def tabular(random: Random, rows: int, first: int) -> pl.DataFrame:
    """Sales; the late ones have shops that no one knows, corrections and another scale."""
    late = first > 0
    begin = datetime(2024, 2 if late else 1, 20 if late else 1, tzinfo=UTC)
    minutes = np.sort(random.integers(0, 60 * 24 * 45, rows))
    amount = random.lognormal(3 + late, 0.7, rows).round(2)
    amount[:5] = -1
    shops = np.array(["north", "south", "Zürich, 東京", "rare", "new shop" if late else "south"])
    return pl.DataFrame(
        {
            # The first late rows correct some that are there.
            "id": np.arange(first, first + rows) - (20 if late else 0),
            "sold": [begin + timedelta(minutes=int(each)) for each in minutes],
            "changed": np.full(rows, int(late)),
            "amount": with_nulls(random, amount, 0.02),
            "weight": with_nulls(random, random.normal(70, 9, rows)),
            "share": with_nulls(random, random.random(rows).round(3), 0.2),
            "price": random.integers(100, 9999, rows) / 100,
            "pieces": with_nulls(random, random.integers(1, 10, rows)),
            "tax": with_nulls(random, random.choice([0.0, 0.07, 0.19, -1e30], rows)),
            "shop": with_nulls(random, random.choice(shops, rows, p=[0.4, 0.3, 0.2, 0.01, 0.09])),
            "region": random.choice(["west", "east", "nowhere"], rows, p=[0.6, 0.35, 0.05]),
            "paid": with_nulls(random, random.random(rows) < 1 / (1 + amount / 25), 0.05),
        },
        schema_overrides={"id": pl.Int32, "changed": pl.Int32, "pieces": pl.Int32},
    ).with_columns(pl.col("price").cast(pl.Decimal(9, 2)))


def pictures(random: Random, rows: int, first: int) -> pl.DataFrame:
    """Stripes that stand, stripes that lie, and dots."""
    kinds = random.choice(["bars", "rows", "dots"], rows)
    masks = {
        "bars": np.tile([1, 0], (8, 4)),
        "rows": np.tile([[1], [0]], (4, 8)),
        "dots": np.eye(8, dtype=int),
    }
    noise = random.integers(0, 60, (rows, 8, 8))
    pixels = [
        (180 * masks[kind] + each).astype(np.uint8) for kind, each in zip(kinds, noise, strict=True)
    ]
    return pl.DataFrame(
        {
            "id": np.arange(first, first + rows),
            "kind": kinds,
            "pixels": [each.tobytes() for each in pixels[:-1]] + [b"short"],
            "light": with_nulls(random, random.normal(500, 120, rows)),
        },
        schema_overrides={"id": pl.Int32},
    )


def texts(random: Random, rows: int, first: int) -> pl.DataFrame:
    """Mails of up to fifteen words, some empty, some missing."""
    words = np.array(
        ["Meeting", "noon", "WINNER", "prize", "naïve", "x86", "東京", "o'clock", "42"]
    )
    spam = random.random(rows) < 0.4
    chosen = [
        random.choice(words[2:] if is_spam else words, random.integers(0, 16)) for is_spam in spam
    ]
    separators = random.choice([" ", ", ", "\n-- "], rows)
    text = np.array(
        [by.join(each) for by, each in zip(separators, chosen, strict=True)], dtype=object
    )
    return pl.DataFrame(
        {
            "file": [f"{number:05d}.txt" for number in range(first, first + rows)],
            "text": with_nulls(random, text, 0.05),
            "spam": with_nulls(random, spam, 0.05),
        }
    )


def readings(random: Random, rows: int, first: int) -> pl.DataFrame:
    """Days of two stations; series of up to twelve values, with gaps."""
    stations = 2
    base = random.normal(8, 6, rows)
    series = [
        with_nulls(random, random.normal(each, 1, random.integers(0, 13)), 0.08) for each in base
    ]
    begin = date(2024, 1, 1)
    return pl.DataFrame(
        {
            "station": [f"station {number % stations}" for number in range(rows)],
            "day": [begin + timedelta(days=(first + number) // stations) for number in range(rows)],
            "readings": [each or None for each in series],
            "height": with_nulls(random, random.normal(400, 90, rows)),
            "warmest": with_nulls(random, base + random.random(rows), 0.04),
        },
        schema_overrides={"readings": pl.List(pl.Float64)},
    )


def rebuilt(random: Random, rows: int, first: int) -> pl.DataFrame:
    """Two numbers that go together, and an hour."""
    one = random.normal(0, 1, rows)
    return pl.DataFrame(
        {
            "id": np.arange(first, first + rows),
            "one": with_nulls(random, one),
            "two": with_nulls(random, 3 * one + random.normal(0, 0.2, rows)),
            "hour": with_nulls(random, random.uniform(0, 24, rows)),
        },
        schema_overrides={"id": pl.Int32},
    )


ROWS_OF: dict[str, Callable[[Random, int, int], pl.DataFrame]] = {
    "tabular": tabular,
    "pictures": pictures,
    "texts": texts,
    "readings": readings,
    "rebuilt": rebuilt,
}


def write_raw(stored: StoredLake) -> None:
    """Writes the raw files, and those that come late."""
    for folder, rows, first in ((RAW, ROWS, 0), (LATE, LATE_ROWS, ROWS)):
        random = np.random.default_rng([NAMES.index(stored.name), first])
        path = stored.folder / stored.name / folder / f"rows-{first:04d}.parquet"
        path.parent.mkdir(parents=True)
        ROWS_OF[stored.name](random, rows, first).write_parquet(path, compression="snappy")
        # Stages compare the times of raw files; an archive holds whole seconds.
        os.utime(path, (MADE, MADE))


def run(spark: SparkSession, stored: StoredLake, stages: tuple[str, ...], asked: Asked) -> None:
    for outcome in walk(spark, stored.pipeline, stored.lake, stages, asked):
        sys.stdout.write(f"{stored.name:10} {outcome.stage:10} {outcome.rows_out:5} rows\n")


def strip(folder: Path) -> None:
    """Takes out what no one reads again, or what may tell of the machine."""
    for path in sorted(folder.rglob("*"), reverse=True):
        # The export is for other programs; Hadoop's check sums are of texts as they were.
        exported = path.name in (EXPORT_FILE, EXPORT_DIGEST_FILE)
        if exported or path.name == "lock" or path.suffix == ".crc":
            path.unlink()
        elif path.is_dir() and not any(path.iterdir()):
            path.rmdir()


def require_no_path(folder: Path, *paths: str) -> None:
    """Ends the run where a file names a path of this machine."""
    for path in (path for path in folder.rglob("*") if path.is_file()):
        for text in paths:
            if text.encode() in path.read_bytes():
                sys.exit(f"{path} names {text}")


def pack(folder: Path) -> None:
    """Packs a folder so that equal files give an equal archive."""
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as archive:
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            entry = tarfile.TarInfo(str(path.relative_to(folder)))
            entry.size, entry.mtime = path.stat().st_size, MADE
            with path.open("rb") as file:
                archive.addfile(entry, file)
    ARCHIVE.write_bytes(gzip.compress(content.getvalue(), mtime=0))


def write_expected(spark: SparkSession, stored: StoredLake, to: StoredLake) -> None:
    """Lets the late rows come, and writes what three tables hold then beside another lake."""
    stored.deliver_late_rows()
    run(spark, stored, ("clean", "score"), stored.asked)
    spec = newest_spec(stored.lake, stored.name)
    for table in EXPECTED:
        name = spec.table if table == "features" else table
        to.expected(table).parent.mkdir(exist_ok=True)
        found = pl.read_delta(stored.lake.table(name).root)
        found.write_parquet(to.expected(table), compression="zstd")


def main() -> None:
    """Makes the lakes, packs them, and packs what they are after the late rows with them."""
    os.environ.pop("MLFLOW_TRACKING_URI", None)
    spark = spark_session("format-1", "local[2]")
    checkout = Path.cwd()
    with (
        tempfile.TemporaryDirectory() as made,
        tempfile.TemporaryDirectory() as used,
        chdir(made),  # MLflow notes the working directory
    ):
        folder = Path(made)
        lakes = [StoredLake(name, folder) for name in NAMES]
        for stored in lakes:
            write_raw(stored)
            run(spark, stored, ("clean", "featurize", "train", "score"), stored.asked)
        strip(folder)
        rename_folder(folder, made, PLACEHOLDER)
        pack(folder)
        for stored in lakes:
            write_expected(spark, unpack(stored.name, Path(used)), stored)
        require_no_path(folder, made, used, str(Path.home()), str(checkout), sys.prefix)
        pack(folder)
    spark.stop()
    sys.stdout.write(f"{ARCHIVE.name}: {ARCHIVE.stat().st_size:,} bytes\n")


if __name__ == "__main__":
    main()
