"""What a task is: everything that the rest of the system asks of one."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Protocol

from pipeline.errors import SpecError
from pipeline.training.tasks.wording import Wording

if TYPE_CHECKING:
    import pyarrow as pa
    from pyspark.sql import Column
    from pyspark.sql.types import DataType
    from torch import Tensor

    Loss = Callable[[Tensor, Tensor, Tensor | None], Tensor]
    """(outputs [rows, outputs], target, weights [rows] or None) to the sum over the rows of weight
    times loss, a scalar; 0 with zero gradients where there is no row."""

    Measure = Callable[[Tensor], float]
    """Evidence, float64 [rows, k] with at least one row, to a figure; NaN where it allows none."""


class LabelSettings(Protocol):
    """The settings of `features.label` that tasks read; `pipeline.config.Label` has them."""

    @property
    def name(self) -> str:
        """What the label is called."""

    @property
    def expression(self) -> str:
        """Spark SQL over `clean`; "" where there is none."""

    @property
    def classes(self) -> tuple[str, ...]:
        """Values of the expression, in the order of the outputs."""

    @property
    def expressions(self) -> Mapping[str, str]:
        """Name to Spark SQL over `clean`."""


@dataclass(frozen=True, kw_only=True)
class Metric:
    """A figure that tells how good predictions are."""

    name: str
    """As settings and MLflow call it; tasks that share one must agree on what is better."""
    measure: Measure
    lower_is_better: bool = False
    shown: str | None = None
    """As the report calls it, where that is not the name."""


@dataclass(frozen=True, kw_only=True)
class Counted:
    """Columns of one tensor of predictions that histograms count alike."""

    tensor: str
    """A key of `Task.predictions`."""
    names: tuple[str, ...]
    """What the columns are called in histograms."""
    classes: int = 0
    """How many whole numbers there are, from 0 on; 0 for floats."""


class Task(ABC):
    """What is particular to a task; stateless, one instance each, in `TASKS`.

    Methods that need Spark, Arrow or torch import them when they are called: settings are checked
    without any of the three.
    """

    name: ClassVar[str]
    asks: ClassVar[tuple[str, ...]] = ("expression",)
    """Settings of `features.label` that it needs; those that only other tasks need are refused."""
    losses: ClassVar[Mapping[str, Loss]]
    """By name; the first is the default."""
    metrics: ClassVar[tuple[Metric, ...]]
    """The first decides which epoch and which model is better, unless another is chosen."""
    label_remedy: ClassVar[str]
    """What to write in place of an expression that gives no label, as a sentence."""
    words: ClassVar[Wording]
    """Of the report."""
    rebuilds: ClassVar[bool] = False
    """Whether the target is the network's own input: there is no label then."""
    label_is_number: ClassVar[bool] = False
    """Whether the label is one number of which a mean says something."""
    label_is_stratum: ClassVar[bool] = True
    """Whether the label has a few values, so that splits can keep the share of each."""
    label_is_matrix: ClassVar[bool] = False
    """Whether the tensor `label` is [rows, columns], not [rows]."""
    report_columns: ClassVar[tuple[str, ...]] = ()
    """Columns of `predictions` beside the score that `pairs` and `pair_loss` read."""
    report_parts: ClassVar[tuple[str, ...]] = ()
    """What the report measures beside scores and drift, see `pipeline.operate.report.stage`."""

    # -- the label's settings ---------------------------------------------------------------------

    def require_label(self, label: LabelSettings) -> None:  # noqa: B027 (most ask no more)
        """Checks the values of the settings that it asks for.

        Raises:
            ValueError: It names the setting and the value.
        """

    def columns(self, label: LabelSettings) -> tuple[str, ...]:
        """Columns of `features` that hold the label: all of a row are null, or none."""
        return (label.name,)

    def outputs(self, label: LabelSettings) -> int:
        """Numbers that a network predicts for a row; 0 where it rebuilds its own input."""
        return len(self.columns(label))

    def class_names(self, label: LabelSettings) -> tuple[tuple[str, ...], ...]:
        """For each class, in the order of its number in the label, the names that users give it.

        Returns:
            Nothing where rows are of no class: then classes have no weights, either.
        """
        del label
        return ()

    # -- the label on Spark -----------------------------------------------------------------------

    def expressions(self, label: LabelSettings) -> tuple[tuple[str, str], ...]:
        """Setting below `features.label` and Spark SQL, for each of `columns`."""
        return (("expression", label.expression),)

    def accepts(self, type_: DataType) -> bool:
        """Whether labels can be made of an expression of this type."""
        from pyspark.sql.types import BooleanType, NumericType

        return isinstance(type_, BooleanType | NumericType)

    def label_value(self, value: Column, label: LabelSettings) -> Column:
        """The label as `features` holds it; null for null.

        Args:
            value: An expression of a type that it accepts.
            label: The settings.
        """
        del label
        return value.cast("float")

    @abstractmethod
    def is_bad_label(self, value: Column) -> Column:
        """Whether a label, one of the columns of `label_value`, is none that can be learned."""

    @abstractmethod
    def bad_labels(self, label: LabelSettings, rows: object) -> SpecError:
        """The error for so many rows with bad labels."""

    # -- tensors ----------------------------------------------------------------------------------

    def evidence(self, loss: str, outputs: Tensor, target: Tensor) -> Tensor:
        """What must be kept of each row to measure exactly.

        Args:
            loss: One of `losses`.
            outputs: Float64 [rows, outputs] of the network: float32 would tie all probabilities
                near 1.
            target: The label, [rows] or [rows, columns]; or what is rebuilt, float64 [rows, width].

        Returns:
            Float64 [rows, k], what the metrics measure: by default the outputs, then the labels.
        """
        import torch

        del loss
        # [rows, outputs] beside [rows] or [rows, outputs] -> [rows, 2 * outputs]
        return torch.cat([outputs, target.double().reshape(len(outputs), -1)], dim=1)

    @abstractmethod
    def predictions(
        self, loss: str, outputs: Tensor, target: Tensor | None = None
    ) -> dict[str, Tensor]:
        """What is told of each row.

        Args:
            loss: What the network was trained by.
            outputs: Float [rows, outputs] of the network in evaluation mode.
            target: What is rebuilt, [rows, width]; None for all tasks that rebuild nothing.

        Returns:
            By the names of `prediction_columns`: [rows] for a number, int64 [rows] for a class,
            [rows, several] for a list.
        """

    # -- predictions as columns -------------------------------------------------------------------

    def prediction_columns(self) -> dict[str, pa.DataType]:
        """Columns of `predictions` in their order; one of strings holds the name of a class."""
        import pyarrow as pa

        return {"score": pa.float32()}

    def counted(self, classes: Sequence[str], labels: Sequence[str]) -> list[Counted]:
        """What histograms count of the predictions, to measure their drift by.

        Args:
            classes: Those of the label.
            labels: The label's columns.
        """
        del classes, labels
        return [Counted(tensor="score", names=("score",))]

    # -- the report -------------------------------------------------------------------------------

    def score(self) -> Column:
        """The one number, as double, that a row of `predictions` is told by."""
        from pyspark.sql import functions as F

        return F.col("score").cast("double")

    def pairs(self, label: LabelSettings) -> list[tuple[Column, Column]]:
        """What was predicted and what was observed, as numbers; the latter null where unknown.

        Args:
            label: The settings.

        Returns:
            One pair a row, or several, over the columns `score`, those of `report_columns`, and
            `label0`, `label1`, ..., the label's.
        """
        from pyspark.sql import functions as F

        del label
        return [(F.col("score"), F.col("label0").cast("double"))]

    @abstractmethod
    def pair_loss(self) -> Column:
        """How wrong a pair is, over `predicted` and `observed`; null where nothing is known.

        Where a row is one pair, the columns that `pairs` reads are there, too.
        """
