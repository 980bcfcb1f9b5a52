"""How an object store is reached."""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import Field, model_validator

from pipeline.errors import ConfigError
from pipeline.settings import Settings

# In the names of settings; what they would hold is read from the environment.
_SECRET = re.compile("key|secret|token|passw|credential|sas", re.IGNORECASE)


class Storage(Settings):
    """How a lake in an object store is reached, by Spark, delta-rs and Arrow alike.

    Says nothing of a lake that is a folder. Credentials come from the environment or from the
    machine's role, see docs/deploy.md.
    """

    endpoint: str | None = Field(default=None, pattern=r"^https?://[^/?#]+/?$")
    """`http://host:port` of a store that speaks S3 and is not Amazon's; buckets are then part of
    the path. By default `AWS_ENDPOINT_URL`, or Amazon."""
    region: str | None = Field(default=None, pattern=r"^[a-z0-9-]+$")
    """Of the bucket, on S3. By default `AWS_REGION`."""
    jars: tuple[Annotated[str, Field(pattern=r"^\S+$")], ...] | None = None
    """What Spark needs for the store: Maven coordinates, or paths of jars. By default the
    coordinates that fit Spark's Hadoop; an empty list where Spark has them already."""
    work: str | None = Field(default=None, min_length=1)
    """Folder, on a disk, for what no object store can hold: checkpoints and locks. A training on
    several machines needs it at the same path on all of them."""

    @model_validator(mode="before")
    @classmethod
    def _no_secret_is_here(cls, given: Any) -> Any:
        if not isinstance(given, dict):
            return given
        # Not by a ValueError: Pydantic's own text would show the value.
        for name in given:
            if name not in cls.model_fields and _SECRET.search(str(name)):
                raise ConfigError(
                    f"storage.{name}",
                    "a secret does not belong into this file",
                    "Take it out, and set the environment's variables: docs/deploy.md.",
                )
        if "@" in str(given.get("endpoint") or ""):
            raise ConfigError(
                "storage.endpoint",
                "holds a user or a password",
                "Write http://host:port; credentials come from the environment: docs/deploy.md.",
            )
        return given
