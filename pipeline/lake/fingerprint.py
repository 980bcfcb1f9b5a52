"""A short name for a piece of work: equal inputs and settings, equal fingerprint."""

from __future__ import annotations

import hashlib
import json
from typing import Any

# Commits note under this key which work they hold, so that it is not done twice.
RUN = "lakestorm.run"
# And under this one its row counts as JSON, so that a run with nothing to do can tell them.
COUNTS = "lakestorm.counts"
# Commits of `clean` and `quarantine` note under this one which app they are of: a full run's or a
# query's.
WRITER = "lakestorm.writer"


def fingerprint(**parts: Any) -> str:
    """16 hexadecimal digits over the canonical JSON of all parts.

    Args:
        parts: Anything that JSON can hold; what the result of the work depends on.
    """
    canonical = json.dumps(parts, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()[:16]
