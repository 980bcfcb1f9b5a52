"""The file `MLmodel` in a model's folder: by it MLflow's own tools load and serve the model.

It names `pipeline.serving.pyfunc` as what reads the folder, so nothing is pickled, and the columns
of `clean` as the model's signature.

Source: https://mlflow.org/docs/latest/ml/model/#storage-format.
"""

from __future__ import annotations

import platform
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import yaml

from pipeline.features.local import Local
from pipeline.features.spec import FeatureSpec

LOADER = "pipeline.serving.pyfunc"


def add_flavor(folder: Path, spec: FeatureSpec, local: Local | None) -> None:
    """Writes `MLmodel`; not for a model whose features only Spark can make.

    Args:
        folder: Of the model; exists.
        spec: The model's.
        local: How its features are made without Spark.
    """
    if local is None or local.spark_only is not None:
        return
    # Written by ourselves: importing `mlflow.pyfunc` takes seconds, and the file has a few lines.
    described = {
        "flavors": {
            "python_function": {
                "loader_module": LOADER,
                "python_version": platform.python_version(),
                "data": ".",
            }
        },
        "metadata": {"spec_hash": spec.hash, "lakestorm": version("lakestorm")},
        "mlflow_version": version("mlflow"),
        "utc_time_created": datetime.now(UTC).isoformat(sep=" "),
    }
    (folder / "MLmodel").write_text(yaml.safe_dump(described), encoding="utf-8")
