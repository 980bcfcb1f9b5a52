"""The command `lakestorm serve`."""

from __future__ import annotations

import socket

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
    # Bound before it is told, so that port 0 is told as the one that was free.
    with _bound(host, port) as listening:
        told = f"[{host}]" if ":" in host else host
        number = listening.getsockname()[1]
        click.echo(f"{scorer.name}@{scorer.version} at http://{told}:{number}", err=True)
        config = uvicorn.Config(application(scorer), log_level="warning", access_log=False)
        uvicorn.Server(config).run(sockets=[listening])


def _bound(host: str, port: int) -> socket.socket:
    """A socket that listens there.

    Raises:
        EnvironmentFault: It cannot.
    """
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family)
    except OSError as error:
        raise EnvironmentFault(
            "lakestorm serve",
            f"cannot listen on {host}:{port}: {error.strerror or error}",
            "Choose another --port or --host.",
        ) from error
