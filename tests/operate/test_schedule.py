from __future__ import annotations

import fcntl
import json
import os
import signal
import socket
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import pytest
from apscheduler.events import EVENT_JOB_EXECUTED, EVENT_JOB_MAX_INSTANCES, EVENT_JOB_SUBMITTED

from pipeline.config import STAGE_NAMES, Job, Schedule, load_pipeline
from pipeline.errors import ConfigError, ScheduleError
from pipeline.operate.schedule.command import lakestorm_run
from pipeline.operate.schedule.locks import only_service
from pipeline.operate.schedule.records import Run, StageRun
from pipeline.operate.schedule.runner import LONGEST_BACKOFF_SECONDS, backoff_seconds
from pipeline.operate.schedule.service import scheduler_of, serve
from pipeline.operate.walk import STAGES
from tests.flights import FLIGHTS
from tests.operate.scheduled import CENTURY_SECONDS, Place, job

SCORED = StageRun(
    stage="score",
    table="predictions",
    version=7,
    rows_in=10,
    rows_out=8,
    rows_quarantined=1,
    rows_dropped=1,
    unchanged=False,
)


def ask(address: str, method: str = "GET") -> tuple[int, Any]:
    request = urllib.request.Request(address, method=method)  # noqa: S310 (our own)
    try:
        with urllib.request.urlopen(request) as answer:  # noqa: S310
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error)


@contextmanager
def receiver(code: int = 200) -> Iterator[tuple[str, SimpleQueue[Any]]]:
    """A real listener for the webhook: its secret address, and what was posted to it."""
    posted: SimpleQueue[Any] = SimpleQueue()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            posted.put((self.path, json.loads(body)))
            self.send_response(code)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_arguments: Any) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}/secret-path", posted
        finally:
            server.shutdown()
            thread.join()


def test_a_job_that_was_missed_for_years_runs_once_and_is_recorded(place: Place) -> None:
    place.write({"score": "works"})
    place.overdue("score")
    service = place.start()
    address = service.address()
    service.until("job score: succeeded")
    code, told = ask(address)
    assert (code, told["status"], told["pipeline"]) == (200, "ok", "flights")
    [run] = place.runs()
    assert (run.job, run.attempt, run.outcome, run.error) == ("score", 1, "succeeded", None)
    assert run.stages == (SCORED,)
    assert run.ended_at
    assert run.ended_at >= run.started_at
    year = datetime.now(UTC).year + 1
    assert told["jobs"] == {
        "score": {
            "next_run": f"{year}-01-01T00:00:00+00:00",
            "last_outcome": "succeeded",
            "last_ended": run.ended_at.isoformat(timespec="seconds"),
            "consecutive_failures": 0,
            "running_since": None,
        }
    }
    service.signal(signal.SIGTERM)
    assert service.code() == 0
    assert place.diary() == ["begins", "ends"]


def test_a_job_that_never_ran_waits_for_its_time(place: Place) -> None:
    place.write({"score": "works"})
    service = place.start()
    service.until("job score runs next at")
    service.signal(signal.SIGINT)
    assert service.code() == 0
    assert place.runs() == []


def test_nothing_but_health_is_answered_and_only_on_the_loopback(place: Place) -> None:
    place.write({"score": "works"})
    service = place.start()
    address = service.address()
    assert address.startswith("http://127.0.0.1:")
    for path in ("", "/health/", "/health?x=<b>", "/../health"):
        assert ask(address.removesuffix("/health") + path)[0] == 404
    for method in ("POST", "PUT", "DELETE", "OPTIONS"):
        assert ask(address, method)[0] == 404
    assert ask(address)[0] == 200
    with pytest.raises(urllib.error.URLError):  # what listens everywhere answers here too
        ask(address.replace("127.0.0.1", "127.0.0.2"))


def test_sigterm_lets_a_run_finish_and_nothing_new_begin(place: Place) -> None:
    place.write({"score": "waits", "train": "waits"})
    place.overdue("score", "train")
    service = place.start()
    address = service.address()
    place.began()
    service.signal(signal.SIGTERM)
    service.until("stopping: nothing new begins")
    jobs = ask(address)[1]["jobs"]
    [running] = [name for name in jobs if jobs[name]["running_since"]]
    place.go()
    assert service.code() == 0
    assert place.outcomes() == [(running, 1, "succeeded")]
    assert place.diary() == ["begins", "ends"]


@pytest.mark.parametrize(("chore", "signals"), [("waits", 1), ("deaf", 2)])
def test_a_further_signal_ends_a_run_sooner(place: Place, chore: str, signals: int) -> None:
    place.write({"score": chore})
    place.overdue("score")
    os.mkfifo(place.folder / "alive")
    alive = os.open(place.folder / "alive", os.O_RDONLY | os.O_NONBLOCK)
    service = place.start()
    child = place.began()
    service.signal(signal.SIGTERM)
    service.until("stopping: nothing new begins")
    for said in ("asked to end", "killed")[:signals]:
        service.signal(signal.SIGTERM)
        service.until(said)
    assert service.code() == 0
    [run] = place.runs()
    assert (run.outcome, place.diary()) == ("interrupted", ["begins"])
    with pytest.raises(ProcessLookupError):
        os.kill(child, 0)
    # Ends when nobody is left who could write: what the run had started is gone too.
    os.set_blocking(alive, True)
    with os.fdopen(alive) as pipe:
        assert pipe.read() == ("up\n" if chore == "deaf" else "")


def test_a_run_that_outlasts_the_grace_is_ended(place: Place) -> None:
    place.write({"score": "waits"}, stop_grace_seconds=0)
    place.overdue("score")
    service = place.start()
    place.began()
    service.signal(signal.SIGTERM)
    assert service.code() == 0
    [run] = place.runs()
    assert (run.outcome, run.error) == ("interrupted", "was ended by SIGTERM")


def test_a_killed_service_is_noticed_at_the_next_start(place: Place) -> None:
    place.write({"score": "waits"})
    place.overdue("score")
    service = place.start()
    place.began()
    service.kill()
    assert place.outcomes() == [("score", 1, None)]
    second = place.start()  # the run of the first is still going
    second.until("a run of this pipeline is still going")
    second.until("job score runs next at")
    second.signal(signal.SIGTERM)
    assert second.code() == 0
    assert place.outcomes() == [("score", 1, None)]
    place.go()
    with (Path(place.lake.root) / "schedule" / "flights.run.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # had when the run has ended
    place.write({"score": "works"})
    third = place.start()
    third.until("job score was interrupted")
    third.until("job score: succeeded")  # and is made up for
    assert place.outcomes() == [("score", 1, "interrupted"), ("score", 1, "succeeded")]
    third.signal(signal.SIGTERM)
    assert third.code() == 0


def test_a_run_that_fails_after_its_retries_is_loud(place: Place) -> None:
    jobs = {"score": job(retries=2)}
    place.write({"score": "fails 9"}, jobs=jobs, webhook_env="ALARM_URL")
    place.overdue("score")
    with receiver() as (url, posted):
        service = place.start(ALARM_URL=url)
        address = service.address()
        line = service.until("ERROR")
        assert "job score failed after attempt 3: ScoringError: <b>no [2J luck</b>" in line
        path, told = posted.get()
        code, health = ask(address)
        service.signal(signal.SIGTERM)
        assert service.code() == 0
        assert posted.empty()
    assert path == "/secret-path"
    assert (told["pipeline"], told["job"], told["attempt"]) == ("flights", "score", 3)
    assert told["outcome"] == "failed"
    assert told["error"] == "ScoringError: <b>no [2J luck</b>"
    assert (code, health["status"]) == (503, "failing")
    assert health["jobs"]["score"]["consecutive_failures"] == 1
    assert "secret-path" not in service.log
    assert place.outcomes() == [("score", attempt, "failed") for attempt in (1, 2, 3)]
    assert len({run.run_id for run in place.runs()}) == 1
    # A restarted service knows it from the table.
    again = place.start(ALARM_URL=url)
    code, health = ask(again.address())
    assert (code, health["jobs"]["score"]["consecutive_failures"]) == (503, 1)


def test_sigterm_ends_the_pause_before_a_retry(place: Place) -> None:
    place.write({"score": "fails 9"}, jobs={"score": job(retries=9, backoff_seconds=3600)})
    place.overdue("score")
    service = place.start()
    service.until("attempt 1 failed, the next in 3600 s")
    service.signal(signal.SIGTERM)
    assert service.code() == 0
    assert "ERROR job score failed after attempt 1" in service.log
    assert place.outcomes() == [("score", 1, "failed")]


def test_a_retry_that_succeeds_is_told_to_nobody(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs = {"score": job(retries=2)}
    place.write({"score": "fails 1"}, jobs=jobs, webhook_env="ALARM_URL")
    with receiver() as (url, posted):
        monkeypatch.setenv("ALARM_URL", url)
        assert place.once("score").outcome == "succeeded"
        assert posted.empty()
    assert place.outcomes() == [("score", 1, "failed"), ("score", 2, "succeeded")]


@pytest.mark.parametrize("reached", [True, False])
def test_a_webhook_that_fails_is_logged_without_its_address(
    place: Place, reached: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    place.write({"score": "fails 9"}, webhook_env="ALARM_URL")
    with receiver(500) as (url, _):
        monkeypatch.setenv("ALARM_URL", url if reached else "http://127.0.0.1:x/secret-path")
        with pytest.raises(ScheduleError, match=r"job score: failed: ScoringError: <b>no"):
            place.once("score")
    assert f"could not be told: {'it answered 500' if reached else 'InvalidURL'}" in caplog.text
    assert "secret-path" not in caplog.text


def test_the_secret_address_is_not_given_to_runs(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ALARM_URL", "http://127.0.0.1/secret-path")
    monkeypatch.setenv("OTHER_URL", "http://127.0.0.1/")
    for variable, code in (("OTHER_URL", 1), ("ALARM_URL", 0)):
        place.write({"score": "expects-no ALARM_URL"}, webhook_env=variable)
        if code:
            with pytest.raises(ScheduleError, match="it has ALARM_URL"):
                place.once("score")
        else:
            place.once("score")


@pytest.mark.parametrize(
    ("chore", "outcome", "error"),
    [
        ("works", "succeeded", None),
        ("unchanged", "unchanged", None),
        ("dies", "failed", "was ended by SIGKILL"),
        ("mute", "failed", "ended without telling what it did"),
    ],
)
def test_once_runs_a_job_now(place: Place, chore: str, outcome: str, error: str | None) -> None:
    place.write({"score": chore})
    if error is None:
        assert place.once("score") == place.runs()[0]
    else:
        with pytest.raises(ScheduleError, match=f"job score: failed: {error}"):
            place.once("score")
    [run] = place.runs()
    assert (run.outcome, run.error) == (outcome, error)


def test_a_stopped_once_says_so(place: Place) -> None:
    place.write({"score": "waits"}, stop_grace_seconds=0)
    service = place.start("score")
    place.began()
    service.signal(signal.SIGTERM)
    assert service.code() == 1
    assert "ScheduleError: job score: interrupted: was ended by SIGTERM" in service.log
    assert place.outcomes() == [("score", 1, "interrupted")]


def test_a_run_goes_on_when_nobody_reads_the_log(place: Place) -> None:
    place.write({"score": "talks"})
    service = place.start("score")
    place.began()
    service.unheard()
    place.go()
    assert service.code() == 0
    assert place.outcomes() == [("score", 1, "succeeded")]


def test_runs_of_a_pipeline_do_not_overlap_whoever_starts_them(place: Place) -> None:
    place.write({"score": "waits", "train": "waits"})
    first = place.start("score")
    place.began()
    others = [place.start("score"), place.start("train")]
    for other in others:
        other.until("waiting: another run of this pipeline")
    assert place.diary() == ["begins"]
    place.go()
    for _ in others:
        place.began()
        place.go()
    assert [service.code() for service in (first, *others)] == [0, 0, 0]
    assert place.diary() == ["begins", "ends"] * 3
    assert [outcome for _, _, outcome in place.outcomes()] == ["succeeded"] * 3


def test_a_run_that_cannot_be_recorded_is_a_failed_one(place: Place) -> None:
    place.write({"score": "works"})
    (Path(place.lake.root) / "schedule").mkdir()
    (Path(place.lake.root) / "schedule" / "runs").write_text("in the way")
    told = r"job score: failed: LakeError: folder .+ cannot be used: "
    with pytest.raises(ScheduleError, match=told):
        place.once("score")
    assert not (place.folder / "diary").exists()


@pytest.mark.parametrize("value", [None, "file:///etc/passwd"])
def test_a_webhook_without_an_address_keeps_the_service_from_starting(
    place: Place, value: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    place.write({"score": "works"}, webhook_env="ALARM_URL")
    if value:
        monkeypatch.setenv("ALARM_URL", value)
    with pytest.raises(
        ConfigError, match=r"^schedule.webhook_env ALARM_URL: .* is not set"
    ) as told:
        place.serve()
    assert "passwd" not in str(told.value)


def test_a_port_that_is_taken_keeps_the_service_from_starting(place: Place) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        place.write({"score": "works"}, health_port=port)
        with pytest.raises(ScheduleError, match=f"schedule.health_port {port}: cannot be listened"):
            place.serve()


def test_a_pipeline_has_one_service(place: Place) -> None:
    place.write({"score": "works"})
    with (
        only_service(place.lake, "flights"),
        pytest.raises(ScheduleError, match="pipeline flights: is scheduled already"),
    ):
        place.serve()


def test_a_job_or_schedule_that_is_not_there_is_named(place: Place) -> None:
    place.write({"score": "works"})
    with pytest.raises(ConfigError, match=r"--once: there is no job 'scor'\. Jobs: score\."):
        place.once("scor")
    pipeline = load_pipeline(FLIGHTS).model_copy(update={"schedule": None})
    with pytest.raises(ConfigError, match="schedule: is missing"):
        serve(pipeline, place.lake, lambda _job: [])


def schedule(**jobs: Any) -> Schedule:
    return Schedule.model_validate({"time_zone": "Europe/Berlin", "jobs": jobs})


def ran(name: str, at: datetime, outcome: str | None = "succeeded") -> Run:
    values: dict[str, Any] = {"run_id": f"{name}{at}", "attempt": 1, "pipeline": "flights"}
    return Run(job=name, started_at=at, outcome=outcome, **values)  # type: ignore[arg-type]


def test_a_job_is_not_due_again_while_it_runs_and_others_wait() -> None:
    """APScheduler itself, told by hand that the time has come."""
    go, begun, told = threading.Event(), SimpleQueue[str](), SimpleQueue[Any]()

    def run(name: str) -> None:
        begun.put(name)
        go.wait()

    scheduler = scheduler_of(schedule(score=job(), train=job()), run, [])
    mask = EVENT_JOB_SUBMITTED | EVENT_JOB_MAX_INSTANCES | EVENT_JOB_EXECUTED
    scheduler.add_listener(lambda event: told.put((event.job_id, event.code)), mask)
    scheduler.start()

    def due(name: str, code: int) -> None:
        scheduler.modify_job(name, next_run_time=datetime.now(UTC))
        assert told.get() == (name, code)

    try:
        due("score", EVENT_JOB_SUBMITTED)
        assert begun.get() == "score"
        due("train", EVENT_JOB_SUBMITTED)  # waits for the one worker
        for name in ("score", "train", "train"):
            due(name, EVENT_JOB_MAX_INSTANCES)
        assert begun.empty()
    finally:
        go.set()
        scheduler.shutdown()
    assert begun.get() == "train"
    assert begun.empty()


def test_hours_are_of_the_time_zone() -> None:
    scheduler = scheduler_of(schedule(score=job(cron="30 3 * * 0")), print, [])
    scheduler.start(paused=True)
    due = scheduler.get_job("score").next_run_time
    assert (due.hour, due.minute, due.isoweekday(), str(due.tzinfo)) == (3, 30, 7, "Europe/Berlin")
    scheduler.shutdown()


@pytest.mark.parametrize(
    ("last", "outcome", "grace", "overdue"),
    [
        (timedelta(days=800), "succeeded", CENTURY_SECONDS, True),
        (timedelta(days=800), "failed", CENTURY_SECONDS, True),
        (timedelta(days=800), "succeeded", 1, False),  # too late to be made up for
        (timedelta(0), "succeeded", CENTURY_SECONDS, False),
        (timedelta(0), None, CENTURY_SECONDS, False),  # it may still run
    ],
)
def test_what_was_missed_while_the_service_was_down_is_due(
    last: timedelta, outcome: str | None, grace: int, overdue: bool
) -> None:
    runs = [ran("score", datetime.now(UTC) - last, outcome)]
    jobs = schedule(score=job(misfire_grace_seconds=grace))
    scheduler = scheduler_of(jobs, print, runs)
    scheduler.start(paused=True)
    assert (scheduler.get_job("score").next_run_time < datetime.now(UTC)) == overdue
    scheduler.shutdown()


def test_an_interrupted_run_is_made_again() -> None:
    now = datetime.now(UTC)
    runs = [ran("score", now, "interrupted"), ran("score", now - timedelta(days=800))]
    scheduler = scheduler_of(schedule(score=job()), print, runs)
    scheduler.start(paused=True)
    assert scheduler.get_job("score").next_run_time < now
    scheduler.shutdown()


def test_the_pause_doubles_up_to_an_hour() -> None:
    [found] = schedule(score={"cron": "0 * * * *"}).jobs.values()
    assert [backoff_seconds(found, n) for n in (1, 2, 3)] == [60, 120, 240]
    assert backoff_seconds(found, 101) == LONGEST_BACKOFF_SECONDS


def test_a_run_is_the_command_that_a_person_would_give() -> None:
    settings = Job(cron="0 * * * *", stages=("clean", "score"))
    given = lakestorm_run("p.yaml", ["seed=3", "lake=here"], "local[1]")(settings)
    assert given[1:] == [
        *("-P", "-m", "pipeline", "run", "p.yaml", "--stages", "clean,score"),
        *("--set", "seed=3", "--set", "lake=here", "--master", "local[1]"),
        *("--incremental", "--json"),
    ]
    whole = settings.model_copy(update={"incremental": False})
    assert "--incremental" not in lakestorm_run("p.yaml", [], None)(whole)


def test_the_description_knows_the_stages() -> None:
    assert tuple(STAGES) == STAGE_NAMES
