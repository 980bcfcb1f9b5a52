"""The command `lakestorm serve`."""

from __future__ import annotations

import click
import torch

from pipeline.errors import EnvironmentFault
from pipeline.lake import Lake
from pipeline.serving.scorer import Scorer


def run(
    model: str, lake: Lake, *, host: str, port: int, custom: str | None, kinds: str | None
) -> None:
    """Loads a model and answers requests until it is ended by a signal.

    Raises:
        LakestormError: The model cannot be loaded, or the extra `serve` is missing.
    """
    try:
        import uvicorn

        from pipeline.serving.service import application
    except ImportError as error:
        raise EnvironmentFault(
            "lakestorm serve",
            f"needs {error.name}",
            "Install the extra: pip install 'lakestorm[serve]'.",
        ) from error
    # One row is scored in less time than threads take to be woken.
    torch.set_num_threads(1)
    scorer = Scorer.load(model, lake, custom=custom, kinds=kinds)
    click.echo(f"{scorer.name}@{scorer.version} at http://{host}:{port}", err=True)
    uvicorn.run(application(scorer), host=host, port=port, log_level="warning", access_log=False)
