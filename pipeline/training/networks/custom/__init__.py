"""A network of the user's own: the settings that name it; `module.py` imports and tries it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, Self

from pydantic import Field

from pipeline.errors import ModelError
from pipeline.training.networks.family import Family
from pipeline.training.networks.shapes import Shapes

if TYPE_CHECKING:
    from pipeline.training.tasks import Task

NAMELESS = "named.in:YAML"
"""What files hold in place of the class: a file must not decide which code runs."""


class Custom(Family):
    """A network of the user's own, named here and nowhere else."""

    family: Literal["custom"]
    custom: str = Field(pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$")
    """`package.module:Class`, a `torch.nn.Module`; see docs/training.md for what it is given."""
    settings: dict[str, bool | int | float | str] = {}
    """Keyword arguments of the class."""

    def learns(self, task: Task) -> bool:
        """Whatever the user's class does."""
        del task
        return True

    def require_fits(self, shapes: Shapes, outputs: int) -> None:
        """Checks that no class is named, which alone can say what fits."""
        super().require_fits(shapes, outputs)
        if self.custom != NAMELESS:
            raise ValueError(f"settings.custom: {self.custom!r} must not stand in a file")

    @property
    def user_class(self) -> str:
        """The class, or `NAMELESS` where a file was read."""
        return self.custom

    def without_class(self) -> Self:
        """All but the class."""
        return self.model_copy(update={"custom": NAMELESS})

    def with_class(self, name: str | None) -> Self:
        """The class that the YAML names."""
        if name is None:
            raise ModelError(
                "architecture",
                "is a network of the user's own, and its files do not say which",
                "Name its class in train.model.custom of the pipeline's YAML.",
            )
        return self.model_copy(update={"custom": name})
