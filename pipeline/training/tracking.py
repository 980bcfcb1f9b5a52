"""How MLflow is opened: where it keeps its data, quietly, and with its errors translated."""

from __future__ import annotations

import logging
import os
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from pipeline.errors import ConfigError, ModelError

if TYPE_CHECKING:
    from mlflow import MlflowClient

DATABASE = "mlflow.db"
_QUIET = {
    # Nothing that happens on a driver is sent anywhere.
    "MLFLOW_DISABLE_TELEMETRY": "true",
    # Its bars would run through ours.
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
}
_CHATTY_LOGGERS = ("mlflow.store.db.utils", "alembic")


def tracking_uri(lake_root: str, environment: Mapping[str, str] = os.environ) -> str:
    """Where MLflow keeps runs and models: `MLFLOW_TRACKING_URI`, or a database in the lake.

    Raises:
        ConfigError: The lake is in an object store, which can hold no database.
    """
    named = environment.get("MLFLOW_TRACKING_URI")
    if not named and "://" in lake_root:
        raise ConfigError(
            "MLFLOW_TRACKING_URI",
            f"is not set, and MLflow's database cannot lie in {lake_root}",
            "Set it to a server's address, or to sqlite:////FOLDER/mlflow.db on one machine.",
        )
    return named or own_uri(lake_root)


def own_uri(lake_root: str) -> str:
    """The database in a lake that is a folder."""
    return f"sqlite:///{lake_root}/{DATABASE}"


def import_quietly() -> None:
    """Imports MLflow, which takes seconds, and keeps it from chatting; to be called first."""
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        import mlflow  # noqa: F401  imported for its side effect on logging, undone below
    for logger in _CHATTY_LOGGERS:
        logging.getLogger(logger).setLevel(logging.WARNING)


def open_client(uri: str, lake_root: str) -> MlflowClient:
    """Opens MLflow, and creates the lake's database where it is missing.

    Raises:
        ModelError: It cannot be reached, created or read.
    """
    import_quietly()
    from mlflow import MlflowClient

    with translated(uri), warnings.catch_warnings():
        # MLflow's own use of SQLAlchemy, which nobody here can mend.
        warnings.simplefilter("ignore", DeprecationWarning)
        if uri == own_uri(lake_root):
            _create_database(Path(lake_root) / DATABASE)
        client = MlflowClient(tracking_uri=uri, registry_uri=uri)
        client.search_experiments(max_results=1)
    return client


@contextmanager
def translated(uri: str) -> Iterator[None]:
    """Turns what MLflow and its storage raise into a ModelError that names the place."""
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except (MlflowException, SQLAlchemyError, OSError) as error:
        raise ModelError(
            f"MLflow at {_without_credentials(uri, uri)}",
            _without_credentials(" ".join(str(error).split()), uri),
            "See that it can be reached and written; MLFLOW_TRACKING_URI says where it is.",
        ) from error


def _create_database(path: Path) -> None:
    """Creates MLflow's database under another name first: its tables come in a hundred steps.

    A process killed between two of them would leave one that MLflow can neither use nor mend.
    """
    if path.exists():
        return
    from mlflow import MlflowClient

    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".mlflow-") as folder:
        partial = Path(folder) / path.name
        uri = f"sqlite:///{partial}"
        MlflowClient(tracking_uri=uri, registry_uri=uri).search_experiments(max_results=1)
        if not path.exists():
            partial.rename(path)


def _without_credentials(text: str, uri: str) -> str:
    """A text without the user and password that stand in a URI."""
    credentials, at, _ = urlsplit(uri).netloc.rpartition("@")
    return text.replace(credentials + at, "") if at else text
