"""The command `lakestorm`, and what the jobs under `jobs/` call."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
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
        try:
            command(**options)
        except LakestormError as error:
            click.echo(f"lakestorm: {type(error).__name__}: {error}", err=True)
            sys.exit(EXIT_FAULT)

    return wrapped


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
    @main.command(name, help=does)
    @_pipeline_command
    def command(**options: Any) -> None:
        _run_stages([name], **options)


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
