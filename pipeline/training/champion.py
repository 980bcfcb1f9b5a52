"""Challenger against champion: each by its own spec, on validation rows neither was trained on."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.errors import TableNotFoundError
from pipeline.features.prepared import TRAIN, VALIDATION
from pipeline.features.spec import FeatureSpec
from pipeline.lake import Lake, Snapshot
from pipeline.training.bundle import Bundle
from pipeline.training.loop import evaluate
from pipeline.training.metrics import Metrics, is_better
from pipeline.training.objective import objective_of
from pipeline.training.ranks import Ranks
from pipeline.training.splits import evaluation_stream


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """How a comparison came out."""

    promote: bool
    reason: str
    """Half a sentence with the figures."""


@dataclass(frozen=True, kw_only=True)
class Arena:
    """What a comparison needs beside the two models."""

    lake: Lake
    features_for: Callable[[FeatureSpec], Snapshot]
    """Features of the present `clean` under a spec, in all splits."""
    metric: str
    """The pipeline's: decides."""
    seed: int
    """Of an autoencoder's samples."""
    ranks: Ranks
    """This process alone, with its device."""
    workers_count: int
    """Threads that read row groups."""


def judge(metric: str, challenger: Metrics, champion: Metrics) -> Verdict:
    """The challenger wins if its metric is better; a tie keeps the champion.

    Args:
        metric: The pipeline's.
        challenger: Its metrics.
        champion: Metrics over the same rows.
    """
    own, other = challenger.values[metric], champion.values[metric]
    if math.isnan(own) or math.isnan(other) or challenger.rows != champion.rows:
        return Verdict(promote=False, reason=f"{challenger.rows} rows do not allow a comparison")
    return Verdict(
        promote=is_better(metric, own, other),
        reason=f"{metric} {own:.4f} against {other:.4f} on {challenger.rows} validation rows",
    )


def compare(challenger: Bundle, champion: Bundle, arena: Arena) -> Verdict:
    """Scores both models on the challenger's validation rows and judges them.

    Rows that the champion was trained on are left out, and so are rows that have no features under
    its spec. Labels are the challenger's for both.
    """
    if _learned(challenger) != _learned(champion):
        # Nothing compares a probability with a value: what the pipeline asks for now wins.
        return Verdict(promote=True, reason="the champion was trained for another task or label")
    validation = _trained_on(challenger, arena.lake).select(split={VALIDATION})
    if _same_data(challenger, champion):
        # One table, one version: its splits are disjoint, and the features serve both.
        files = validation.uris()
        return _judged(challenger, files, champion, files, arena)
    train = _train_split(champion, arena.lake)
    if train is None:
        return Verdict(promote=False, reason="the champion's train split is no longer in the lake")
    keys = _comparable_rows(challenger, champion, validation, train)
    if keys is None:
        return Verdict(promote=False, reason="the champion's rows have other keys")
    if champion.spec.hash == challenger.spec.hash:
        theirs = validation
    else:
        theirs = _of_same_periods(arena.features_for(champion.spec), validation)
    with tempfile.TemporaryDirectory(prefix="lakestorm-compare-") as folder:
        other = _extract(theirs, champion.spec, keys, Path(folder) / "champion")
        # Only rows that both have: under the champion's spec some may have no features.
        shared = _keys_in(other, keys, challenger.spec.key_columns)
        own = _extract(validation, challenger.spec, shared, Path(folder) / "challenger")
        return _judged(challenger, own, champion, other, arena)


def _learned(bundle: Bundle) -> tuple[object, ...]:
    """What a model predicts."""
    return bundle.facts.task, bundle.facts.classes, len(bundle.facts.labels)


def _judged(
    challenger: Bundle,
    own: Sequence[str],
    champion: Bundle,
    other: Sequence[str],
    arena: Arena,
) -> Verdict:
    metrics = [_measure(challenger, own, arena), _measure(champion, other, arena)]
    return judge(arena.metric, *metrics)


def _same_data(challenger: Bundle, champion: Bundle) -> bool:
    places = [(b.facts.features_table, b.facts.features_version) for b in (challenger, champion)]
    return challenger.spec.hash == champion.spec.hash and places[0] == places[1]


def _trained_on(bundle: Bundle, lake: Lake) -> Snapshot:
    return lake.table(bundle.facts.features_table).snapshot(bundle.facts.features_version)


def _train_split(champion: Bundle, lake: Lake) -> Snapshot | None:
    """What the champion was trained on; None where that version, or a file of it, is gone."""
    try:
        train = _trained_on(champion, lake).select(split={TRAIN})
    except TableNotFoundError:
        return None
    return train if train.is_whole() else None


def _comparable_rows(
    challenger: Bundle, champion: Bundle, validation: Snapshot, train: Snapshot
) -> pa.Table | None:
    """Keys and labels of the validation rows outside the champion's train split.

    None where the two do not name rows by the same columns.
    """
    names = list(challenger.spec.key_columns)
    rows = validation.arrow([*names, *challenger.spec.label_columns])
    if list(champion.spec.key_columns) != names:
        return None
    seen = train.arrow(names)
    if seen.schema.types != rows.select(names).schema.types:
        return None
    return rows.join(seen, keys=names, join_type="left anti")


def _of_same_periods(theirs: Snapshot, validation: Snapshot) -> Snapshot:
    """Leaves out periods without validation rows: both tables are cut by the same period."""
    for column in set(theirs.partition_by) & set(validation.partition_by) - {"split"}:
        theirs = theirs.select(**{column: validation.partitions(column)})
    return theirs


def _extract(rows: Snapshot, spec: FeatureSpec, keys: pa.Table, folder: Path) -> list[str]:
    """Writes the features of some rows, with the labels that come with the keys.

    Args:
        rows: Features under `spec`.
        spec: Names their columns.
        keys: Key columns, then the label columns.
        folder: Where the files go; created.

    Returns:
        The files, which hold key columns, features and `spec.label_columns`.
    """
    folder.mkdir()
    names = list(spec.key_columns)
    wanted = keys.rename_columns([*names, *spec.label_columns])
    files = []
    for position, file in enumerate(rows.files):
        stored = rows.read(file, [*names, *spec.feature_columns])
        for name in names:
            place = stored.schema.get_field_index(name)
            stored = stored.set_column(place, name, stored[name].cast(keys.schema.field(name).type))
        found = stored.join(wanted, keys=names, join_type="inner")
        if found.num_rows:
            files.append(str(folder / f"{position:06d}.parquet"))
            pq.write_table(found, files[-1])
    return files


def _keys_in(files: Sequence[str], keys: pa.Table, names: Sequence[str]) -> pa.Table:
    if not files:
        return keys.slice(0, 0)
    found = pa.concat_tables(pq.ParquetFile(file).read(columns=names) for file in files)
    return keys.join(found, keys=names, join_type="left semi")


def _measure(bundle: Bundle, files: Sequence[str], arena: Arena) -> Metrics:
    module = bundle.module.to(arena.ranks.device)
    objective = replace(objective_of(bundle), metric=arena.metric)
    with evaluation_stream(files, bundle.spec, arena.workers_count) as stream:
        return evaluate(module, stream, arena.ranks, objective, arena.seed)
