"""The network for other programs, by torch.export: they need no lakestorm, only torch.

lakestorm itself never loads it: its own files hold numbers only.
"""

from __future__ import annotations

import hashlib
import logging
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim

from pipeline.training.networks.architecture import Architecture
from pipeline.training.networks.inputs import example_inputs
from pipeline.training.networks.module import NetworkModule
from pipeline.training.networks.shapes import Shapes

log = logging.getLogger(__name__)

EXPORT_FILE = "network.pt2"
EXPORT_DIGEST_FILE = "network.pt2.sha256"
"""Its SHA-256, as `sha256sum --check` reads it."""
_ROWS, _LONGEST = 4, 7


def add_export(folder: Path, module: nn.Module, architecture: Architecture) -> bool:
    """Writes `network.pt2` into a model's folder: any number of rows, sequences of any length.

    Args:
        folder: Of the model; exists.
        module: The network in evaluation mode, on the CPU.
        architecture: What it is.

    Returns:
        Whether it could be exported. If not, it is only warned of: a user's own network need not
        be exportable, and no training is worth losing for a file that lakestorm does not read.
    """
    inputs = example_inputs(architecture.shapes, _ROWS, _LONGEST)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's own use of what it is about to drop
            program = torch.export.export(
                module.exportable() if isinstance(module, NetworkModule) else module,
                (inputs,),
                dynamic_shapes=(_dynamic(inputs, architecture.shapes),),
            )
            torch.export.save(program, folder / EXPORT_FILE)
    except Exception as error:  # noqa: BLE001 - torch.export raises what it likes
        (folder / EXPORT_FILE).unlink(missing_ok=True)
        why = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
        log.warning("no %s: torch.export cannot export the network: %s", EXPORT_FILE, why)
        return False
    digest = hashlib.sha256((folder / EXPORT_FILE).read_bytes()).hexdigest()
    (folder / EXPORT_DIGEST_FILE).write_text(f"{digest}  {EXPORT_FILE}\n", encoding="ascii")
    return True


def _dynamic(inputs: dict[str, Tensor], shapes: Shapes) -> dict[str, Any]:
    """Which dimensions may be of any size."""
    rows = Dim("rows", min=1)
    # Each has a longest of its own.
    longest = {name: Dim(f"longest_{place}", min=1) for place, name in enumerate(shapes.sequences)}
    return {name: {0: rows, 1: longest[name]} if name in longest else {0: rows} for name in inputs}
