"""The task `reconstruction`: the features themselves, by an autoencoder; no label."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar, NamedTuple, NoReturn

from pipeline.training.tasks import pairing
from pipeline.training.tasks.losses import bce, mse, weighted
from pipeline.training.tasks.task import LabelSettings, Metric, Task
from pipeline.training.tasks.wording import Wording

if TYPE_CHECKING:
    import pyarrow as pa
    from pyspark.sql import Column
    from torch import Tensor

    from pipeline.training.tasks.losses import Elementwise
    from pipeline.training.tasks.task import Loss


class Coded(NamedTuple):
    """What an autoencoder's outputs are made of."""

    rebuilt: Tensor
    """[rows, width]: logits for the loss `bce`, values for `mse`."""
    mean: Tensor
    """[rows, latent]."""
    log_variance: Tensor
    """[rows, latent]."""


def coded(outputs: Tensor, width: int) -> Coded:
    """Takes outputs [rows, width + 2 latent] apart."""
    import torch

    latent = (outputs.shape[1] - width) // 2
    return Coded(*torch.split(outputs, [width, latent, latent], dim=1))


_DISTANCES: dict[str, Elementwise] = {"bce": bce, "mse": mse}
"""How far what was rebuilt is from the target, number by number."""


def both_losses(distance: Elementwise, outputs: Tensor, target: Tensor) -> Tensor:
    """The two losses of an autoencoder, float [rows, 2]: reconstruction and KL, in nats.

    Args:
        distance: One of the distances.
        outputs: [rows, width + 2 latent].
        target: What is rebuilt, [rows, width].

    Source: Kingma and Welling, https://arxiv.org/abs/1312.6114, appendix B.
    """
    import torch

    parts = coded(outputs, target.shape[1])
    reconstruction = distance(parts.rebuilt, target).sum(1)
    spread = parts.log_variance
    kl = -0.5 * (1 + spread - parts.mean.square() - spread.exp()).sum(1)
    return torch.stack([reconstruction, kl], dim=1)


def negative_bound(distance: Elementwise) -> Loss:
    """Reconstruction plus KL: the bound that a variational autoencoder makes small."""

    def loss(outputs: Tensor, target: Tensor, weights: Tensor | None) -> Tensor:
        return weighted(both_losses(distance, outputs, target), weights).sum()

    return loss


def bound(rows: Tensor) -> float:
    """Mean of reconstruction plus KL."""
    return reconstruction(rows) + kl(rows)


def reconstruction(rows: Tensor) -> float:
    """Mean reconstruction loss."""
    return float(rows.mean(0)[0])


def kl(rows: Tensor) -> float:
    """Mean KL divergence."""
    return float(rows.mean(0)[1])


class Reconstruction(Task):
    """The target is the network's input; the outputs are what was rebuilt, and a latent code.

    Evidence: reconstruction and KL. A row is told by the nats that the network would need for it.
    """

    name = "reconstruction"
    label_is_stratum = False
    asks = ()
    losses: ClassVar[Mapping[str, Loss]] = {
        name: negative_bound(distance) for name, distance in _DISTANCES.items()
    }
    metrics: ClassVar[tuple[Metric, ...]] = (
        Metric(name="loss", measure=bound, lower_is_better=True),
        Metric(name="reconstruction", measure=reconstruction, lower_is_better=True),
        Metric(name="kl", measure=kl, lower_is_better=True, shown="KL divergence"),
    )
    words = Wording(
        score="anomaly score",
        scores="anomaly scores",
        mean_score="mean anomaly score",
        loss_metric="loss",
        truth=None,
    )
    rebuilds = True
    report_parts = ("spread",)

    label_remedy = "Leave the expression out."

    def columns(self, label: LabelSettings) -> tuple[str, ...]:
        """None."""
        del label
        return ()

    def expressions(self, label: LabelSettings) -> tuple[tuple[str, str], ...]:
        """None."""
        del label
        return ()

    def is_bad_label(self, value: Column) -> NoReturn:
        """There is no label."""
        raise NotImplementedError

    def bad_labels(self, label: LabelSettings, rows: object) -> NoReturn:
        """There is no label."""
        raise NotImplementedError

    def evidence(self, loss: str, outputs: Tensor, target: Tensor) -> Tensor:
        """Reconstruction and KL, [rows, 2]."""
        return both_losses(_DISTANCES[loss], outputs, target)

    def predictions(
        self, loss: str, outputs: Tensor, target: Tensor | None = None
    ) -> dict[str, Tensor]:
        """The nats that the network would need for the row, and the mean of its latent code."""
        if target is None:
            raise TypeError("a reconstruction is held against what it rebuilds")
        return {
            "score": both_losses(_DISTANCES[loss], outputs, target).sum(1),
            "latent": coded(outputs, target.shape[1]).mean,
        }

    def prediction_columns(self) -> dict[str, pa.DataType]:
        """The anomaly score and the latent code."""
        import pyarrow as pa

        return {"score": pa.float32(), "latent": pa.list_(pa.float32())}

    def pairs(self, label: LabelSettings) -> list[tuple[Column, Column]]:
        """Nothing was observed."""
        from pyspark.sql import functions as F

        del label
        return [(F.col("score"), F.lit(None).cast("double"))]

    def pair_loss(self) -> Column:
        """Of nothing, null."""
        return pairing.squared_error()
