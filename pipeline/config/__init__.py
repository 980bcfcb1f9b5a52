"""The description of one pipeline: read from YAML, checked once, then typed and frozen.

OmegaConf reads the file, resolves `${...}` and applies `--set a.b=value`; Pydantic checks it.
Past this package no dict of settings travels. A section a module, in the data's way: `source`,
`clean`, `features`, `train`, `score`, `schedule`; `storage` says how a lake is reached, `pipeline`
is the whole, and `reading` loads it. The settings of a network are in its family's folder, see
`pipeline.training.networks`.
"""

from pipeline.config.actions import ActionName
from pipeline.config.asof import Asof
from pipeline.config.clean import ROW_ID, Clean, Dedupe, Join, Rule
from pipeline.config.features import Features
from pipeline.config.histories import History, LaterEvents
from pipeline.config.label import Label, TaskName
from pipeline.config.pipeline import Pipeline
from pipeline.config.reading import load_pipeline
from pipeline.config.schedule import STAGE_NAMES, Job, Schedule
from pipeline.config.score import Drift, Thresholds
from pipeline.config.source import OTHER_COLUMNS, Column, Files, Policies, Source
from pipeline.config.splits import (
    FittedStrata,
    GroupSplits,
    HashSplits,
    RandomSplits,
    SpecSplits,
    Splits,
    StratifiedSplits,
    TimeSplits,
    deciding_columns,
    entity_of,
)
from pipeline.config.storage import Storage
from pipeline.config.table_rules import (
    Distribution,
    Freshness,
    Nulls,
    Reference,
    RowCount,
    TableRule,
)
from pipeline.config.train import Train
from pipeline.training.networks import Activation, Model
from pipeline.training.networks.cnn import Cnn
from pipeline.training.networks.custom import Custom
from pipeline.training.networks.mlp import Mlp
from pipeline.training.networks.rnn import Rnn
from pipeline.training.networks.vae import Vae
from pipeline.training.tasks import LOSSES, METRICS

__all__ = [
    "LOSSES",
    "METRICS",
    "OTHER_COLUMNS",
    "ROW_ID",
    "STAGE_NAMES",
    "ActionName",
    "Activation",
    "Asof",
    "Clean",
    "Cnn",
    "Column",
    "Custom",
    "Dedupe",
    "Distribution",
    "Drift",
    "Features",
    "Files",
    "FittedStrata",
    "Freshness",
    "GroupSplits",
    "HashSplits",
    "History",
    "Job",
    "Join",
    "Label",
    "LaterEvents",
    "Mlp",
    "Model",
    "Nulls",
    "Pipeline",
    "Policies",
    "RandomSplits",
    "Reference",
    "Rnn",
    "RowCount",
    "Rule",
    "Schedule",
    "Source",
    "SpecSplits",
    "Splits",
    "Storage",
    "StratifiedSplits",
    "TableRule",
    "TaskName",
    "Thresholds",
    "TimeSplits",
    "Train",
    "Vae",
    "deciding_columns",
    "entity_of",
    "load_pipeline",
]
