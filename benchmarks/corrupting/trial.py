"""One trial: a good lake, a spoiled raw folder, the real stage `clean`, and what came of it."""

from __future__ import annotations

import random
import shutil
import tempfile
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable, Mapping
from concurrent.futures import Future, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

import polars as pl
from py4j.protocol import Py4JError
from pyspark.sql import SparkSession

from benchmarks.corrupting.good import (
    COLUMNS,
    FILES,
    RFC_4180,
    VICTIM,
    Format,
    Row,
    described,
    ending,
    good_rows,
    write_good,
)
from benchmarks.corrupting.oracle import FAULT, Pool, cast, read, typed
from benchmarks.corrupting.scene import Scene, Variant
from pipeline.clean.stage import clean
from pipeline.errors import LakestormError
from pipeline.lake import Lake
from pipeline.outcome import Outcome

TABLES = ("quarantine", "clean", "quality")
_OF_JAVA = ("java.", "org.apache.", "Py4J", "Traceback", "SQLSTATE")

Verdict: TypeAlias = Literal[
    "quarantined", "refused", "unharmed", "changed", "unclear", "wrong", "traceback", "hang"
]
VERDICTS: dict[Verdict, str] = {
    "quarantined": "rows at fault are in quarantine, with reasons; all others are right",
    "refused": "an error names the file; the tables are as before",
    "unharmed": "every row is as it was before the file was spoiled",
    "changed": "the rows are what another engine reads, though not what they were",
    "unclear": "an error without the file's name, in Java's words or with control characters",
    "wrong": "a row that nothing holds, or that is lost; or the tables are not as before",
    "traceback": "an error that is none of ours",
    "hang": "no end within the limit",
}
GRACE_SECONDS = 10
"""For a stage whose jobs were cancelled."""
BAD: frozenset[Verdict] = frozenset({"unclear", "wrong", "traceback", "hang"})


class _TimeIsUp(Exception):
    """The stage has not ended within the limit."""


@dataclass(frozen=True, kw_only=True)
class Result:
    """What came of one variant."""

    variant: Variant
    verdict: Verdict
    told: str
    """The error, or what is wrong with the rows."""
    seconds: float


@dataclass(frozen=True)
class State:
    """All there is in a lake."""

    tables: Mapping[str, tuple[int, frozenset[str]]]
    files: frozenset[str]

    @classmethod
    def of(cls, lake: Lake, root: Path) -> State:
        """Version and files of the three tables, and all files below the lake."""
        snapshots = {name: lake.table(name).snapshot() for name in TABLES}
        return cls(
            {
                name: (it.version, frozenset(file.path for file in it.files))
                for name, it in snapshots.items()
            },
            frozenset(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()),
        )


class Trials:
    """Trials in one folder, each with a copy of the same good lake.

    Args:
        spark: The session that all share.
        folder: Where they work.
        seed: Of the good set and of all that is random in the variants.
        limit_seconds: After which a trial counts as a hang.
    """

    def __init__(
        self, spark: SparkSession, folder: Path, *, seed: int, limit_seconds: float = 120
    ) -> None:
        self.spark = spark
        self._folder = folder
        self._seed = seed
        self.limit_seconds = limit_seconds
        self._rows = good_rows(seed)
        self._lakes: dict[Format, Path] = {}

    def run(self, variant: Variant) -> Result:
        """Runs one variant, and judges what came of it."""
        good = self.good_lake(variant.format)
        # One of its own: a stage that hangs may still write there when the next trial runs.
        root = Path(tempfile.mkdtemp(dir=self._folder))
        shutil.copytree(good, root / "lake")
        write_good(root / "raw", variant.format, self._rows)
        rng = random.Random(f"{self._seed} {variant.name}")  # noqa: S311 (data of a benchmark)
        variant.spoil(Scene(root / "raw", variant.format, self._rows[VICTIM], rng))
        started = time.monotonic()
        verdict, told = self._judged(variant, root)
        seconds = time.monotonic() - started
        shutil.rmtree(root, ignore_errors=True)
        return Result(variant=variant, verdict=verdict, told=told, seconds=seconds)

    def good_lake(self, kind: Format) -> Path:
        """A lake that clean has filled from the good set, with every row in `clean`."""
        if kind not in self._lakes:
            root = self._folder / f"good-{kind}"
            write_good(root / "raw", kind, self._rows)
            options = RFC_4180 if kind == "csv" else {}
            lake = Lake(root / "lake")
            clean(self.spark, described(root, kind, options), lake)
            told = Counter(_rows_of(lake))
            if told != Counter(typed(row) for rows in self._rows.values() for row in rows):
                raise SystemExit(f"clean does not give the good set of {kind} back")
            self._lakes[kind] = root / "lake"
        return self._lakes[kind]

    def _judged(self, variant: Variant, root: Path) -> tuple[Verdict, str]:
        pipeline = described(root, variant.format, variant.options)
        lake = Lake(root / "lake")
        before = State.of(lake, root / "lake")
        try:
            outcome = _within(
                self.limit_seconds, self.spark, lambda: clean(self.spark, pipeline, lake)
            )
        except _TimeIsUp:
            return "hang", f"no end after {self.limit_seconds} s"
        except LakestormError as error:
            verdict, told = _refusal(error, root / "raw")
        except Exception as error:  # noqa: BLE001 (whatever it is, it is the finding)
            last = traceback.extract_tb(error.__traceback__)
            ours = [frame for frame in last if "/pipeline/" in frame.filename][-1:]
            place = "".join(f" in {Path(it.filename).name}:{it.name}" for it in ours)
            verdict, told = "traceback", f"{type(error).__name__}{place}: {_short(str(error))}"
        else:
            try:
                return self._of_rows(variant, root, lake, outcome)
            except (pl.exceptions.PolarsError, pl.exceptions.PanicException, ValueError) as error:
                return "wrong", f"Polars cannot read the tables: {_short(str(error))}"
        if State.of(lake, root / "lake") != before:
            return "wrong", f"the tables are not as before; {told}"
        return verdict, told

    def _of_rows(
        self, variant: Variant, root: Path, lake: Lake, outcome: Outcome
    ) -> tuple[Verdict, str]:
        """Judges the tables of a stage that came to its end."""
        told = _rows_of(lake)
        rejected = pl.read_delta(lake.table("quarantine").root).to_dicts()
        accounted = outcome.rows_out + outcome.rows_quarantined + outcome.rows_dropped
        if (outcome.rows_in, outcome.rows_out) != (accounted, len(told)):
            return "wrong", f"{outcome.rows_in} rows in, {accounted} accounted for, {len(told)} out"
        if any(not row["reasons"] for row in rejected):
            return "wrong", "a row is in quarantine without a reason"
        before = self._rows[VICTIM]
        readable = _readable(root / "raw", variant.format) if variant.trusts_engine else before
        others = [row for name, rows in self._rows.items() if name != VICTIM for row in rows]
        pool = Pool([*others, *readable], before)
        invented = [row for row in told if not pool.take(row)]
        if invented:
            return (
                "wrong",
                f"{len(invented)} rows that no engine reads, as {_short(str(invented[0]))}",
            )
        lost = _lost([*others, *readable], told, rejected)
        if lost:
            return "wrong", f"{len(lost)} rows are lost, as {_short(str(typed(lost[0])))}"
        if rejected:
            return "quarantined", ", ".join(sorted({r for row in rejected for r in row["reasons"]}))
        as_before = Counter(told) == Counter(typed(r) for rows in self._rows.values() for r in rows)
        return ("unharmed" if as_before else "changed"), ""


def _readable(folder: Path, kind: Format) -> list[Row]:
    """What an engine reads from all files but the good ones, links to elsewhere followed."""
    links = [it for it in folder.iterdir() if it.is_dir() and folder not in (it, it.resolve())]
    found = {path for each in (folder, *links) for path in each.rglob(f"*{ending(kind)}*")}
    good = {f"{name}{ending(kind)}" for name in FILES if name != VICTIM}
    files = (path for path in found if path.is_file() and path.name not in good)
    # A file that a link names again holds no other rows.
    once = {path.resolve(): path for path in sorted(files)}
    return [row for path in once.values() for row in read(path, kind) or []]


def _rows_of(lake: Lake) -> list[tuple[Any, ...]]:
    """The rows of `clean`, read by Polars."""
    return pl.read_delta(lake.table("clean").root).select(COLUMNS).rows()


def _lost(
    readable: list[Row], told: list[tuple[Any, ...]], rejected: list[dict[str, Any]]
) -> list[Row]:
    """Rows that an engine reads and that are neither in `clean` nor, by their id, in quarantine."""
    left = Counter(row[0] for row in told)
    texts = "\n".join(f"{row['row']} {row['unreadable']}" for row in rejected)
    lost = []
    for row in readable:
        number = cast(row.get("id"), "id")
        if number is None or number is FAULT:
            continue
        if left[number] > 0:
            left[number] -= 1
        elif str(number) not in texts:
            lost.append(row)
    return lost


def _refusal(error: LakestormError, folder: Path) -> tuple[Verdict, str]:
    """Whether an error tells its user which file it is about, in words of its own."""
    told = str(error)
    names_a_file = str(folder) in told and told.rstrip()[-1] == "."
    is_plain = told.isprintable() and not any(word in told for word in _OF_JAVA)
    shown = f"{type(error).__name__}: {_short(told.replace(str(folder), 'raw'))}"
    return ("refused" if names_a_file and is_plain else "unclear"), shown


def _short(text: str) -> str:
    """A text as one line of at most 300 letters, none of which moves a cursor."""
    line = "".join(it if it.isprintable() else ascii(it)[1:-1] for it in " ".join(text.split()))
    return line if len(line) <= 300 else f"{line[:200]} ... {line[-95:]}"


def _within(seconds: float, spark: SparkSession, stage: Callable[[], Outcome]) -> Outcome:
    """What a stage returns or raises; `_TimeIsUp` where it has no end.

    It has a thread of its own: an error thrown into the midst of a call to Java would leave the
    answer to the next one.
    """
    done: Future[Outcome] = Future()

    def work() -> None:
        try:
            done.set_result(stage())
        except BaseException as error:  # noqa: BLE001 (raised again below)
            done.set_exception(error)

    threading.Thread(target=work, daemon=True).start()
    if not wait([done], seconds).done:
        spark.sparkContext.cancelAllJobs()
        wait([done], GRACE_SECONDS)
        raise _TimeIsUp
    return done.result()


def is_alive(spark: SparkSession) -> bool:
    """Whether a session still answers."""
    try:
        return int(spark.range(3).count()) == 3
    except (Py4JError, OSError, RuntimeError):
        return False
