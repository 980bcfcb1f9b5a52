"""What a network is trained for: its loss, its evidence for the metrics, and what it predicts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from pipeline.config import LOSSES, METRICS, Task
from pipeline.training.bundle import Bundle
from pipeline.training.metrics import evidence
from pipeline.training.networks import Vae, rebuilt_from
from pipeline.training.splits import Rows

RowLoss = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True, kw_only=True)
class Objective:
    """The task of a pipeline, with the loss and the metric that were chosen for it."""

    task: Task
    loss: str
    """One of `pipeline.config.LOSSES[task]`."""
    metric: str
    """One of `pipeline.config.METRICS[task]`: decides which epoch and which model is better."""
    latent: int = 0
    """For `reconstruction`: numbers that each row is described by."""

    @classmethod
    def of(cls, task: Task, loss: str | None, metric: str | None, latent: int = 0) -> Objective:
        """The task with what was chosen, or its defaults."""
        return cls(
            task=task,
            loss=loss or LOSSES[task][0],
            metric=metric or METRICS[task][0],
            latent=latent,
        )

    def loss_sum(self, outputs: Tensor, rows: Rows) -> Tensor:
        """The loss summed over rows, a scalar; 0 with zero gradients where there is no row.

        Args:
            outputs: Float [rows, outputs] of the network.
            rows: What the outputs were computed from, with the labels.
        """
        if rows.labels is None:
            return self._rebuilding(outputs, rows).sum()
        if self.task == "multiclass":
            return functional.cross_entropy(outputs, rows.labels.long(), reduction="sum")
        # [rows] or [rows, labels] -> [rows, outputs]
        labels = rows.labels.to(outputs.dtype).reshape(outputs.shape)
        return _ELEMENTWISE[self.loss](outputs, labels).sum() / max(1, outputs.shape[1])

    def evidence(self, outputs: Tensor, rows: Rows) -> Tensor:
        """What the metrics need of each row, float64 [rows, k]."""
        if rows.labels is None:
            return evidence(self.task, self._rebuilding(outputs.double(), rows), None)
        return evidence(self.task, outputs, rows.labels)

    def predictions(self, outputs: Tensor, rows: Rows) -> dict[str, Tensor]:
        """What is told of each row, by name.

        Args:
            outputs: Float [rows, outputs] of the network in evaluation mode.
            rows: What they were computed from; labels are not looked at.

        Returns:
            `score` float [rows]: the probability of class 1, of the predicted class, the value, or
            the anomaly score (nats the network would need for the row); `class` int64 [rows] for
            `multiclass`; `probabilities` [rows, outputs] for `multiclass` and `multilabel`;
            `latent` [rows, latent] for `reconstruction`.
        """
        if self.task == "binary":
            return {"score": torch.sigmoid(outputs[:, 0])}
        if self.task == "regression":
            return {"score": outputs[:, 0]}
        if self.task == "multilabel":
            return {"probabilities": torch.sigmoid(outputs)}
        if self.task == "multiclass":
            probabilities = torch.softmax(outputs, dim=1)
            score, best = probabilities.max(dim=1)
            return {"score": score, "class": best, "probabilities": probabilities}
        return {
            "score": self._rebuilding(outputs, rows).sum(1),
            "latent": Vae.parts(outputs, self.latent).mean,
        }

    def _rebuilding(self, outputs: Tensor, rows: Rows) -> Tensor:
        """The two losses of an autoencoder, float [rows, 2]: reconstruction and KL, in nats.

        Source: Kingma and Welling, https://arxiv.org/abs/1312.6114, appendix B.
        """
        parts = Vae.parts(outputs, self.latent)
        target = rebuilt_from(rows.inputs, outputs.dtype)
        reconstruction = _ELEMENTWISE[self.loss](parts.rebuilt, target).sum(1)
        spread = parts.log_variance
        kl = -0.5 * (1 + spread - parts.mean.square() - spread.exp()).sum(1)
        return torch.stack([reconstruction, kl], dim=1)


def objective_of(bundle: Bundle) -> Objective:
    """What a finished model was trained for, with the task's usual metric."""
    facts = bundle.facts
    latent = getattr(facts.architecture.settings, "latent", 0)
    return Objective.of(facts.task, facts.loss, None, latent)


_ELEMENTWISE: dict[str, RowLoss] = {
    "bce": lambda out, label: functional.binary_cross_entropy_with_logits(
        out, label, reduction="none"
    ),
    "mse": lambda out, label: functional.mse_loss(out, label, reduction="none"),
    "mae": lambda out, label: functional.l1_loss(out, label, reduction="none"),
    "huber": lambda out, label: functional.huber_loss(out, label, reduction="none"),
}


@contextmanager
def evaluating(module: nn.Module, seed: int) -> Iterator[None]:
    """The network in evaluation mode; an autoencoder samples, by `seed`, as its loss asks for.

    With the latent mean instead of a sample, the loss would come out lower than the bound that a
    variational autoencoder is compared by.
    """
    module.eval()
    if not isinstance(module, Vae):
        yield
        return
    module.sampling = True
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            yield
    finally:
        module.sampling = False
