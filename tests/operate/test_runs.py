from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import polars as pl
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from pipeline.cli import main
from pipeline.lake import Lake
from pipeline.operate.schedule.child import LONGEST_ERROR, in_short
from pipeline.operate.schedule.records import RUNS, Run, RunTable, StageRun, stage_runs

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
STAGE = StageRun(
    stage="clean",
    table="clean",
    version=3,
    rows_in=1200,
    rows_out=1000,
    rows_quarantined=150,
    rows_dropped=50,
    unchanged=False,
)


def begun(run_id: str, minute: int = 0, pipeline: str = "flights", attempt: int = 1) -> Run:
    return Run(
        run_id=run_id,
        attempt=attempt,
        pipeline=pipeline,
        job="score",
        started_at=NOON + timedelta(minutes=minute),
    )


def done(run: Run, outcome: str = "succeeded") -> Run:
    ended = run.started_at + timedelta(seconds=30)
    return replace(run, ended_at=ended, outcome=outcome, stages=(STAGE,))  # type: ignore[arg-type]


def lakestorm(*arguments: str) -> tuple[int, str]:
    ran = CliRunner().invoke(main, arguments)
    return ran.exit_code, ran.output


def test_an_attempt_is_one_record_from_its_start_to_its_end(lake: Lake) -> None:
    table, run = RunTable(lake), begun("a")
    assert table.read() == []
    table.started(run)
    assert table.read() == [run]
    assert table.ended(done(run))
    assert table.read() == [done(run)]
    retried = begun("a", 2, attempt=2)
    table.started(retried)
    assert table.read() == [retried, done(run)]


def test_the_first_end_counts_and_no_record_is_there_twice(lake: Lake) -> None:
    table, run = RunTable(lake), begun("a")
    for _ in range(2):
        table.started(run)
    assert table.ended(done(run))
    assert not table.ended(done(run, "failed"))
    table.started(run)  # late, as by a process that was asleep
    assert table.read() == [done(run)]
    assert pl.read_delta(lake.table(RUNS).root).height == 2


def test_only_lost_runs_of_the_pipeline_are_closed(lake: Lake) -> None:
    table = RunTable(lake)
    runs = [begun("ended"), begun("lost", 1), begun("other", 2, pipeline="mnist")]
    for run in runs:
        table.started(run)
    table.ended(done(runs[0]))
    [closed] = table.close("flights")
    assert (closed.run_id, closed.outcome) == ("lost", "interrupted")
    assert table.close("flights") == []
    assert table.read() == [runs[2], closed, done(runs[0])]


def test_records_of_many_writers_at_a_time_are_all_kept(lake: Lake) -> None:
    runs = [begun(f"run-{number}", number) for number in range(8)]
    RunTable(lake).started(runs[0])

    def write(run: Run) -> None:
        RunTable(lake).started(run)
        RunTable(lake).ended(done(run))

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(write, runs))
    assert RunTable(lake).read() == [done(run) for run in reversed(runs)]


def test_what_a_stage_tells_beyond_the_record_is_left_out() -> None:
    told = {**STAGE.__dict__, "seconds": 1.5, "counts": {"late": 3}}
    assert stage_runs([told]) == (STAGE,)


@given(st.text(max_size=2000))
def test_an_error_is_one_short_line_without_controls(text: str) -> None:
    line = in_short(text)
    assert len(line) <= LONGEST_ERROR
    assert line.isprintable()
    assert len(f"{line}.".splitlines()) == 1


def test_the_command_lists_the_newest_first(lake: Lake) -> None:
    table, place = RunTable(lake), ("--lake", lake.root)
    code, told = lakestorm("runs", *place)
    assert (code, told[:29]) == (0, "Nothing was run by a schedule")
    assert lakestorm("runs", "--json", *place) == (0, '{"runs": []}\n')
    for number in range(3):
        table.started(begun(f"run-{number}", number))
    table.ended(done(begun("run-0")))
    failed = replace(done(begun("run-1", 1), "failed"), error="table [red]x[/red]: is not there")
    table.ended(failed)
    code, told = lakestorm("runs", *place)
    assert code == 0
    assert told.index("running") < told.index("failed") < told.index("succeeded")
    assert "table [red]x[/red]" in told
    assert "clean@3: 1,200 -> 1,000, 150" in told
    code, told = lakestorm("runs", "--limit", "2", "--json", *place)
    assert code == 0
    newest, second = json.loads(told)["runs"]
    assert (newest["run_id"], newest["outcome"], newest["ended_at"]) == ("run-2", None, None)
    assert second["error"] == failed.error
    assert second["started_at"] == "2026-01-01T12:01:00+00:00"
    assert second["stages"][0]["rows_quarantined"] == 150
