"""A task is one room: all that is particular to it is in its module, and `TASKS` lists them.

    settings    features.label ──> asks, require_label, columns, outputs, class_names
                                        │
    Spark       clean ──> expressions, accepts, label_value ──> columns of `features`
                                        │                       is_bad_label, bad_labels
    torch       label, outputs ──> losses ──> gradient
                      │     ├────> evidence ──> metrics ──> which epoch, which model
                      │     └────> predictions
                      │                 │
    Arrow             │            prediction_columns ──> table `predictions`
                      │                 └───────────────> counted ──> histograms ──> drift
                      │                                                  │
    report          label0, ... ──> pairs, pair_loss, score <────────────┘
                                        └──> words, report_parts ──> the page

Everything else walks over `TASKS` and names no task. A new one is a module with a subclass of
`Task` and a line in `TASKS`; a new metric or loss is a line in its task's `metrics` or `losses`.

    task.py         what a task is: the class `Task`, documented method by method
    binary.py multiclass.py multilabel.py regression.py reconstruction.py    the tasks
    losses.py       losses of a number beside a label, over weighted rows
    logits.py       measures of logits beside labels of 0 and 1
    flags.py        labels that are true or false
    pairing.py      losses of pairs of predicted and observed, on Spark
    wording.py      what the report calls things

Settings are checked by this package before anything runs, so nothing of it imports torch, Spark or
Arrow before it is used.
"""

from collections.abc import Mapping

from pipeline.training.tasks.binary import Binary
from pipeline.training.tasks.multiclass import Multiclass
from pipeline.training.tasks.multilabel import Multilabel
from pipeline.training.tasks.reconstruction import Reconstruction
from pipeline.training.tasks.regression import Regression
from pipeline.training.tasks.task import Counted, LabelSettings, Metric, Task
from pipeline.training.tasks.wording import Truth, Wording

__all__ = [
    "LOSSES",
    "METRICS",
    "TASKS",
    "Counted",
    "LabelSettings",
    "Metric",
    "Task",
    "Truth",
    "Wording",
]

TASKS: Mapping[str, Task] = {
    task.name: task
    for task in (
        Binary(),
        Multiclass(),
        Multilabel(),
        Regression(),
        Reconstruction(),
    )
}
"""By the name that `features.label.task` has."""

METRICS: Mapping[str, tuple[str, ...]] = {
    name: tuple(metric.name for metric in task.metrics) for name, task in TASKS.items()
}
"""Names of each task's metrics."""

LOSSES: Mapping[str, tuple[str, ...]] = {name: tuple(task.losses) for name, task in TASKS.items()}
"""Names of each task's losses."""
