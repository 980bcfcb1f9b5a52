"""What the process of a run is told to do: the same command that a person would give."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence

from pipeline.config import Job

Command = Callable[[Job], list[str]]
"""A job to its command line; the last line that it prints is the JSON of `--json`."""


def lakestorm_run(pipeline_yaml: str, overrides: Sequence[str], master: str | None) -> Command:
    """`lakestorm run` of the job's stages, with what the service itself was given.

    Args:
        pipeline_yaml: The pipeline; each run reads it anew.
        overrides: Settings over it.
        master: Spark's master, if it is not the default.
    """

    def command(job: Job) -> list[str]:
        return [
            # -P as the installed command has it: a folder `pipeline` here is not imported.
            *(sys.executable, "-P", "-m", "pipeline", "run", pipeline_yaml),
            *("--stages", ",".join(job.stages)),
            *(part for override in overrides for part in ("--set", override)),
            *(("--master", master) if master else ()),
            *_incremental(job),
            "--json",
        ]

    return command


def _incremental(job: Job) -> list[str]:
    return ["--incremental"] if job.incremental else []
