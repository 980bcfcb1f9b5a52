"""The task `regression`: a number."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

from pipeline.errors import SpecError
from pipeline.training.tasks import pairing
from pipeline.training.tasks.losses import huber, mae, mean_over_outputs, mse
from pipeline.training.tasks.task import LabelSettings, Metric, Task
from pipeline.training.tasks.wording import OVER_AND_UNDER, Truth, Wording

if TYPE_CHECKING:
    from pyspark.sql import Column
    from torch import Tensor

    from pipeline.training.tasks.task import Loss


# torchmetrics takes seconds to import, and scoring measures nothing.


def root_mean_squared_error(rows: Tensor) -> float:
    """Root of the mean squared error."""
    from torchmetrics.functional.regression import mean_squared_error

    values, labels = rows.T.contiguous()
    return float(mean_squared_error(values, labels, squared=False))


def mean_absolute_error(rows: Tensor) -> float:
    """Mean absolute error."""
    from torchmetrics.functional.regression import mean_absolute_error

    values, labels = rows.T.contiguous()
    return float(mean_absolute_error(values, labels))


def r2(rows: Tensor) -> float:
    """Share of the label's variance that is explained; NaN where it has none."""
    from torchmetrics.functional.regression import r2_score

    values, labels = rows.T.contiguous()
    enough = len(rows) > 1 and bool(labels.var() > 0)
    return float(r2_score(values, labels)) if enough else math.nan


class Regression(Task):
    """The label is a number, and so is the output.

    Evidence: value and label.
    """

    name = "regression"
    label_is_number = True
    label_is_stratum = False
    losses: ClassVar[Mapping[str, Loss]] = {
        "mse": mean_over_outputs(mse),
        "mae": mean_over_outputs(mae),
        "huber": mean_over_outputs(huber),
    }
    metrics: ClassVar[tuple[Metric, ...]] = (
        Metric(name="rmse", measure=root_mean_squared_error, lower_is_better=True, shown="RMSE"),
        Metric(name="mae", measure=mean_absolute_error, lower_is_better=True, shown="MAE"),
        Metric(name="r2", measure=r2, shown="R²"),
    )
    words = Wording(
        score="prediction",
        scores="predictions",
        mean_score="mean prediction",
        loss_metric=None,
        truth=Truth(
            observed="mean observed",
            loss="rmse",
            loss_name="RMSE",
            heading="Predicted and observed on test rows",
            lead="Rows are put together by ten quantiles of what was predicted for the training "
            "periods. Means of both sides should be equal. "
            + OVER_AND_UNDER.format("prediction", "rows"),
            chart="Mean observed by mean predicted value",
            rows="Test rows by prediction",
            bins="training quantile from",
            share=False,
        ),
    )

    label_remedy = "Write a finite number that a float can hold, or null."

    def is_bad_label(self, value: Column) -> Column:
        """Not finite, as what a float cannot hold has become."""
        from pyspark.sql import functions as F

        return F.isnan(value) | (F.abs(value) == math.inf)

    def bad_labels(self, label: LabelSettings, rows: object) -> SpecError:
        """Names the expression."""
        return SpecError(
            "features.label.expression",
            f"{label.expression!r} is not finite, or too large for a float, in {rows} rows",
            self.label_remedy,
        )

    def predictions(
        self, loss: str, outputs: Tensor, target: Tensor | None = None
    ) -> dict[str, Tensor]:
        """The value."""
        del loss, target
        return {"score": outputs[:, 0]}

    def pair_loss(self) -> Column:
        """Squared error."""
        return pairing.squared_error()
