"""What a page is about: every table at one version, and the model, before anything is measured."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from datetime import UTC, datetime

from pipeline.config import Pipeline
from pipeline.errors import TableNotFoundError
from pipeline.features.overlap import OVERLAPS, Overlap, from_note, to_note
from pipeline.features.spec import FeatureSpec
from pipeline.features.stage import CLEAN_VERSION
from pipeline.lake import Lake, Snapshot, fingerprint
from pipeline.operate.report.model import TrainedModel, trained_model
from pipeline.operate.report.quality import Quality, read_quality
from pipeline.scoring.reached import reached


@dataclass(frozen=True, kw_only=True)
class TableFacts:
    """A table at the version that the page shows."""

    name: str
    version: int
    newest: int
    """The version it has by now."""
    rows: int
    files: int
    bytes: int
    committed_at: datetime | None
    """None where the log no longer reaches back so far."""


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """Everything that decides what the page says."""

    model: TrainedModel
    spec: FeatureSpec
    quality: Quality
    predictions: Snapshot
    """Those of the model's version."""
    features: Snapshot
    """What they were made from."""
    tables: tuple[TableFacts, ...]
    clean_version_of_features: int | None
    """Version of `clean` that the newest features were made from; None where nobody noted it."""
    overlaps: tuple[Overlap, ...]
    """Entities of the newest features that are in train and in another split."""

    @property
    def fingerprint(self) -> str:
        """Equal for pages that say the same."""
        return fingerprint(
            model=asdict(self.model),
            tables=[
                asdict(table) | {"committed_at": str(table.committed_at)} for table in self.tables
            ],
            clean_version_of_features=self.clean_version_of_features,
            **({"overlaps": to_note(self.overlaps)} if self.overlaps else {}),
        )

    def table(self, name: str) -> TableFacts:
        """The facts of one table."""
        return next(facts for facts in self.tables if facts.name == name)


def read_inputs(pipeline: Pipeline, lake: Lake) -> Inputs:
    """Pins the tables and the model; reads logs and the small table `quality` only.

    Raises:
        TableNotFoundError: A table is not there, or has nothing of this model.
        ModelError: There is no such model.
    """
    clean = lake.table("clean").snapshot()
    quarantine = lake.table("quarantine").snapshot()
    measures = lake.table("quality").snapshot()
    specs = lake.table("specs").snapshot()
    all_predictions = lake.table("predictions").snapshot()
    model, spec = trained_model(lake, pipeline)
    predictions = _of_model(all_predictions, model)
    features_table = lake.table(spec.table)
    version = reached(lake, model.name, model.version, features_table.snapshot())
    features = features_table.snapshot(version)
    noted = features_table.last_note(CLEAN_VERSION)
    return Inputs(
        model=model,
        spec=spec,
        quality=read_quality(measures, lake.table("clean"), clean),
        predictions=predictions,
        features=features,
        tables=tuple(
            _facts(lake, snapshot)
            for snapshot in (clean, quarantine, measures, specs, features, all_predictions)
        ),
        clean_version_of_features=None if noted is None else int(noted),
        overlaps=from_note(features_table.last_note(OVERLAPS)),
    )


def _of_model(predictions: Snapshot, model: TrainedModel) -> Snapshot:
    own = predictions.select(model_name={model.name}, model_version={str(model.version)})
    if not own.rows:
        raise TableNotFoundError(
            f"table {predictions.name}",
            f"holds no rows of {model.name}@{model.version}",
            "Run `lakestorm score` first, or set score.model to a version that has scored.",
        )
    return own


def _facts(lake: Lake, snapshot: Snapshot) -> TableFacts:
    history = lake.table(snapshot.name).history()
    times = {entry["version"]: entry["timestamp"] for entry in history if "version" in entry}
    stamp = times.get(snapshot.version)
    return TableFacts(
        name=snapshot.name,
        version=snapshot.version,
        newest=max(times, default=snapshot.version),
        rows=snapshot.rows,
        files=len(snapshot.files),
        bytes=snapshot.bytes,
        committed_at=None if stamp is None else datetime.fromtimestamp(stamp / 1000, UTC),
    )
