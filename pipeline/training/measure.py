"""One pass over the train split, for the reference that drift is measured by."""

from __future__ import annotations

from dataclasses import replace

import torch

from pipeline.features.spec import FeatureSpec
from pipeline.lake import Snapshot
from pipeline.training.bundle import Bundle
from pipeline.training.histograms import Tally, input_columns, score_columns
from pipeline.training.networks import weights_type
from pipeline.training.objective import objective_of
from pipeline.training.ranks import Ranks
from pipeline.training.reference import Reference
from pipeline.training.splits import evaluation_stream, named_lengths, rows_of


def missing_of(spec: FeatureSpec, features: Snapshot) -> tuple[str, ...]:
    """Columns of the features that tell what was missing; tables of older versions have none."""
    known = spec.missing_columns
    return known if {*known} <= {*features.schema.names} else ()


def reference_of(bundle: Bundle, train: Snapshot, ranks: Ranks, workers_count: int) -> Reference:
    """Counts what a model was trained on, and what it says of it, as scoring will.

    Args:
        bundle: The model, its network in evaluation mode on the device of `ranks`.
        train: The train split of its features.
        ranks: This process alone.
        workers_count: Threads that read row groups.
    """
    spec, objective = bundle.spec, objective_of(bundle)
    dtype = weights_type(bundle.module)
    missing = missing_of(spec, train)
    inputs = Tally(input_columns(spec), spec.imputed_columns if missing else ())
    scores = Tally(score_columns(*bundle.facts.outputs))
    with evaluation_stream(train.uris(), spec, workers_count, ranks, missing) as stream:
        for batch in stream.epoch(0):
            inputs.add({**batch.tensors, **named_lengths(batch.lengths)}, batch.rows)
            given = {name: batch.tensors[name] for name in batch.tensors.keys() - {*missing}}
            rows = rows_of(replace(batch, tensors=given), ranks.device, dtype)
            with torch.inference_mode():
                said = objective.predictions(bundle.module(rows.inputs), rows)
            scores.add({name: tensor.cpu() for name, tensor in said.items()}, batch.rows)
    return Reference(inputs=inputs.histograms(), scores=scores.histograms())
