"""Which models score: the one in charge and its shadows, each as it was registered."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.config import Pipeline
from pipeline.lake import Lake
from pipeline.training.bundle import Bundle
from pipeline.training.job import custom_class
from pipeline.training.registry import load_registered


@dataclass(frozen=True, kw_only=True)
class Scorer:
    """A registered model, loaded on the driver."""

    name: str
    version: int
    bundle: Bundle
    is_shadow: bool = False
    """Whether its scores are only written beside another's, and decide nothing."""

    @property
    def reference(self) -> str:
        """`NAME@VERSION`, which means this model for ever."""
        return f"{self.name}@{self.version}"

    @property
    def own(self) -> dict[str, set[str | None]]:
        """The partitions of `predictions` that are its, for `Snapshot.select`."""
        return {"model_name": {self.name}, "model_version": {str(self.version)}}


def scorers(lake: Lake, pipeline: Pipeline, references: Sequence[str] = ()) -> list[Scorer]:
    """Loads the models that are asked for, each once, in the order given.

    Args:
        lake: Where they are registered, unless `MLFLOW_TRACKING_URI` names another place.
        pipeline: Names the model and its shadows, where `references` names none.
        references: `NAME@VERSION`, `NAME@ALIAS`, or a version or an alias of the pipeline's model.

    Raises:
        ModelError: There is none such (the error lists what there is), or it is damaged.
    """
    wanted = references or (pipeline.score.model, *pipeline.score.shadows)
    found: dict[str, Scorer] = {}
    for place, reference in enumerate(wanted):
        name, _, version_or_alias = reference.rpartition("@")
        bundle, version = load_registered(
            lake, name or pipeline.name, version_or_alias, custom_class(pipeline)
        )
        scorer = Scorer(
            name=name or pipeline.name,
            version=version,
            bundle=bundle,
            is_shadow=place > 0 and not references,
        )
        found.setdefault(scorer.reference, scorer)
    return list(found.values())
