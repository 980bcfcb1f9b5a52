"""The table `schedule/runs`: each attempt of each run, when it began and how it ended.

A table that is only appended to cannot change a row, and a run that is killed writes no last one.
So an attempt writes one row when it starts and one when it ends, and a reader takes the second
where there is one. Each row is a transaction of its own, so none can be there twice, and of two
that tell of an end, such as the run's own and the one of a restarted service, the first counts.

Each row is a file and a commit: two small ones an attempt, 17,520 a year for an hourly job.
That is fine for a log that is read now and then; compacting it is the business of maintenance.
(`runs/` beside it holds the checkpoints of trainings; that name was taken.)
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields, replace
from datetime import UTC, datetime
from typing import Any, Literal, cast

import pyarrow as pa

from pipeline.lake import Lake, Transaction, commit

Outcome = Literal["succeeded", "unchanged", "failed", "interrupted"]

RUNS = "schedule/runs"
RUNS_SCHEMA = pa.schema(
    [
        ("run_id", pa.string()),
        ("attempt", pa.int32()),
        ("event", pa.string()),
        ("pipeline", pa.string()),
        ("job", pa.string()),
        ("started_at", pa.timestamp("us", tz="UTC")),
        ("ended_at", pa.timestamp("us", tz="UTC")),
        ("outcome", pa.string()),
        ("error", pa.string()),
        ("stages", pa.string()),
    ]
)
# Transaction numbers of an attempt's two rows.
_EVENTS = {"started": 1, "ended": 2}


@dataclass(frozen=True, kw_only=True)
class StageRun:
    """What a stage did in a run: rows and the version it left."""

    stage: str
    table: str
    version: int
    rows_in: int
    rows_out: int
    rows_quarantined: int
    rows_dropped: int
    unchanged: bool


@dataclass(frozen=True, kw_only=True)
class Run:
    """One attempt of one run of a job."""

    run_id: str
    """Shared by the attempts of a run."""
    attempt: int
    """From 1 on."""
    pipeline: str
    job: str
    started_at: datetime
    ended_at: datetime | None = None
    outcome: Outcome | None = None
    """None while it runs, or until a killed one is noticed."""
    error: str | None = None
    """One line, where it did not succeed."""
    stages: tuple[StageRun, ...] = ()

    def facts(self) -> dict[str, Any]:
        """All of it as JSON can hold it."""
        return {
            **asdict(self),
            "started_at": self.started_at.isoformat(),
            "ended_at": self.ended_at.isoformat() if self.ended_at else None,
            "stages": [asdict(stage) for stage in self.stages],
        }


class RunTable:
    """The runs of a lake's pipelines.

    Args:
        lake: The lake; the table is made with the first run.
    """

    def __init__(self, lake: Lake) -> None:
        self._table = lake.table(RUNS)

    def started(self, run: Run) -> None:
        """Notes that an attempt begins."""
        self._table.create(RUNS_SCHEMA, (), "runs of `lakestorm schedule`")
        self._append("started", run)

    def ended(self, run: Run) -> bool:
        """Notes how it ended.

        Returns:
            False where an end is noted already; that one stays.
        """
        return self._append("ended", run)

    def close(self, pipeline: str) -> list[Run]:
        """Notes as interrupted what began and never ended; the caller knows that nothing runs.

        Returns:
            These runs.
        """
        now = datetime.now(UTC)
        lost = [
            replace(
                run,
                ended_at=now,
                outcome="interrupted",
                error="its process or its service was killed; noticed at the next start",
            )
            for run in self.read()
            if run.pipeline == pipeline and run.outcome is None
        ]
        return [run for run in lost if self.ended(run)]

    def read(self) -> list[Run]:
        """All attempts, the newest first."""
        if not self._table.exists:
            return []
        rows = self._table.snapshot().arrow(RUNS_SCHEMA.names).to_pylist()
        # Ends are taken last, and so replace the beginnings.
        rows.sort(key=lambda row: _EVENTS[row["event"]])
        found = {(row["run_id"], row["attempt"]): _run(row) for row in rows}
        return sorted(
            found.values(), key=lambda run: (run.started_at, run.run_id, run.attempt), reverse=True
        )

    def _append(self, event: str, run: Run) -> bool:
        stages = json.dumps([asdict(stage) for stage in run.stages])
        row = {**asdict(run), "event": event, "stages": stages}
        transaction = Transaction(f"run/{run.run_id}/{run.attempt}", _EVENTS[event])
        with self._table.attempt() as attempt:
            files = attempt.write_arrow(pa.Table.from_pylist([row], schema=RUNS_SCHEMA))
            landed = commit(self._table, files, transaction=transaction).landed
            if not landed:
                attempt.discard()
        return landed


def stage_runs(told: Any) -> tuple[StageRun, ...]:
    """The stages of a list of JSON objects, such as `--json` prints; further keys are left out.

    Raises:
        TypeError, KeyError: It is no such list.
    """
    names = [field.name for field in fields(StageRun)]
    return tuple(StageRun(**{name: stage[name] for name in names}) for stage in told)


def _run(row: dict[str, Any]) -> Run:
    return Run(
        run_id=row["run_id"],
        attempt=row["attempt"],
        pipeline=row["pipeline"],
        job=row["job"],
        started_at=row["started_at"],
        ended_at=row["ended_at"],
        outcome=cast("Outcome | None", row["outcome"]),
        error=row["error"],
        stages=stage_runs(json.loads(row["stages"])),
    )
