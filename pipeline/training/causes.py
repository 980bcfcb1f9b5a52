"""What workers tell of their end, and how the driver finds the first cause in it.

When one rank dies, the others lose it in the middle of an exchange and die of that: most of what
is told are symptoms. Each rank writes one report into the job's folder; a rank that was killed or
hangs writes none, and that too says something.
"""

from __future__ import annotations

import json
import shutil
import signal
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from torch.distributed import DistError

from pipeline import errors
from pipeline.errors import LakestormError, StoppedError, TrainingError, WorkerLostError

_FOLDER = "reports"
_ATTEMPTS = "attempts"
_REMEDY = "See the log above; a run started again goes on from its newest checkpoint."
EXIT_REPORTED = 3
"""Exit code of a worker that told why it ends."""


@dataclass(frozen=True, kw_only=True)
class Report:
    """Why one rank ended."""

    rank: int
    at: float
    """Seconds since 1970."""
    kind: str
    """`fault`: of its own. `lost`: the others were gone. `stopped`: it was asked to."""
    error: str
    """Name of the class in `pipeline.errors`."""
    where: str
    problem: str
    remedy: str

    def to_error(self) -> LakestormError:
        """The error as it was raised."""
        kind = getattr(errors, self.error, TrainingError)
        raised: LakestormError = kind(self.where, self.problem, self.remedy)
        return raised


@contextmanager
def reporting(folder: Path, rank: int) -> Iterator[None]:
    """Runs a rank; what ends it early is written down, and the process exits.

    Raises:
        SystemExit: With `EXIT_REPORTED`.
    """
    try:
        yield
    except LakestormError as error:
        _write(folder, rank, _kind(error), error)
        raise SystemExit(EXIT_REPORTED) from error
    except Exception as error:
        lost = _is_loss(error)
        if not lost:
            traceback.print_exc()
        _write(folder, rank, "lost" if lost else "fault", _translated(error, rank, lost=lost))
        raise SystemExit(EXIT_REPORTED) from error


def clear(folder: Path) -> None:
    """Removes what former runs reported."""
    shutil.rmtree(folder / _FOLDER, ignore_errors=True)
    (folder / _ATTEMPTS).unlink(missing_ok=True)


def begin_attempt(folder: Path, rank: int, max_restarts: int) -> None:
    """Begins a rank's part in the next attempt.

    Spark starts a barrier stage that failed again by itself, whatever it failed of.

    Raises:
        LakestormError: The attempt before ended by a fault that would come again, or this one is
            one too many.
    """
    fault = _first(_read(folder), "fault")
    if fault is not None:
        raise fault.to_error()
    (folder / _FOLDER / _name(rank)).unlink(missing_ok=True)
    if rank == 0:
        if attempts(folder) > max_restarts:
            raise WorkerLostError("rank 0", f"restarted {max_restarts} times", _REMEDY)
        with (folder / _ATTEMPTS).open("a") as file:
            file.write("x")


def attempts(folder: Path) -> int:
    """How many attempts have begun."""
    path = folder / _ATTEMPTS
    return path.stat().st_size if path.exists() else 0


def first_cause(folder: Path, ended: Mapping[int, int], hang_seconds: float) -> LakestormError:
    """The error behind all others of an attempt.

    Args:
        folder: The job's.
        ended: Exit code of each rank that was seen to end first, negative for a signal; empty
            where that is not known.
        hang_seconds: `train.hang_seconds`, for the message.

    Returns:
        A rank's own fault, the earliest if there are several; else the rank that was killed; else
        the one that made no progress.
    """
    reports = _read(folder)
    told = _first(reports, "fault") or _first(reports, "stopped")
    if told is not None:
        return told.to_error()
    told_of = {report.rank for report in reports}
    # When one has died, the agent sends SIGTERM to the others, and SIGKILL to those that stay.
    killed = sorted(rank for rank, code in ended.items() if code < 0 and -code != signal.SIGTERM)
    timed_out = sorted(rank for rank, code in ended.items() if code > 0 and rank not in told_of)
    if timed_out:
        rank = (killed or timed_out)[0]
        problem = f"made no progress for {hang_seconds:g} s, and was ended"
        return WorkerLostError(f"rank {rank}", problem, _REMEDY)
    if killed:
        name = signal.Signals(-ended[killed[0]]).name
        return WorkerLostError(f"rank {killed[0]}", f"was ended by {name}", _REMEDY)
    lost = _first(reports, "lost")
    return lost.to_error() if lost else WorkerLostError("workers", "ended unheard", _REMEDY)


def _first(reports: Sequence[Report], kind: str) -> Report | None:
    found = [report for report in reports if report.kind == kind]
    return min(found, key=lambda report: report.at, default=None)


def _name(rank: int | str) -> str:
    return f"rank-{rank}.json"


def _read(folder: Path) -> list[Report]:
    return [
        Report(**json.loads(path.read_text(encoding="utf-8")))
        for path in sorted((folder / _FOLDER).glob(_name("*")))
    ]


def _write(folder: Path, rank: int, kind: str, error: LakestormError) -> None:
    report = Report(
        rank=rank,
        at=time.time(),
        kind=kind,
        error=type(error).__name__,
        where=error.where,
        problem=error.problem,
        remedy=error.remedy,
    )
    path = folder / _FOLDER / _name(rank)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(asdict(report)), encoding="utf-8")
    partial.replace(path)


def _kind(error: LakestormError) -> str:
    if isinstance(error, StoppedError):
        return "stopped"
    return "lost" if isinstance(error, WorkerLostError) else "fault"


def _is_loss(error: Exception) -> bool:
    """Whether other ranks went away: gloo tells it as a plain RuntimeError."""
    told = str(error)
    return isinstance(error, DistError) or (
        isinstance(error, RuntimeError) and any(word in told for word in _OF_GLOO)
    )


_OF_GLOO = ("gloo", "Connection closed by peer", "Connection reset by peer", "Broken pipe")


def _translated(error: Exception, rank: int, *, lost: bool) -> TrainingError:
    told = " ".join(str(error).split())[:500]
    kind = WorkerLostError if lost else TrainingError
    return kind(
        f"rank {rank}",
        f"{type(error).__name__}: {told}",
        "The traceback is in the log above; report it if it comes back.",
    )
