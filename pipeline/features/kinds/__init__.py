"""Kinds of features: one module a kind, and one table from name to kind.

A kind's way through the pipeline, and who asks it for what:

    YAML  features.<kind>.<name>: {...}
      |        pipeline.config        `settings`: a section of Pydantic's, checked when it is loaded
      v
    FeatureSettings --- reads(), Kind.need ----> which columns of `clean`, of which types
      |   measures(), words(), payload() ------> pipeline.features.fit: one pass over train
      |                       pipeline.features.words, .vocabularies: words too many for a spec
      v   fitted()
    Fitted, a part of the spec as JSON: numbers and words, never the name of any code
      |   columns() ---> pipeline.features.layout: how the table lies in Parquet
      |             ---> pipeline.training.splits: tensors, by the columns' forms (see columns.py)
      |             ---> pipeline.training.histograms, scoring.drift: bins, missing, unknown
      |             ---> pipeline.operate.report: words(id)
      |   joined(), spark() ---> pipeline.features.transform: the table `features`
      |   arrow() -----> pipeline.features.arrow: the same values without Spark
      v
    table `features`

A new kind is a module here with its `KIND`, and a line in `_MODULES`. A user's own kinds are named
in the YAML, `features.kinds: my_package.kinds`: a module with `KINDS`, a sequence of `Kind`. What
is stored names kinds by their names only; which code that is, the YAML decides.

    kind.py     the base classes     columns.py  forms of columns     scales.py  scales of numbers
    values.py   values of `clean` as numbers and texts                lists.py   Arrow's lists
    recordings.py  samples of recordings                              mels.py    log-mel frames
    moments.py  dates and times on a clock    calendars.py  holidays    date_columns.py  of both
    vocabulary.py   parts that know words   hashing.py   ids by a hash   units.py   a text's units
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Collection, Mapping
from collections.abc import Sequence as Listed

from pipeline.errors import ConfigError
from pipeline.features.kinds import (
    audio,
    bags,
    buckets,
    categorical,
    crosses,
    cyclic,
    dates,
    images,
    numeric,
    piecewise,
    series,
    tokens,
    vectors,
)
from pipeline.features.kinds.columns import (
    CATEGORICAL,
    FIRST_ID,
    MISSING_ID,
    NUMERIC,
    UNKNOWN_ID,
    Bag,
    FeatureColumn,
    Id,
    Image,
    Number,
    Sequence,
    Vector,
    lengths_names,
    tensor_names,
)
from pipeline.features.kinds.kind import (
    FeatureSettings,
    Fitted,
    Kind,
    Measured,
    Need,
    Stored,
    Words,
)

_MODULES = (
    *(numeric, cyclic, categorical, images, tokens, series, audio),
    *(piecewise, buckets, vectors, dates, bags, crosses),
)
_OWN: Mapping[str, Kind] = {module.KIND.name: module.KIND for module in _MODULES}
"""In this order features stand in a spec and in a network's inputs."""

_NAME = re.compile("[a-z][a-z0-9_]*")
_TABLE: dict[str, Kind] = dict(_OWN)


def kinds() -> Mapping[str, Kind]:
    """All kinds that are known by now: ours, then users' own."""
    return _TABLE


def register(module: str | None, reserved: Collection[str] = ()) -> None:
    """Makes a user's own kinds known in this process.

    Args:
        module: Setting `features.kinds`: a module with `KINDS`; None for none.
        reserved: Names that other settings of `features` have.

    Raises:
        ConfigError: It cannot be imported, has no kinds, or names one that there is.
    """
    if module is None:
        return
    listed = _kinds_in(module)
    for kind in listed:
        if not _NAME.fullmatch(kind.name) or kind.name in reserved:
            raise _refused(module, f"names a kind {kind.name!r}, which no section can be called")
        if _TABLE.get(kind.name, kind) is not kind:
            raise _refused(module, f"names a kind {kind.name!r}, which there is already")
    _TABLE.update({kind.name: kind for kind in listed})


def _kinds_in(module: str) -> Listed[Kind]:
    try:
        found = importlib.import_module(module)
    # The user's own code may raise anything, and a script may even leave.
    except (Exception, SystemExit) as error:
        reason = " ".join(str(error).split())
        raise _refused(module, f"raises {type(error).__name__}: {reason}") from error
    listed = getattr(found, "KINDS", None)
    if not isinstance(listed, list | tuple) or not all(isinstance(each, Kind) for each in listed):
        raise _refused(module, "has no KINDS, a list of pipeline.features.kinds.Kind")
    return listed


def _refused(module: str, problem: str) -> ConfigError:
    return ConfigError(
        "features.kinds",
        f"{module}: {problem}",
        "Name a module that Python finds (install its package, or set PYTHONPATH) and whose KINDS "
        "are your own, see docs/extending.md.",
    )


__all__ = [
    "CATEGORICAL",
    "FIRST_ID",
    "MISSING_ID",
    "NUMERIC",
    "UNKNOWN_ID",
    "Bag",
    "FeatureColumn",
    "FeatureSettings",
    "Fitted",
    "Id",
    "Image",
    "Kind",
    "Measured",
    "Need",
    "Number",
    "Sequence",
    "Stored",
    "Vector",
    "Words",
    "kinds",
    "lengths_names",
    "register",
    "tensor_names",
]
