"""The task `multilabel`: several labels, each true or false."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar

from pipeline.errors import SpecError
from pipeline.training.tasks import flags, pairing
from pipeline.training.tasks.binary import Binary
from pipeline.training.tasks.losses import bce, mean_over_outputs
from pipeline.training.tasks.task import Counted, LabelSettings, Task
from pipeline.training.tasks.wording import OVER_AND_UNDER, Truth, Wording

if TYPE_CHECKING:
    import pyarrow as pa
    from pyspark.sql import Column
    from torch import Tensor

    from pipeline.training.tasks.task import Loss, Measure


def mean_over_labels(measure: Measure) -> Measure:
    """The mean of a binary measure over the labels, each measured by itself."""

    def mean(rows: Tensor) -> float:
        outputs = rows.shape[1] // 2
        return sum(measure(rows[:, [at, outputs + at]]) for at in range(outputs)) / outputs

    return mean


class Multilabel(Task):
    """The labels are 0 or 1, all null or none; the outputs are a logit for each.

    Evidence: the logits, then the labels. A row is told by the mean of its probabilities.
    """

    name = "multilabel"
    asks = ("expressions",)
    losses: ClassVar[Mapping[str, Loss]] = {"bce": mean_over_outputs(bce)}
    metrics = tuple(
        replace(metric, measure=mean_over_labels(metric.measure)) for metric in Binary.metrics
    )
    words = Wording(
        score="mean probability",
        scores="mean probabilities",
        mean_score="mean probability",
        loss_metric="log_loss",
        truth=Truth(
            observed="observed rate",
            labelled="labels",
            heading="Calibration on the labels of test rows",
            lead="All labels together: of those that got a probability near 0.3, three in ten "
            "should be true. " + OVER_AND_UNDER.format("probability", "labels"),
            chart="Observed rate by predicted probability",
            rows="Labels of test rows by probability",
            bins="probability from",
            unit="labels",
        ),
    )
    label_is_matrix = True
    report_columns = ("probabilities",)

    label_remedy = flags.REMEDY

    def columns(self, label: LabelSettings) -> tuple[str, ...]:
        """One for each expression."""
        return tuple(f"{label.name}_{key}" for key in label.expressions)

    def expressions(self, label: LabelSettings) -> tuple[tuple[str, str], ...]:
        """Each by its name."""
        return tuple((f"expressions.{key}", text) for key, text in label.expressions.items())

    def is_bad_label(self, value: Column) -> Column:
        """Neither 0 nor 1."""
        return flags.is_no_flag(value)

    def bad_labels(self, label: LabelSettings, rows: object) -> SpecError:
        """Names all expressions."""
        return SpecError(
            "features.label.expressions",
            f"{' | '.join(label.expressions.values())!r} {flags.BAD} in {rows} rows",
            self.label_remedy,
        )

    def predictions(
        self, loss: str, outputs: Tensor, target: Tensor | None = None
    ) -> dict[str, Tensor]:
        """The probability of each label."""
        import torch

        del loss, target
        return {"probabilities": torch.sigmoid(outputs)}

    def prediction_columns(self) -> dict[str, pa.DataType]:
        """The probability of each label."""
        import pyarrow as pa

        return {"probabilities": pa.list_(pa.float32())}

    def counted(self, classes: Sequence[str], labels: Sequence[str]) -> list[Counted]:
        """The probability of each label."""
        del classes
        return [Counted(tensor="probabilities", names=tuple(labels))]

    def score(self) -> Column:
        """The mean of the probabilities."""
        from pyspark.sql import functions as F

        each = F.col("probabilities")
        return F.aggregate(each, F.lit(0.0), lambda total, one: total + one) / F.size(each)

    def pairs(self, label: LabelSettings) -> list[tuple[Column, Column]]:
        """One for each label."""
        from pyspark.sql import functions as F

        return [
            (
                F.get("probabilities", F.lit(at)).cast("double"),
                F.col(f"label{at}").cast("double"),
            )
            for at in range(len(label.expressions))
        ]

    def pair_loss(self) -> Column:
        """Log-loss."""
        return pairing.log_loss(pairing.likelihood())
