"""The command `lakestorm`, and what the jobs under `jobs/` call."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import wraps
from typing import Any

import click
from rich.console import Console

from pipeline.config import load_pipeline
from pipeline.errors import LakestormError
from pipeline.lake import Lake
from pipeline.operate.summary import stage_line, summary_json, summary_tables
from pipeline.operate.walk import STAGES, walk
from pipeline.outcome import Outcome
from pipeline.session import spark_session

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
        help="Folder of the lake.",
    )
    @wraps(command)
    def wrapped(**options: Any) -> None:
        with _errors_in_one_line():
            command(**options)

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
) -> None:
    pipeline = load_pipeline(pipeline_yaml, overrides)
    lake = Lake(pipeline.lake)
    # Before Spark starts: a lake that cannot be written is told at once.
    lake.require_writable()
    # With --json, standard output is the machine's: people read standard error.
    console = Console(stderr=as_json, highlight=False)
    if not console.is_terminal:  # a log has no width that tables must fit
        console.width = LOG_COLUMNS
    console.print(
        f"pipeline {pipeline.name}   lake {lake.root}   seed {pipeline.seed}", soft_wrap=True
    )
    spark = spark_session(f"lakestorm {' '.join(stages)} {pipeline.name}", master)
    try:
        outcomes: list[Outcome] = []
        for outcome in walk(spark, pipeline, lake, stages):
            outcomes.append(outcome)
            console.print(stage_line(outcome), soft_wrap=True)
    finally:
        spark.stop()
    for table in summary_tables(outcomes, lake):
        console.print(table)
    if as_json:
        click.echo(summary_json(outcomes, pipeline, lake))


def _add_stage(name: str, does: str) -> None:
    @_pipeline_command
    def command(**options: Any) -> None:
        workers = options.pop("workers", None)
        if workers is not None:
            options["overrides"] = (*options["overrides"], f"train.workers={workers}")
        _run_stages([name], **options)

    if name == "train":
        command = click.option("--workers", type=int, help="Ranks that train together.")(command)
    main.command(name, help=does)(command)


for _name, _does in (
    ("clean", "Raw files to the tables clean, quarantine and quality."),
    ("featurize", "Fit the feature spec on the train split; write the table features."),
    ("train", "Train on features; register the model; champion if it beats the present one."),
    ("score", "Score the rows of clean with a registered model; write predictions."),
    ("report", "Quality, training, calibration and drift on one HTML page."),
):
    _add_stage(_name, _does)


@main.command()
@_pipeline_command
def run(**options: Any) -> None:
    """Walk the whole way, from raw files to predictions in the lake."""
    _run_stages(list(STAGES), **options)


@main.command()
@click.option("--json", "as_json", is_flag=True, help="One JSON object on a line.")
@_lake_command
def models(lake: str, as_json: bool) -> None:
    """List the registered models: versions, metrics and aliases."""
    from pipeline.operate.models import listed, model_grid

    found = listed(Lake(lake))
    if as_json:
        click.echo(json.dumps(found))
        return
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = LOG_COLUMNS
    for name, versions in found.items():
        console.print(model_grid(name, versions))
    if not found:
        console.print(f"No model is registered in {Lake(lake).root}.", soft_wrap=True)


@main.command()
@click.argument("name")
@click.argument("version", type=int)
@_lake_command
def promote(name: str, version: int, lake: str) -> None:
    """Make a version of a model its champion, whatever its metrics."""
    from pipeline.training.registry import Registry

    before = Registry(Lake(lake), name).promote(version)
    was = "there was no other" if before is None else f"it was version {before}"
    click.echo(f"champion of {name} is version {version}; {was}")


@main.command()
@click.option("--retention-hours", type=click.IntRange(0), default=168, show_default=True)
@click.option("--target-mb", type=click.IntRange(1), default=128, show_default=True)
@click.option("--force", is_flag=True, help="Allow a retention under an hour: nothing may run.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on a line.")
@_lake_command
def maintain(lake: str, retention_hours: int, target_mb: int, force: bool, as_json: bool) -> None:
    """Merge small files; delete orphans and old versions no model was trained on."""
    from pipeline.operate import maintain as upkeep

    done = upkeep.maintain(Lake(lake), retention_hours, target_bytes=target_mb * 2**20, force=force)
    for each in done:
        if not as_json:
            click.echo(upkeep.line(each))
    if as_json:
        click.echo(upkeep.as_json(done))


@main.command()
@click.argument("table")
@click.argument("version", type=click.IntRange(0))
@_lake_command
def restore(table: str, version: int, lake: str) -> None:
    """Take a table back to one of its versions; later runs of its stage see that."""
    from pipeline.operate.maintain import take_back

    click.echo(take_back(Lake(lake), table, version))
