"""What Spark says of a file that it could not read."""

from __future__ import annotations

import re
from urllib.parse import unquote

from pipeline.errors import SourceError

_FAILED_READ = re.compile(
    r"\[FAILED_READ_FILE\S*\][^\n]*?(?:file:/*(/\S+?)|((?:s3a|abfss|gs)://\S+?))\.?(?:\s|$)"
)


def unreadable_file(error: Exception) -> SourceError | None:
    """Spark's report of a failed job as a fault of the file it names; None where it names none."""
    named = _FAILED_READ.search(str(error))
    if named is None:
        return None
    return SourceError(
        f"file {unquote(named[1] or named[2])}",
        "is damaged: Spark could not read its rows",
        "Deliver it again, or remove it; nothing was committed.",
    )
