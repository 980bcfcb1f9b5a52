"""Tells a failed run to whoever listens at an address that is a secret."""

from __future__ import annotations

import json
import logging
import os
import urllib.error
import urllib.request
from http.client import HTTPException

from pipeline.errors import ConfigError
from pipeline.operate.schedule.records import Run

log = logging.getLogger(__name__)

TIMEOUT_SECONDS = 10.0


class Webhook:
    """An address that failures are posted to; it is never logged.

    Args:
        variable: Name of the environment variable that holds it; None tells nobody.

    Raises:
        ConfigError: The variable is not set, or holds no http or https address.
    """

    def __init__(self, variable: str | None) -> None:
        self._url: str | None = None
        if variable is None:
            return
        self._url = os.environ.get(variable)
        if not (self._url or "").startswith(("https://", "http://")):
            raise ConfigError(
                f"schedule.webhook_env {variable}",
                "this environment variable is not set, or holds no http or https address",
                "Set it for the service, or remove the setting.",
            )

    def tell(self, run: Run) -> None:
        """Posts a failed run as JSON; where that fails too, the log says so, and no more.

        The body has the keys `pipeline`, `job`, `run_id`, `attempt` (the last one), `started_at`,
        `ended_at`, `outcome`, `error`, `stages`, and `text`: one line, for chats that show that.
        """
        if self._url is None:
            return
        text = f"lakestorm: {run.pipeline}, job {run.job} failed: {run.error}"
        try:
            request = urllib.request.Request(  # noqa: S310 (checked to be http or https)
                self._url,
                data=json.dumps({"text": text, **run.facts()}).encode(),
                headers={"Content-Type": "application/json", "User-Agent": "lakestorm"},
                method="POST",
            )
            with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS):  # noqa: S310
                pass
        except (OSError, HTTPException, ValueError) as error:
            log.error("the webhook could not be told: %s", _without_address(error))  # noqa: TRY400


def _without_address(error: Exception) -> str:
    """What went wrong: messages may hold the address, so only codes and types are told."""
    if isinstance(error, urllib.error.HTTPError):
        error.close()
        return f"it answered {error.code}"
    reason = error.reason if isinstance(error, urllib.error.URLError) else error
    told = reason.strerror if isinstance(reason, OSError) else None
    return told or type(reason).__name__
