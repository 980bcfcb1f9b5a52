"""Killed at any moment and started again, scoring leaves each key once."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from pyspark.sql import SparkSession

from pipeline.lake import Lake
from pipeline.operate.walk import Asked, walk
from tests.flights import small_pipeline, small_raw
from tests.scoring.doomed import CLEANING, PHASES, STAGES

KEYS = ["time_hour", "carrier", "flight"]
SEED = 13
PUBLISHED = "after the Delta commit"
"""The only phase in which a kill comes too late to keep the scores back."""

Keys = Counter[tuple[object, ...]]


def keys_of(frame: pl.DataFrame) -> Keys:
    return Counter(frame.select(KEYS).iter_rows())


class Said:
    """What a run and all that it started print; ends when none of them is left."""

    def __init__(self, pipe: Path) -> None:
        os.mkfifo(pipe)
        self.text = ""
        self._thread = threading.Thread(target=self._read, args=(pipe,), daemon=True)
        self._thread.start()

    def _read(self, pipe: Path) -> None:
        self.text = pipe.read_text(errors="replace")

    def end(self) -> None:
        self._thread.join(timeout=60)
        assert not self._thread.is_alive(), "a process of a killed run is left"


class Doom:
    """Starts runs and kills them; see `tests/scoring/doomed.py`.

    The next run's process makes itself ready while the last one's harm is looked at.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._runs: list[Said] = []
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.scoring.doomed"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._start()

    def _start(self) -> None:
        number = len(self._runs)
        self._pipe, says = (self._folder / f"{name}-{number}" for name in ("pipe", "says"))
        os.mkfifo(self._pipe)
        self._runs.append(Said(says))
        self._tell({"says": str(says), "pipe": str(self._pipe)})

    def _tell(self, order: dict[str, object]) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()

    def _told(self) -> int:
        assert self._process.stdout is not None
        return int(self._process.stdout.readline())

    def kill(self, grown: Grown, phase: str, how: str, delay: float | None = None) -> None:
        """Begins a run and kills it in a phase, or some seconds after it began that."""
        child = self._told()
        self._tell(
            {
                "lake": grown.lake.root,
                "changes": grown.changes,
                "stages": STAGES if phase == CLEANING else STAGES[2:],
                "phase": phase,
                "stays": delay is None,
            }
        )
        reached = self._pipe.read_text()
        if delay is not None:
            time.sleep(delay)  # the moment is what is tried, nothing is waited for
        try:
            (os.killpg if how == "group" else os.kill)(child, signal.SIGKILL)
        except ProcessLookupError:
            assert delay is not None
        code = self._told()
        said = self._runs[-1]
        if reached != phase or (delay is None and code != -signal.SIGKILL):
            self.end()
            raise AssertionError(f"{reached!r} instead of {phase!r}, {code}: {said.text}")
        self._start()

    def end(self) -> None:
        """Ends what starts runs; nothing of any of them is left."""
        self._process.communicate()
        for said in self._runs:
            said.end()


@dataclass
class Grown:
    """A lake that was trained and scored, and flights that are delivered to it a few at a time."""

    lake: Lake
    delivered: Path
    to_come: pa.Table
    random: np.random.Generator
    changes: list[str] = field(default_factory=list)

    def deliver(self, rows: int = 6) -> None:
        """Some flights of any period that were not there yet."""
        places = self.random.choice(self.to_come.num_rows, rows, replace=False).tolist()
        name = f"{len(list(self.delivered.iterdir())):04d}.parquet"
        pq.write_table(self.to_come.take(places), self.delivered / name)
        left = sorted(set(range(self.to_come.num_rows)) - set(places))
        self.to_come = self.to_come.take(left)

    def run(self, spark: SparkSession, stages: Sequence[str] = STAGES) -> None:
        """A run that nobody disturbs."""
        pipeline = small_pipeline(Path(self.lake.root), *self.changes)
        list(walk(spark, pipeline, self.lake, stages, Asked(incremental=True)))

    def expected(self) -> Keys:
        """Keys of all that was delivered, of which nothing is refused."""
        return keys_of(pl.concat(pl.read_parquet(file) for file in self.delivered.iterdir()))

    def scored(self) -> Keys:
        """Keys of `predictions`, by an engine that has nothing of ours."""
        return keys_of(pl.read_delta(self.lake.table("predictions").root))


@pytest.fixture(scope="module")
def first(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> Grown:
    root = tmp_path_factory.mktemp("killed")
    small_raw(root / "lake")
    raw, delivered = root / "lake" / "raw" / "flights", root / "delivered"
    months = [pq.read_table(path) for path in sorted(raw.iterdir())]
    flights = pa.concat_tables(months)
    flights = flights.filter(pc.greater_equal(flights["distance"], 50))
    shutil.rmtree(raw)
    delivered.mkdir()
    early = list(range(0, flights.num_rows, 8))
    pq.write_table(flights.take(early), delivered / "0000.parquet")
    to_come = flights.take(sorted(set(range(flights.num_rows)) - set(early)))
    changes = [f"source.path={delivered}", "features.categorical.model.minimum_count=1"]
    grown = Grown(Lake(root / "lake"), delivered, to_come, np.random.default_rng(SEED), changes)
    pipeline = small_pipeline(Path(grown.lake.root), *changes)
    stages = ("clean", "featurize", "train", "score")
    list(walk(spark, pipeline, grown.lake, stages, Asked(incremental=True)))
    return grown


@pytest.fixture(scope="module")
def doom(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Doom]:
    doom = Doom(tmp_path_factory.mktemp("doom"))
    yield doom
    doom.end()


@dataclass
class Spell:
    """One delivery, whose runs are killed one after the other, and what came of it.

    Each kill but the last is followed by a run that is killed, too: what one leaves, all of them
    must not be fooled by.
    """

    spark: SparkSession
    grown: Grown
    doom: Doom
    before: Keys = field(init=False)

    def __post_init__(self) -> None:
        self.before = self.grown.scored()
        self.grown.deliver()

    def featurize(self) -> None:
        """Goes as far as the scores; by a Spark that is warm, which takes a third of the time."""
        self.grown.run(self.spark, STAGES[:2])

    def kill(self, phase: str, how: str, delay: float | None = None) -> str:
        """Kills a run; whether its scores are there, all of them or none."""
        self.doom.kill(self.grown, phase, how, delay)
        present, expected = self.grown.scored(), self.grown.expected()
        assert present in (self.before, expected)
        published = present == expected
        assert delay is not None or published == (phase == PUBLISHED)
        return "published" if published else "kept back"

    def end(self) -> None:
        """A run that nobody disturbs: each key is there once."""
        self.grown.run(self.spark)
        assert self.grown.scored() == self.grown.expected() != self.before


def test_runs_that_are_killed_and_begun_again_score_each_row_once(
    spark: SparkSession, first: Grown, doom: Doom
) -> None:
    spell = Spell(spark, first, doom)
    spell.kill(CLEANING, "driver")
    spell.featurize()
    spell.kill("tasks running", "driver")
    spell.kill("before the Delta commit", "group")
    spell.end()


@pytest.fixture(scope="module")
def told(request: pytest.FixtureRequest) -> Iterator[Counter[tuple[str, str, str]]]:
    """How many kills came to which outcome; printed when the last of them is done."""
    told: Counter[tuple[str, str, str]] = Counter()
    yield told
    lines = [f"{told.total()} kills, seed {SEED}; each key once after every restart"]
    lines += [f"{'phase':42} {'killed':8} {'scores':10} {'kills':>5}"]
    for (phase, how, outcome), count in sorted(told.items()):
        lines.append(f"{phase:42} {how:8} {outcome:10} {count:5}")
    with request.config.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled():
        print("", *lines, sep="\n")  # noqa: T201 (figures to be told)


@pytest.mark.long
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("quarter", range(4))
def test_two_hundred_kills_leave_each_key_once(
    spark: SparkSession,
    first: Grown,
    doom: Doom,
    told: Counter[tuple[str, str, str]],
    quarter: int,
) -> None:
    chance = np.random.default_rng([SEED, quarter])
    for number in range(8):
        # Each phase by both ways in turn, those before the commit in any order.
        ways = dict(zip(PHASES, ("group", "driver") * len(PHASES), strict=False))
        if number % 2:
            ways = {phase: "driver" if how == "group" else "group" for phase, how in ways.items()}
        spell = Spell(spark, first, doom)
        told[CLEANING, ways[CLEANING], spell.kill(CLEANING, ways[CLEANING])] += 1
        spell.featurize()
        for phase in (*chance.permutation(PHASES[:4]).tolist(), PUBLISHED):
            told[phase, ways[phase], spell.kill(phase, ways[phase])] += 1
        spell.end()
    for phase in chance.choice(PHASES[:4], 2).tolist():
        spell = Spell(spark, first, doom)
        spell.featurize()
        outcome = spell.kill(phase, "driver", chance.uniform(0, 1))
        told[f"up to 1 s after: {phase}", "driver", outcome] += 1
        spell.end()
