"""The command `lakestorm serve`."""

from __future__ import annotations

import socket
from pathlib import Path

import click
import torch

from pipeline.config import Pipeline
from pipeline.errors import ConfigError, EnvironmentFault
from pipeline.lake import Lake
from pipeline.serving.log import LogLimits, ServiceLog
from pipeline.serving.scorer import Scorer

GRACE_SECONDS = 35
"""For requests that are being answered when the service is to end; one takes at most 30."""


def run(
    model: str,
    lake: Lake,
    *,
    host: str,
    port: int,
    custom: str | None,
    kinds: str | None,
    log: Path | None = None,
    log_megabytes: int = 1024,
    pipeline: Pipeline | None = None,
) -> None:
    """Loads a model and answers requests until it is ended by a signal.

    Args:
        model: `NAME@ALIAS` or `NAME@VERSION`.
        lake: Where it is registered.
        host: Address to listen on.
        port: 0 for one that is free.
        custom: The user's own network, `package.module:Class`, if it is one.
        kinds: The module of the user's own kinds of features, if it has some.
        log: Folder for what the service made; None for no log.
        log_megabytes: How much the folder holds, in MB of 2**20 bytes.
        pipeline: Says which columns are sensitive; needed for a log.

    Raises:
        LakestormError: The model cannot be loaded, or the extra `serve` is missing.
    """
    if log is not None and pipeline is None:
        raise ConfigError(
            "--log",
            "needs to know which columns are sensitive, as their values are not logged",
            "Name the pipeline's YAML with --lake PIPELINE.yaml.",
        )
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
    served_log = None
    # Bound before it is told, so that port 0 is told as the one that was free.
    with _bound(host, port) as listening:
        told = f"[{host}]" if ":" in host else host
        number = listening.getsockname()[1]
        click.echo(f"{scorer.name}@{scorer.version} at http://{told}:{number}", err=True)
        if log is not None and pipeline is not None:
            limits = LogLimits(bytes_on_disk=log_megabytes << 20)
            served_log = ServiceLog.of(log, scorer, lake, pipeline, limits)
        app = application(scorer, log=served_log)
        # A client that never ends its request must not keep the service from ending.
        config = uvicorn.Config(
            app,
            log_level="warning",
            access_log=False,
            timeout_graceful_shutdown=GRACE_SECONDS,
        )
        uvicorn.Server(config).run(sockets=[listening])


def _bound(host: str, port: int) -> socket.socket:
    """A socket that listens there.

    Raises:
        EnvironmentFault: It cannot.
    """
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listening = socket.create_server((host, port), family=family)
        # asyncio sets it for sockets that it made itself. Without it an answer's body waits for the
        # client to confirm its head, which clients put off for 40 ms.
        listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return listening
    except OSError as error:
        raise EnvironmentFault(
            "lakestorm serve",
            f"cannot listen on {host}:{port}: {error.strerror or error}",
            "Choose another --port or --host.",
        ) from error
