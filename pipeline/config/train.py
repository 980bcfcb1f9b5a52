"""How a network is trained."""

from __future__ import annotations

from typing import ClassVar, Literal, Self

from pydantic import Field, model_validator

from pipeline.config.class_weights import ClassWeights
from pipeline.settings import Fraction, Positive, Settings
from pipeline.training.networks import DEFAULT_FAMILY, Model


class Train(Settings):
    """Stage 3: `features` to checkpoints and a registered model."""

    added: ClassVar[frozenset[str]] = frozenset({"class_weights"})

    model: Model = DEFAULT_FAMILY
    loss: str | None = None
    """By default the first of the task's: see `LOSSES`."""
    class_weights: ClassWeights = None
    """What the rows of each class count in the loss: class to weight, 1 where none is named; or
    `balanced`, all train rows over the number of classes times the rows of the class."""
    metric: str | None = None
    """What decides which epoch and which model is better; by default the first of `METRICS`."""
    epochs: Positive = 10
    rows_per_batch: Positive = 1024
    """Rows of the global batch, over all ranks."""
    last_batch: Literal["keep", "drop"] = "keep"
    """Whether an epoch's rows that do not fill a batch are trained on."""
    optimiser: Literal["adamw", "adam", "sgd"] = "adamw"
    learning_rate: float = Field(default=1e-3, gt=0, allow_inf_nan=False)
    weight_decay: float = Field(default=0.0, ge=0, allow_inf_nan=False)
    momentum: Fraction = 0.9
    """Of `sgd`."""
    schedule: Literal["constant", "cosine", "one_cycle"] = "constant"
    """How the learning rate goes over all epochs' steps, after the warm-up."""
    warmup_steps: int = Field(default=0, ge=0)
    """Steps in which the learning rate rises from 0; a third of `one_cycle` rises by itself."""
    clip_norm: float | None = Field(default=None, gt=0)
    """Longest gradient: a longer one is shortened to it."""
    accumulate: Positive = 1
    """Parts that a rank's batch is taken in, one after the other, to need less memory."""
    precision: Literal["float32", "bf16", "float64"] = "float32"
    """`bf16`: autocast, with weights in float32. `float64`: everything, to compare runs."""
    compile: bool = False
    """Whether `torch.compile` makes kernels for the network; the first step then takes long."""
    patience_epochs: Positive = 3
    """Stop after this many epochs without a better validation metric."""
    shuffle_window_rows: Positive = 2_097_152
    stream_workers: Positive = 2
    """Threads of a rank that read row groups."""
    checkpoint_every_steps: Positive = 200
    checkpoint_every_minutes: float = Field(default=10.0, gt=0)
    """Whichever comes first; after each epoch there is one too."""
    checkpoints_kept: Positive = 2
    on_nan: Literal["stop", "skip"] = "stop"
    """What a loss that is no number does: ends the run, or leaves the step out."""
    workers: Positive = 1
    """Ranks: processes that train together."""
    max_restarts: int = Field(default=3, ge=0)
    """Times that a run whose worker died is started again from its newest checkpoint."""
    hang_seconds: float = Field(default=600.0, gt=0, le=31_536_000)
    """A rank without progress for so long is ended, and the run started again."""
    device: Literal["auto", "cpu", "cuda"] = "auto"

    @model_validator(mode="after")
    def _last_batch_can_be_trained_on(self) -> Self:
        refusal = self.model.last_batch_refusal()
        if refusal is not None and self.last_batch == "keep":
            raise ValueError(f"{refusal}; set last_batch: drop")
        return self
