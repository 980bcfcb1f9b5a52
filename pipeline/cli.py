"""The command `lakestorm`, and what the jobs under `jobs/` call."""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import wraps
from pathlib import Path
from typing import Any

import click
from py4j.protocol import Py4JNetworkError
from pyspark.sql import SparkSession
from rich.console import Console

from pipeline.config import Pipeline, load_pipeline
from pipeline.errors import ConfigError, EnvironmentFault, LakestormError
from pipeline.lake import Lake
from pipeline.operate.summary import stage_line, summary_json, summary_tables
from pipeline.operate.walk import STAGES, Asked, walk
from pipeline.outcome import Outcome
from pipeline.scoring.periods import Span
from pipeline.session import spark_session
from pipeline.sources.places import stores_of
from pipeline.training.tracking import tracking_uri

EXIT_FAULT = 1
LOG_COLUMNS = 120


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="lakestorm")
def main() -> None:
    """Deep learning on a lake of Parquet: clean, featurize, train, score, report."""


def _pipeline_command(command: Callable[..., None]) -> Callable[..., None]:
    """What all commands share: the YAML, --set, --master, --json, and errors in one line."""

    @click.argument("pipeline_yaml", type=click.Path())
    @click.option(
        "--set", "overrides", multiple=True, metavar="A.B=VALUE", help="Override a setting."
    )
    @click.option("--master", help="Spark master; local[*] by default.")
    @click.option("--json", "as_json", is_flag=True, help="End with one JSON object on a line.")
    @wraps(command)
    def wrapped(**options: Any) -> None:
        with _errors_in_one_line():
            command(**options)

    return wrapped


def _lake_command(command: Callable[..., None]) -> Callable[..., None]:
    """What commands on a lake share: where it is, and errors in one line."""

    @click.option(
        "--lake",
        default="lake",
        envvar="LAKESTORM_LAKE",
        show_default=True,
        show_envvar=True,
        help="Folder of the lake, its URI, or the pipeline's YAML.",
    )
    @wraps(command)
    def wrapped(lake: str, **options: Any) -> None:
        with _errors_in_one_line():
            described = lake.endswith((".yaml", ".yml"))
            pipeline = load_pipeline(lake) if described else None
            click.get_current_context().obj = pipeline  # for those that need more than the lake
            command(lake=Lake(lake) if pipeline is None else Lake.of(pipeline), **options)

    return wrapped


@contextmanager
def _errors_in_one_line() -> Iterator[None]:
    try:
        yield
    except LakestormError as error:
        click.echo(f"lakestorm: {type(error).__name__}: {error}", err=True)
        sys.exit(EXIT_FAULT)


def _run_stages(
    stages: Sequence[str],
    *,
    pipeline_yaml: str,
    overrides: Sequence[str],
    master: str | None,
    as_json: bool,
    asked: Asked,
) -> None:
    pipeline = load_pipeline(pipeline_yaml, overrides)
    lake = Lake.of(pipeline)
    # Before Spark starts: a lake that cannot be written is told at once.
    lake.require_writable()
    if asked.incremental or {"train", "score", "report"} & set(stages):
        tracking_uri(lake.root)  # raises where there is no place for models
    # With --json, standard output is the machine's: people read standard error.
    console = _console(stderr=as_json)
    console.print(
        f"pipeline {pipeline.name}   lake {lake.root}   seed {pipeline.seed}", soft_wrap=True
    )
    outcomes: list[Outcome] = []
    with _spark(f"lakestorm {' '.join(stages)} {pipeline.name}", master, pipeline) as spark:
        for outcome in walk(spark, pipeline, lake, stages, asked):
            outcomes.append(outcome)
            console.print(stage_line(outcome), soft_wrap=True)
    for table in summary_tables(outcomes, lake, pipeline.is_sensitive):
        console.print(table)
    if as_json:
        click.echo(summary_json(outcomes, pipeline, lake))


@contextmanager
def _spark(app: str, master: str | None, pipeline: Pipeline) -> Iterator[SparkSession]:
    """A session that is stopped at the end; that its process died is told in one line."""
    spark = spark_session(app, master, stores_of(pipeline))
    try:
        yield spark
    except (Py4JNetworkError, ConnectionError) as error:
        raise EnvironmentFault(
            "Spark",
            "its process ended before the stage was done",
            "See its last messages: most often it is short of memory, and spark-submit "
            "--driver-memory gives it more. Nothing is half written; run the stage again.",
        ) from error
    finally:
        with suppress(Py4JNetworkError, ConnectionError):
            spark.stop()


_INCREMENTAL = (
    click.option("--incremental", is_flag=True, help="Only what came since the last run."),
    click.option("--rebuild", is_flag=True, help="With --incremental: read all files once more."),
)
_SCORE = (
    click.option("--from", "first", help="First day, or period, to score again."),
    click.option("--to", "last", help="Last day, or period, to score again."),
    click.option("--model", "models", multiple=True, help="NAME@VERSION, a version or an alias."),
)
_OPTIONS = {
    "clean": _INCREMENTAL,
    "featurize": _INCREMENTAL[:1],
    "train": (click.option("--workers", type=int, help="Ranks that train together."),),
    "score": (*_INCREMENTAL[:1], *_SCORE),
}


def _asked(options: dict[str, Any]) -> Asked:
    """Takes what no setting says out of a command's options."""
    first, last = options.pop("first", None), options.pop("last", None)
    if (first is None) != (last is None):
        raise ConfigError("--from, --to", "only one of them is given", "Give both.")
    asked = Asked(
        incremental=options.pop("incremental", False),
        rebuild=options.pop("rebuild", False),
        models=options.pop("models", ()),
        span=None if first is None else Span(first, last),
    )
    if asked.rebuild and not asked.incremental:
        raise ConfigError(
            "--rebuild", "means nothing without --incremental", "Without both, all files are read."
        )
    return asked


def _add_stage(name: str, does: str) -> None:
    @_pipeline_command
    def command(**options: Any) -> None:
        workers = options.pop("workers", None)
        if workers is not None:
            options["overrides"] = (*options["overrides"], f"train.workers={workers}")
        _run_stages([name], asked=_asked(options), **options)

    for option in _OPTIONS.get(name, ()):
        command = option(command)
    main.command(name, help=does)(command)


for _name, _does in (
    ("clean", "Raw files to the tables clean, quarantine and quality."),
    ("featurize", "Fit the feature spec on the train split; write the table features."),
    ("train", "Train on features; register the model; champion if it beats the present one."),
    ("score", "Score what came since a model scored last; write predictions."),
    ("report", "Quality, training, calibration and drift on one HTML page."),
):
    _add_stage(_name, _does)


@main.command()
@_INCREMENTAL[1]
@_INCREMENTAL[0]
@click.option("--stages", metavar="A,B", help="Only these stages, in the data's way.")
@_pipeline_command
def run(stages: str | None, **options: Any) -> None:
    """Walk the whole way, from raw files to predictions in the lake."""
    # Who names the stage `train` wants it, also where there is a champion.
    chosen = _chosen(stages)
    asked = replace(_asked(options), retrain=stages is not None and "train" in chosen)
    _run_stages(chosen, asked=asked, **options)


def _chosen(stages: str | None) -> list[str]:
    wanted = list(STAGES) if stages is None else stages.split(",")
    for name in wanted:
        if name not in STAGES:
            raise ConfigError(
                "--stages", f"there is no stage {name!r}", f"Stages: {', '.join(STAGES)}."
            )
    return [name for name in STAGES if name in wanted]


@main.command()
@click.option("--replay", is_flag=True, help="Judge the rows again, by today's contract and rules.")
@click.option("--reason", help="Only rows with this reason.")
@click.option("--limit", type=click.IntRange(min=0), help="Examples of each reason; 3 by default.")
@_pipeline_command
def quarantine(replay: bool, reason: str | None, limit: int | None, **options: Any) -> None:
    """Show what is in quarantine, and why; or judge it again with --replay."""
    from pipeline.operate.quarantine import EXAMPLES, listed, look_into, quarantine_grid

    if replay:
        _replay(reason=reason, limit=limit, **options)
        return
    pipeline = load_pipeline(options["pipeline_yaml"], options["overrides"])
    table = Lake.of(pipeline).table("quarantine").snapshot()
    found = look_into(table, pipeline, reason=reason, limit=EXAMPLES if limit is None else limit)
    if options["as_json"]:
        click.echo(json.dumps({"quarantine": listed(found)}))
    else:
        _console().print(quarantine_grid(found, pipeline))


def _replay(
    *,
    reason: str | None,
    limit: int | None,
    pipeline_yaml: str,
    overrides: Sequence[str],
    master: str | None,
    as_json: bool,
) -> None:
    from pipeline.clean.replay import replay

    for option, value in (("--reason", reason), ("--limit", limit)):
        if value is not None:
            raise ConfigError(option, "means nothing with --replay: it takes all rows", "Omit it.")
    pipeline = load_pipeline(pipeline_yaml, overrides)
    lake = Lake.of(pipeline)
    lake.table("quarantine").snapshot()  # before Spark starts: that there is none is told at once
    with _spark(f"lakestorm replay {pipeline.name}", master, pipeline) as spark:
        outcome = replay(spark, pipeline, lake)
    _console(stderr=as_json).print(stage_line(outcome), soft_wrap=True)
    if as_json:
        click.echo(summary_json([outcome], pipeline, lake))


@main.command()
@click.option("--once", metavar="JOB", help="Run this job now, with its retries, and end.")
@_pipeline_command
def schedule(once: str | None, **options: Any) -> None:
    """Run the jobs of a pipeline's schedule at their times, until SIGTERM."""
    from pipeline.operate.schedule.command import lakestorm_run
    from pipeline.operate.schedule.service import run_once, serve

    _log_to_stderr()
    path, overrides = options["pipeline_yaml"], options["overrides"]
    pipeline = load_pipeline(path, overrides)
    command = lakestorm_run(path, overrides, options["master"])
    if once is None:
        serve(pipeline, Lake.of(pipeline), command)
        return
    ran = run_once(pipeline, Lake.of(pipeline), command, once)
    if options["as_json"]:
        click.echo(json.dumps(ran.facts()))


@main.command()
@_pipeline_command
def doctor(**options: Any) -> None:
    """Look at Java, Spark, executors, the lake and MLflow; say what to do about each."""
    from pipeline.operate.doctor import doctor_grid, examine, listed

    pipeline = load_pipeline(options["pipeline_yaml"], options["overrides"])
    found = list(examine(pipeline, options["master"]))
    if options["as_json"]:
        click.echo(json.dumps({"findings": listed(found)}))
    else:
        _console().print(doctor_grid(found))
    if any(each.state == "fail" for each in found):
        sys.exit(EXIT_FAULT)


def _console(*, stderr: bool = False) -> Console:
    """Where tables are shown."""
    # Else a column `id` in `required:id: 3` would be shown as a picture.
    console = Console(stderr=stderr, highlight=False, emoji=False)
    if not console.is_terminal:  # a log has no width that tables must fit
        console.width = LOG_COLUMNS
    return console


def _log_to_stderr() -> None:
    logging.Formatter.converter = time.gmtime
    logging.basicConfig(
        level=logging.INFO,
        format="%(asctime)s %(levelname)s %(message)s",
        datefmt="%Y-%m-%dT%H:%M:%SZ",
    )
    # What it tells below warnings, ours tells in fewer words.
    logging.getLogger("apscheduler").setLevel(logging.WARNING)


@main.command()
@click.option("--limit", default=20, show_default=True, type=click.IntRange(min=1))
@click.option("--json", "as_json", is_flag=True, help="One JSON object on a line.")
@_lake_command
def runs(lake: Lake, limit: int, as_json: bool) -> None:
    """List what schedules ran, the newest first: outcome, rows, versions."""
    from pipeline.operate.runs import listed, newest_runs, runs_grid

    found = newest_runs(lake, limit)
    if as_json:
        click.echo(json.dumps({"runs": listed(found)}))
        return
    console = _console()
    if found:
        console.print(runs_grid(found))
    else:
        console.print(f"Nothing was run by a schedule on {lake.root}.", soft_wrap=True)


@main.command()
@click.argument("pipeline_yaml", type=click.Path())
@click.option("--set", "overrides", multiple=True, metavar="A.B=VALUE", help="Override a setting.")
@click.option("--limit", default=1, show_default=True, type=click.IntRange(min=1))
@click.option("--json", "as_json", is_flag=True, help="One JSON object on a line.")
def drift(pipeline_yaml: str, overrides: Sequence[str], limit: int, as_json: bool) -> None:
    """Show how unlike the training's the rows scored last were, the newest pass first."""
    from pipeline.operate.drift import drift_grid, listed
    from pipeline.scoring.drift_table import newest

    with _errors_in_one_line():
        lake = Lake.of(load_pipeline(pipeline_yaml, overrides))
        found = newest(lake, limit)
    if as_json:
        click.echo(json.dumps({"drift": listed(found)}))
        return
    console = _console()
    for each in found:
        console.print(drift_grid(each))
    if not found:
        console.print(f"No drift was measured in {lake.root}.", soft_wrap=True)


@main.command()
@click.option("--json", "as_json", is_flag=True, help="One JSON object on a line.")
@_lake_command
def models(lake: Lake, as_json: bool) -> None:
    """List the registered models: versions, metrics and aliases."""
    from pipeline.operate.models import listed, model_grid

    found = listed(lake)
    if as_json:
        click.echo(json.dumps(found))
        return
    console = _console()
    for name, versions in found.items():
        console.print(model_grid(name, versions))
    if not found:
        console.print(f"No model is registered in {lake.root}.", soft_wrap=True)


@main.command()
@click.argument("name")
@click.argument("version", type=int)
@_lake_command
def promote(name: str, version: int, lake: Lake) -> None:
    """Make a version of a model its champion, whatever its metrics."""
    from pipeline.training.registry import Registry

    before = Registry(lake, name).promote(version)
    was = "there was no other" if before is None else f"it was version {before}"
    click.echo(f"champion of {name} is version {version}; {was}")


@main.command()
@click.argument("model")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", default=8080, show_default=True, type=click.IntRange(0, 65535))
@click.option("--custom", help="Your own network, package.module:Class, if it is one.")
@click.option("--kinds", help="The module of your own kinds of features, if there are some.")
@click.option(
    "--log",
    type=click.Path(path_type=Path),
    metavar="FOLDER",
    help="Log keys, features and scores there, for `lakestorm skew`; needs --lake PIPELINE.yaml.",
)
@click.option(
    "--log-mb",
    "log_megabytes",
    default=1024,
    show_default=True,
    type=click.IntRange(1),
    help="With --log: how much the folder holds; the oldest files are removed.",
)
@_lake_command
def serve(model: str, lake: Lake, **options: Any) -> None:
    """Answer requests with a model's scores: NAME@ALIAS or NAME@VERSION."""
    from pipeline.serving.command import run

    run(model, lake, pipeline=click.get_current_context().obj, **options)


@main.command()
@click.argument("pipeline_yaml", type=click.Path())
@click.option("--set", "overrides", multiple=True, metavar="A.B=VALUE", help="Override a setting.")
@click.option(
    "--log",
    required=True,
    type=click.Path(path_type=Path),
    metavar="FOLDER",
    help="What `lakestorm serve --log` wrote.",
)
@click.option(
    "--limit",
    default=1,
    show_default=True,
    type=click.IntRange(0),
    help="Examples of each column that differs.",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object on a line.")
def skew(
    pipeline_yaml: str, overrides: Sequence[str], log: Path, limit: int, as_json: bool
) -> None:
    """Compare what a service made with the lake, by key; exit with 1 where they differ."""
    from pipeline.operate.skew import listed, skew_grids
    from pipeline.serving.skew import compare

    with _errors_in_one_line():
        pipeline = load_pipeline(pipeline_yaml, overrides)
        found = compare(log, Lake.of(pipeline), pipeline, limit)
    if as_json:
        click.echo(json.dumps({"skew": listed(found)}))
    else:
        console = _console()
        for grid in (grid for each in found for grid in skew_grids(each)):
            console.print(grid)
    if any(each.verdict != "same" for each in found):
        sys.exit(EXIT_FAULT)


@main.command()
@click.option("--retention-hours", type=click.IntRange(0), default=168, show_default=True)
@click.option("--target-mb", type=click.IntRange(1), default=128, show_default=True)
@click.option("--force", is_flag=True, help="Allow a retention under an hour: nothing may run.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on a line.")
@_lake_command
def maintain(lake: Lake, retention_hours: int, target_mb: int, force: bool, as_json: bool) -> None:
    """Merge small files; delete orphans and old versions no model was trained on."""
    from pipeline.operate import maintain as upkeep

    done = upkeep.maintain(lake, retention_hours, target_bytes=target_mb * 2**20, force=force)
    for each in done:
        if not as_json:
            click.echo(upkeep.line(each))
    if as_json:
        click.echo(upkeep.as_json(done))


@main.command()
@click.argument("table")
@click.argument("version", type=click.IntRange(0))
@_lake_command
def restore(table: str, version: int, lake: Lake) -> None:
    """Take a table back to one of its versions; later runs of its stage see that."""
    from pipeline.operate.maintain import take_back

    click.echo(take_back(lake, table, version))
