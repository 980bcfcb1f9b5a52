"""The tables of formats: what they list is what the YAML allows, and where it is."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.config.formats import FORMATS, LAID_OUT
from pipeline.errors import ConfigError
from pipeline.sources.formats import format_named, layout_named
from tests.clean import examples
from tests.sources.reads import section


def test_each_module_has_the_format_that_the_table_names() -> None:
    assert list(FORMATS) == [format_named(name).name for name in FORMATS]
    assert all(callable(layout_named(name).lay_out) for name in LAID_OUT)


@pytest.mark.parametrize(
    ("setting", "given", "allowed"),
    [
        ("source.format", "orc", "'parquet', 'csv', 'json', 'delta' or 'idx'"),
        ("clean.joins.side.format", "orc", "'parquet', 'csv', 'json' or 'delta'"),
        ("clean.joins.side.format", "idx", "'parquet', 'csv', 'json' or 'delta'"),
    ],
)
def test_an_unknown_format_is_refused_with_those_that_there_are(
    tmp_path: Path, setting: str, given: str, allowed: str
) -> None:
    side = {
        "path": "side", "on": {"place": "name"}, "select": {"code": "code"},
        "columns": {"name": {"type": "string"}, "code": {"type": "int"}},
    }  # fmt: skip
    told = rf"^{setting}: Input should be {allowed} \(value: '{given}'\)"
    with pytest.raises(ConfigError, match=told):
        examples.pipeline(tmp_path, {"clean.joins": {"side": side}, setting: given})


@pytest.mark.parametrize("name", FORMATS)
def test_only_what_a_log_tells_has_versions(tmp_path: Path, name: str) -> None:
    files = section(tmp_path, {"id": "int"}, format=name, as_of="2026-01-31T00:00:00Z")
    chosen = format_named(name)
    if chosen.by_log:
        chosen.require_readable(files, "source")
        return
    with pytest.raises(ConfigError, match=rf"^source\.as_of: says nothing to the format {name}"):
        chosen.require_readable(files, "source")
