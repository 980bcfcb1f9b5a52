"""Which stages run when."""

from __future__ import annotations

import re
from typing import Any, Literal, get_args

from pydantic import Field, field_validator, model_validator

from pipeline.settings import Name, Positive, Settings, TimeZone

StageName = Literal["clean", "featurize", "train", "score", "report"]
STAGE_NAMES: tuple[StageName, ...] = get_args(StageName)
"""The stages, in the data's way."""


class Job(Settings):
    """What `lakestorm schedule` runs again and again: some stages, in a process of their own."""

    cron: str
    """Minute, hour, day of the month, month, day of the week, as crontab has them."""
    stages: tuple[StageName, ...] = Field(min_length=1)
    """Run in the data's way; by default the stage that the job is named after."""
    incremental: bool = True
    """Whether the stages take only what is new."""
    retries: int = Field(default=3, ge=0, le=100)
    """Times that a failed run is tried again."""
    backoff_seconds: float = Field(default=60.0, ge=0)
    """Pause before the first retry; each further one is twice as long, up to an hour."""
    misfire_grace_seconds: Positive = 86_400
    """A run that could not begin for so long after its time is left out."""

    @field_validator("cron")
    @classmethod
    def _cron_is_readable(cls, expression: str) -> str:
        # Imported here: executors load descriptions too, and schedule nothing.
        from pipeline.cron import trigger

        trigger(expression)
        return expression


class Schedule(Settings):
    """What `lakestorm schedule` does, and when."""

    time_zone: TimeZone = "UTC"
    """Where the hours of `cron` are read off the clock."""
    jobs: dict[Name, Job] = Field(min_length=1)
    health_port: int = Field(default=8090, ge=0, lt=2**16)
    """Port of the loopback that answers `/health`; 0 takes any that is free."""
    webhook_env: str | None = None
    """Name of the environment variable that holds the address which failures are posted to."""
    stop_grace_seconds: float = Field(default=600.0, ge=0)
    """How long a run may go on after the service was asked to stop."""

    @model_validator(mode="before")
    @classmethod
    def _jobs_are_named_after_stages(cls, given: Any) -> Any:
        jobs = given.get("jobs") if isinstance(given, dict) else None
        if not isinstance(jobs, dict):
            return given
        named = {
            name: {"stages": [name], **job}
            if isinstance(job, dict) and name in STAGE_NAMES
            else job
            for name, job in jobs.items()
        }
        return {**given, "jobs": named}

    @field_validator("webhook_env")
    @classmethod
    def _webhook_is_not_here(cls, name: str | None) -> str | None:
        # Not by a pattern: the message would show the value, and it may be the secret itself.
        if name is not None and not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
            raise ValueError(
                "this is not the name of an environment variable; the address itself is a secret "
                "and belongs into such a variable, not into this file"
            )
        return name
