"""The table `specs`: which spec was fitted when, on which version of `clean`.

The table `local_transforms`: of which specs the features can be made without Spark.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.errors import SpecError
from pipeline.features.local import Local
from pipeline.features.spec import FeatureSpec
from pipeline.lake import Lake, Transaction, commit

SPECS_SCHEMA = pa.schema(
    [
        ("fitted_at", pa.timestamp("us", tz="UTC")),
        ("pipeline", pa.string()),
        ("number", pa.int64()),
        ("run", pa.string()),
        ("clean_version", pa.int64()),
        ("spec_hash", pa.string()),
        ("spec", pa.string()),
    ]
)


LOCAL_SCHEMA = pa.schema(
    [
        ("proven_at", pa.timestamp("us", tz="UTC")),
        ("spec_hash", pa.string()),
        ("spark_only", pa.string()),
        ("local", pa.string()),
    ]
)


def fitted_spec(lake: Lake, pipeline: str, run: str) -> FeatureSpec | None:
    """The spec that a run of that fingerprint fitted; None where it is still to be fitted."""
    rows = _rows(lake, pipeline)
    rows = rows.filter(pc.equal(rows["run"], run))
    return FeatureSpec.from_json(rows["spec"][0].as_py()) if rows.num_rows else None


def newest_spec(lake: Lake, pipeline: str) -> FeatureSpec:
    """The spec fitted last.

    Raises:
        SpecError: There is none.
    """
    rows = _rows(lake, pipeline)
    if not rows.num_rows:
        raise SpecError(
            f"pipeline {pipeline}", "has no fitted feature spec", "Run `lakestorm featurize` first."
        )
    newest = rows.sort_by([("number", "descending")])
    return FeatureSpec.from_json(newest["spec"][0].as_py())


def spec_of_hash(lake: Lake, pipeline: str, wanted: str) -> FeatureSpec:
    """The spec of that hash.

    Raises:
        SpecError: There is none.
    """
    rows = _rows(lake, pipeline)
    rows = rows.filter(pc.equal(rows["spec_hash"], wanted))
    if not rows.num_rows:
        raise SpecError(f"feature spec {wanted}", "is not in the table specs", "Fit it again.")
    return FeatureSpec.from_json(rows["spec"][0].as_py())


def stored_vocabularies(lake: Lake) -> set[tuple[str, int]]:
    """Table and version of the vocabularies that specs on record name, whatever their pipeline."""
    table = lake.table("specs")
    texts = table.snapshot().arrow(["spec"])["spec"].to_pylist() if table.exists else []
    # Read as plain JSON: kinds of a user's own may not be known here.
    stored = (part.get("stored") for text in texts for part in json.loads(text).get("parts", ()))
    return {(each["table"], each["version"]) for each in stored if each}


def record(lake: Lake, spec: FeatureSpec, run: str, clean_version: int) -> FeatureSpec:
    """Appends a fitted spec; of two that race, both get the one that landed.

    Returns:
        The spec on record for this run.
    """
    table = lake.table("specs")
    table.create(SPECS_SCHEMA, (), "fitted feature specs")
    app = f"fit/{spec.pipeline}"
    number = (table.transaction_version(app) or 0) + 1
    row = {
        "fitted_at": datetime.now(UTC),
        "pipeline": spec.pipeline,
        "number": number,
        "run": run,
        "clean_version": clean_version,
        "spec_hash": spec.hash,
        "spec": spec.to_json(),
    }
    with table.attempt() as attempt:
        files = attempt.write_arrow(pa.Table.from_pylist([row], schema=SPECS_SCHEMA))
        commit(table, files, attempt=attempt, transaction=Transaction(app, number))
    return fitted_spec(lake, spec.pipeline, run) or record(lake, spec, run, clean_version)


def record_local(lake: Lake, spec: FeatureSpec, local: Local) -> None:
    """Appends what was found for a spec; of two that race, one lands, and both found the same."""
    table = lake.table("local_transforms")
    table.create(LOCAL_SCHEMA, (), "features without Spark, by spec")
    row = {
        "proven_at": datetime.now(UTC),
        "spec_hash": spec.hash,
        "spark_only": local.spark_only,
        "local": local.model_dump_json(),
    }
    with table.attempt() as attempt:
        files = attempt.write_arrow(pa.Table.from_pylist([row], schema=LOCAL_SCHEMA))
        commit(table, files, attempt=attempt, transaction=Transaction(f"local/{spec.hash}", 1))


def local_of(lake: Lake, spec: FeatureSpec) -> Local | None:
    """What was found for a spec; None where nobody looked."""
    table = lake.table("local_transforms")
    if not table.exists:
        return None
    rows = table.snapshot().arrow(["spec_hash", "local"])
    rows = rows.filter(pc.equal(rows["spec_hash"], spec.hash))
    return Local.model_validate_json(rows["local"][0].as_py()) if rows.num_rows else None


def _rows(lake: Lake, pipeline: str) -> pa.Table:
    table = lake.table("specs")
    if not table.exists:
        return SPECS_SCHEMA.empty_table()
    rows = table.snapshot().arrow(SPECS_SCHEMA.names)
    return rows.filter(pc.equal(rows["pipeline"], pipeline))
