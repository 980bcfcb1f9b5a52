"""Claim: the stream feeds batches 10 and 100 times faster than Petastorm's two loaders.

At least 2,000,000 rows of 13 floats, 26 ints and a label, as Parquet, in several layouts: columns
flat or packed into lists, with and without dictionaries, in snappy, lz4 and zstd, row groups of
8,192 to 65,536 rows. Three parts:

1. Raw decoding of every layout, by pyarrow's `read_row_group` and, where it is installed and can
   read the layout, by jollyjack: 2 threads, medians of a few rounds in turn.
2. Trials: which layout each loader is fastest on. Ours and the scan of a `pyarrow.dataset` try
   them all on all the data, twice. To bound the time, the others try row groups of 65,536 rows in
   the codec that is best for raw, flat and packed, with and without dictionaries, on fewer files,
   once. Petastorm cannot read lists of fixed size (it leaves the columns out without a
   word), so lists are written as Spark writes them, and lists of fixed size are tried beside.
3. The comparison: each loader on its best layout, in turn, in a fresh process that first reads a
   few rows, for several rounds. All have a shuffle window of 262,144 rows, batches of 4,096,
   2 threads (or processes) and one seed; `benchmarks/loading/loaders.py` says how for each.
   Petastorm's DataLoader takes a minute for what others do in a second: it stops 262,144 rows
   after its queue was full, and only those are timed. mosaicml-streaming (by its successor
   streaming-community), where it imports, reads a copy of the data in its own format, MDS, made
   before, and stops after 262,144 rows.

Ours has to deliver every row, or this fails; Petastorm may lose some. `raw_rows_s` is pyarrow's
speed in its best layout.

usage: python benchmarks/stream.py [--rows 2000000] [--rounds 3] [--folder FOLDER]
"""

from __future__ import annotations

import argparse
import json
import logging
import statistics
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # for `benchmarks`

from benchmarks.loading.data import (
    DEFAULT,
    FILES,
    SEED,
    FileLayout,
    bytes_of,
    layouts,
    warm_file,
    write,
    write_all,
)
from benchmarks.loading.loaders import LOADERS, convert_to_mds, prepare, warm_up
from benchmarks.loading.measure import Reading, Timed, in_own_process, measure, report
from benchmarks.loading.raw import decoders_of
from benchmarks.loading.shuffle import Quality, shuffle_quality, write_sorted

RAW_ROUNDS = 3
Files = dict[FileLayout, list[str]]


@dataclass(frozen=True, slots=True)
class Comparison:
    """A loader's layout and its readings, one a round."""

    layout: FileLayout
    readings: Sequence[Reading]

    @property
    def rows_per_second(self) -> float:
        """The median speed."""
        return statistics.median(reading.rows_per_second for reading in self.readings)

    @property
    def rows(self) -> int:
        """The fewest rows that came."""
        return min(reading.rows for reading in self.readings)

    @property
    def peak_rss_mb(self) -> float:
        """The median of the peaks."""
        return statistics.median(reading.peak_rss_mb for reading in self.readings)

    @property
    def cpu_seconds_per_million(self) -> float:
        """The median of CPU seconds for a million rows."""
        return statistics.median(r.cpu_seconds / r.rows * 1e6 for r in self.readings)


def measure_raw(files: Files) -> dict[tuple[FileLayout, str], float]:
    """Returns the median rows per second of each layout and decoder."""
    readers = {
        (layout, name): make(paths)
        for layout, paths in files.items()
        for name, make in decoders_of(layout).items()
    }
    speeds: dict[tuple[FileLayout, str], list[float]] = {key: [] for key in readers}
    for turn in range(RAW_ROUNDS + 1):
        for key, read in readers.items():
            speed = measure(read).rows_per_second
            if turn:  # the first opens the files and warms the page cache
                speeds[key].append(speed)
    return {key: statistics.median(each) for key, each in speeds.items()}


def print_raw(speeds: dict[tuple[FileLayout, str], float], files: Files) -> None:
    """Prints the table of layouts."""
    print(f"{'layout':24} {'MB':>6} {'pyarrow':>9} {'jollyjack':>9}   decoding, M rows/s")
    for layout, paths in files.items():
        row = [speeds.get((layout, decoder)) for decoder in ("pyarrow", "jollyjack")]
        cells = " ".join(f"{'-' if speed is None else f'{speed / 1e6:.2f}':>9}" for speed in row)
        print(f"{layout.name:24} {bytes_of(paths) / 1e6:6.0f} {cells}")


def run_trials(
    name: str, files: Files, best_raw: FileLayout, folder: Path, rows: int
) -> FileLayout:
    """Returns the layout that a loader is fastest on, and prints the trials."""
    loader = LOADERS[name]
    wanted = [layout for layout in files if loader.tries(layout, best_raw)]
    if len(wanted) == 1:
        return wanted[0]
    turns = wanted * (1 if loader.trial_files else 2)
    arguments = _arguments(name, folder, rows, loader.trial_files or FILES)
    readings = in_own_process(__file__, *arguments, *(layout.name for layout in turns))
    speeds: dict[FileLayout, float] = {}
    for layout, reading in zip(turns, readings, strict=True):
        speeds[layout] = max(reading.rows_per_second, speeds.get(layout, 0))
    best = max(speeds, key=lambda layout: speeds[layout])
    print(f"{loader.title}: best {best.name}")
    print("   ", ", ".join(f"{layout.name} {s / 1e6:.3g}" for layout, s in speeds.items()))
    return best


def compare(
    chosen: dict[str, FileLayout], folder: Path, rows: int, rounds: int
) -> dict[str, Comparison]:
    """Runs the loaders in turn, `rounds` times, each in a fresh process."""
    readings: dict[str, list[Reading]] = {name: [] for name in chosen}
    for _ in range(rounds):
        for name, layout in chosen.items():
            arguments = _arguments(name, folder, rows, FILES)
            readings[name] += in_own_process(__file__, *arguments, layout.name)
    return {name: Comparison(chosen[name], each) for name, each in readings.items()}


def print_comparison(compared: dict[str, Comparison], rows: int) -> None:
    """Prints the table of loaders and the ratios."""
    print(
        f"\n{'loader':28} {'layout':24} {'M rows/s':>8} {'min-max':>13} {'CPU s/M':>8} "
        f"{'peak MB':>8} {'rows':>9}"
    )
    for name, each in compared.items():
        speeds = [reading.rows_per_second / 1e6 for reading in each.readings]
        layout = LOADERS[name].own_format or each.layout.name
        note = " (stopped early)" if LOADERS[name].bounded and each.rows < rows else ""
        print(
            f"{LOADERS[name].title:28} {layout:24} {each.rows_per_second / 1e6:8.3f} "
            f"{f'{min(speeds):.3f}-{max(speeds):.3f}':>13} {each.cpu_seconds_per_million:8.2f} "
            f"{each.peak_rss_mb:8.0f} {each.rows:9,}{note}"
        )
    for name in compared:
        print(f"ours / {LOADERS[name].title}: {_ratio(compared, name):.3f}")


def summary(compared: dict[str, Comparison], quality: Quality, rows: int) -> dict[str, object]:
    """Returns what the JSON line holds."""
    return {
        "benchmark": "stream",
        "seed": SEED,
        "rows": rows,
        **{f"{name}_rows_s": round(each.rows_per_second) for name, each in compared.items()},
        "ratio_raw": round(_ratio(compared, "raw"), 3),
        "ratio_dataloader": round(_ratio(compared, "dataloader"), 1),
        "ratio_batched": round(_ratio(compared, "batched_dataloader"), 2),
        "shuffle_quality": round(quality.ratio, 3),
        "peak_rss_mb": round(compared["ours"].peak_rss_mb),
        "layouts": {name: each.layout.name for name, each in compared.items()},
    }


def run_loader(name: str, folder: Path, rows: int, files: int, names: Sequence[str]) -> None:
    """Reads layouts with one loader, in this process, and reports the readings."""
    logging.disable(logging.WARNING)  # a trial on few files has few row groups
    prepare()
    loader = LOADERS[name]

    def read_each() -> list[Reading]:
        readings = []
        for layout in map(FileLayout.of, names):
            paths = write(folder, layout, rows)[:files]  # they are there

            def read(layout: FileLayout = layout, paths: list[str] = paths) -> int | Timed:
                return loader.read(paths, layout)

            warm_up(loader.read, paths, layout)
            readings.append(measure(read, loader.children))
        return readings

    report(read_each)


def main() -> None:
    """Measures, and prints tables and one JSON line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rows", type=int, default=2_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="keeps the data here, or finds it")
    parser.add_argument("--loader", help=argparse.SUPPRESS)  # how this script calls itself
    parser.add_argument("--files", type=int, default=FILES, help=argparse.SUPPRESS)
    parser.add_argument("layouts", nargs="*", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    rows = chosen.rows // FILES * FILES
    if chosen.loader:
        run_loader(chosen.loader, chosen.folder, rows, chosen.files, chosen.layouts)
    elif chosen.folder:
        benchmark(chosen.folder, rows, chosen.rounds)
    else:
        with tempfile.TemporaryDirectory() as folder:
            benchmark(Path(folder), rows, chosen.rounds)


def benchmark(folder: Path, rows: int, rounds: int) -> None:
    """Runs the three parts on data in a folder."""
    logging.disable(logging.WARNING)  # fewer rows than by default have few row groups
    files = write_all(folder, layouts(), rows)
    raw = measure_raw(files)
    print_raw(raw, files)
    best_raw = max((speed, layout.name) for (layout, by), speed in raw.items() if by == "pyarrow")
    best = FileLayout.of(best_raw[1])
    print("\nTrials, M rows/s:")
    able = [name for name, loader in LOADERS.items() if loader.missing is None]
    chosen = {name: run_trials(name, files, best, folder, rows) for name in able}
    _prepare_mds(chosen, files)
    compared = compare(chosen, folder, rows, rounds)
    print_comparison(compared, rows)
    for name, loader in LOADERS.items():
        if name not in able:
            print(f"{loader.title} left out: {loader.missing}")
    for name in ("ours", "ours_one_shard", "ours_default_window"):
        if any(reading.rows != rows for reading in compared[name].readings):
            raise SystemExit(f"{LOADERS[name].title} delivered other than {rows} rows")
    # With the defaults that ship, on more rows than a window holds.
    quality = shuffle_quality(write_sorted(folder, 4 * rows, DEFAULT.rows_per_row_group), seeds=6)
    result = summary(compared, quality, rows)
    jollyjack = [speed for (_, by), speed in raw.items() if by == "jollyjack"]
    if jollyjack:
        result["raw_jollyjack_rows_s"] = round(max(jollyjack))
    print(json.dumps(result))


def _prepare_mds(chosen: dict[str, FileLayout], files: Files) -> None:
    if "mds" in chosen:
        layout = chosen["mds"]
        convert_to_mds(files[layout], layout)
        convert_to_mds([warm_file(files[layout])], layout)


def _ratio(compared: dict[str, Comparison], name: str) -> float:
    return compared["ours"].rows_per_second / compared[name].rows_per_second


def _arguments(name: str, folder: Path, rows: int, files: int) -> list[str]:
    options = {"--loader": name, "--folder": folder, "--rows": rows, "--files": files}
    return [str(word) for pair in options.items() for word in pair]


if __name__ == "__main__":
    main()
