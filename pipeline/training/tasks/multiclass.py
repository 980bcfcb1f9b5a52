"""The task `multiclass`: one of several classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar

from pipeline.errors import SpecError
from pipeline.training.tasks import pairing
from pipeline.training.tasks.losses import weighted
from pipeline.training.tasks.task import Counted, LabelSettings, Metric, Task
from pipeline.training.tasks.wording import OVER_AND_UNDER, Truth, Wording

if TYPE_CHECKING:
    import pyarrow as pa
    from pyspark.sql import Column
    from pyspark.sql.types import DataType
    from torch import Tensor

    from pipeline.training.tasks.task import Loss

NO_CLASS = -1


def cross_entropy(outputs: Tensor, target: Tensor, weights: Tensor | None) -> Tensor:
    """Cross-entropy of the softmax, in nats, summed over the rows."""
    from torch.nn import functional

    classes = target.long()
    if weights is None:
        return functional.cross_entropy(outputs, classes, reduction="sum")
    # What torch's cross_entropy is made of, so that weights of 1 add up in its order, bit for bit.
    likelihoods = weighted(functional.log_softmax(outputs, 1), weights)
    return functional.nll_loss(likelihoods, classes, reduction="sum")


def accuracy(rows: Tensor) -> float:
    """Share of rows whose most probable class is theirs."""
    _, predicted, labels = rows.T
    return float((predicted == labels).double().mean())


def log_loss(rows: Tensor) -> float:
    """Mean cross-entropy, in nats."""
    return float(rows.T[0].mean())


def f1(rows: Tensor) -> float:
    """F1, the mean over the classes that occur."""
    import torch

    # Counted class by class: torchmetrics has a count for each pair, 80 GB of 100,000 classes.
    predicted, labels = rows.T[1:].long()
    classes = int(torch.maximum(predicted, labels).max()) + 1
    right, said, came = (
        torch.bincount(each, minlength=classes).double()
        for each in (labels[predicted == labels], predicted, labels)
    )
    occurs = said + came > 0
    return float((2 * right[occurs] / (said + came)[occurs]).mean())


class Multiclass(Task):
    """The label is the class's place among `classes`, the outputs are a logit for each class.

    Evidence: the negative log-likelihood, the most probable class, the label.
    """

    name = "multiclass"
    asks = ("expression", "classes")
    losses: ClassVar[Mapping[str, Loss]] = {"cross_entropy": cross_entropy}
    metrics: ClassVar[tuple[Metric, ...]] = (
        Metric(name="accuracy", measure=accuracy),
        Metric(name="log_loss", measure=log_loss, lower_is_better=True, shown="log-loss"),
        Metric(name="f1", measure=f1, shown="F1"),
    )
    words = Wording(
        score="confidence",
        scores="confidences",
        mean_score="mean confidence",
        loss_metric="log_loss",
        truth=Truth(
            observed="share right",
            heading="Calibration of the confidence on test rows",
            lead="The confidence is the probability of the predicted class: of the rows that got "
            "one near 0.7, seven in ten should be right. "
            + OVER_AND_UNDER.format("confidence", "rows"),
            chart="Share of right predictions by confidence",
            rows="Test rows by confidence",
            bins="confidence from",
        ),
    )
    report_columns = ("class", "probabilities")
    report_parts = ("classes",)

    label_remedy = "Write what gives one of features.label.classes as text, or null."

    def require_label(self, label: LabelSettings) -> None:
        """At least two classes, each once."""
        if len({*label.classes}) < max(2, len(label.classes)):
            raise ValueError(f"classes: {list(label.classes)} are not at least two different ones")

    def outputs(self, label: LabelSettings) -> int:
        """One a class."""
        return len(label.classes)

    def class_names(self, label: LabelSettings) -> tuple[tuple[str, ...], ...]:
        """The classes."""
        return tuple((name,) for name in label.classes)

    def accepts(self, type_: DataType) -> bool:
        """What Spark can write as text."""
        from pyspark.sql.types import AtomicType, BinaryType

        return isinstance(type_, AtomicType) and not isinstance(type_, BinaryType)

    def label_value(self, value: Column, label: LabelSettings) -> Column:
        """Its place among the classes; `NO_CLASS` for other values."""
        from pyspark.sql import functions as F

        classes = F.array(*(F.lit(name) for name in label.classes))
        place = F.array_position(classes, value.cast("string"))
        # Spark counts from 1, and 0 means that it is not there: NO_CLASS.
        return (place - 1).cast("int")

    def is_bad_label(self, value: Column) -> Column:
        """None of the classes."""
        return value == NO_CLASS

    def bad_labels(self, label: LabelSettings, rows: object) -> SpecError:
        """Names the classes."""
        return SpecError(
            "features.label.classes",
            f"{label.expression!r} is none of the {len(label.classes)} classes in {rows} rows",
            "List all values of the expression, as text, or make it null where it has none.",
        )

    def evidence(self, loss: str, outputs: Tensor, target: Tensor) -> Tensor:
        """Negative log-likelihood, most probable class and label, [rows, 3]."""
        import torch
        from torch.nn import functional

        del loss
        losses = functional.cross_entropy(outputs, target.long(), reduction="none")
        return torch.stack([losses, outputs.argmax(1).double(), target.double()], dim=1)

    def predictions(
        self, loss: str, outputs: Tensor, target: Tensor | None = None
    ) -> dict[str, Tensor]:
        """The most probable class, its probability, and those of all classes."""
        import torch

        del loss, target
        probabilities = torch.softmax(outputs, dim=1)
        score, best = probabilities.max(dim=1)
        return {"score": score, "class": best, "probabilities": probabilities}

    def prediction_columns(self) -> dict[str, pa.DataType]:
        """The most probable class, its probability, and those of all classes."""
        import pyarrow as pa

        several = pa.list_(pa.float32())
        return {"score": pa.float32(), "class": pa.string(), "probabilities": several}

    def counted(self, classes: Sequence[str], labels: Sequence[str]) -> list[Counted]:
        """The score and the class."""
        score = super().counted(classes, labels)
        return [*score, Counted(tensor="class", names=("class",), classes=len(classes))]

    def pairs(self, label: LabelSettings) -> list[tuple[Column, Column]]:
        """The confidence, and whether the class that was predicted is right."""
        from pyspark.sql import functions as F

        right = F.col("class") == class_name(label)
        return [(F.col("score"), right.cast("double"))]

    def pair_loss(self) -> Column:
        """Log-loss of the class that came."""
        from pyspark.sql import functions as F

        return pairing.log_loss(F.get("probabilities", F.col("label0")).cast("double"))


def class_name(label: LabelSettings) -> Column:
    """The class that `label0` stands for; null for null."""
    from pyspark.sql import functions as F

    return F.get(F.array(*(F.lit(name) for name in label.classes)), F.col("label0"))
