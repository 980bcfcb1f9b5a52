"""What the page calls metrics; each task has its own words for all else, see `Task.words`."""

from __future__ import annotations

from pipeline.training.tasks import TASKS

METRIC_NAMES = {
    metric.name: metric.shown
    for task in TASKS.values()
    for metric in task.metrics
    if metric.shown is not None
}
"""Where the page calls a metric other than the settings do."""


def metric_name(metric: str) -> str:
    """A metric as the page calls it."""
    return METRIC_NAMES.get(metric, metric)
