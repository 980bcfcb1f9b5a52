"""The task `binary`: true or false."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

from pipeline.errors import SpecError
from pipeline.training.tasks import flags, logits, pairing
from pipeline.training.tasks.losses import bce, mean_over_outputs
from pipeline.training.tasks.task import LabelSettings, Metric, Task
from pipeline.training.tasks.wording import OVER_AND_UNDER, Truth, Wording

if TYPE_CHECKING:
    from pyspark.sql import Column
    from torch import Tensor

    from pipeline.training.tasks.task import Loss


class Binary(Task):
    """The label is 0 or 1, the output a logit, the prediction the probability of 1.

    Evidence: logit and label.
    """

    name = "binary"
    label_is_number = True
    losses: ClassVar[Mapping[str, Loss]] = {"bce": mean_over_outputs(bce)}
    metrics: ClassVar[tuple[Metric, ...]] = (
        Metric(name="auroc", measure=logits.auroc, shown="AUROC"),
        Metric(name="log_loss", measure=logits.log_loss, lower_is_better=True, shown="log-loss"),
        Metric(name="accuracy", measure=logits.accuracy),
    )
    words = Wording(
        score="score",
        scores="scores",
        mean_score="mean score",
        loss_metric="log_loss",
        truth=Truth(
            observed="observed rate",
            heading="Calibration on test rows",
            lead="Of the rows that got a score near 0.3, three in ten should be of class 1. "
            + OVER_AND_UNDER.format("score", "rows"),
            chart="Observed rate by predicted score",
            rows="Test rows by score",
            bins="score from",
        ),
    )

    label_remedy = flags.REMEDY

    def class_names(self, label: LabelSettings) -> tuple[tuple[str, ...], ...]:
        """False and true, also as the numbers that they are."""
        del label
        return ("0", "false"), ("1", "true")

    def is_bad_label(self, value: Column) -> Column:
        """Neither 0 nor 1."""
        return flags.is_no_flag(value)

    def bad_labels(self, label: LabelSettings, rows: object) -> SpecError:
        """Names the expression."""
        return SpecError(
            "features.label.expression",
            f"{label.expression!r} {flags.BAD} in {rows} rows",
            self.label_remedy,
        )

    def predictions(
        self, loss: str, outputs: Tensor, target: Tensor | None = None
    ) -> dict[str, Tensor]:
        """The probability of 1."""
        import torch

        del loss, target
        return {"score": torch.sigmoid(outputs[:, 0])}

    def pair_loss(self) -> Column:
        """Log-loss."""
        return pairing.log_loss(pairing.likelihood())
