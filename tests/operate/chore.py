"""A job's process in the tests of the schedule: `chore.py FOLDER WORD`. Knows nothing of lakes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path


def stage(*, unchanged: bool) -> dict[str, object]:
    return {
        "stage": "score",
        "table": "predictions",
        "version": 7,
        "rows_in": 10,
        "rows_out": 8,
        "rows_quarantined": 1,
        "rows_dropped": 1,
        "unchanged": unchanged,
        "seconds": 0.5,
        "note": "further keys may come",
    }


def note(folder: Path, word: str) -> int:
    """Appends a word to the diary; returns how often it is there now."""
    with (folder / "diary").open("a") as diary:
        diary.write(f"{word}\n")
    return (folder / "diary").read_text().split().count(word)


def wait(folder: Path) -> None:
    """Tells the test that it waits, and waits for the test."""
    (folder / "began").write_text(str(os.getpid()))  # a pipe: goes on when somebody reads
    (folder / "go").read_text()


def main(folder: Path, word: str, *details: str) -> None:
    begun = note(folder, "begins")
    print("chores talk too")  # noqa: T201
    if word == "fails" and begun <= int(details[0]):
        print("lakestorm: ScoringError: <b>no\x1b[2J luck</b>", file=sys.stderr)  # noqa: T201
        print("and more", file=sys.stderr)  # noqa: T201
        sys.exit(1)
    if word == "expects-no" and details[0] in os.environ:
        sys.exit(f"it has {details[0]}")
    if word == "dies":
        os.kill(os.getpid(), signal.SIGKILL)
    if word == "deaf":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        with (folder / "alive").open("w") as alive:  # a process of its own, as Spark's JVM is
            subprocess.run(["sh", "-c", "echo up; sleep 600 &"], stdout=alive, check=True)
    if word in ("waits", "deaf", "talks"):
        wait(folder)
    if word == "talks":  # more than a pipe holds: somebody has to read it
        print("and on\n" * 100_000, file=sys.stderr)  # noqa: T201
    note(folder, "ends")
    if word != "mute":
        print(json.dumps({"stages": [stage(unchanged=word == "unchanged")]}))  # noqa: T201


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
