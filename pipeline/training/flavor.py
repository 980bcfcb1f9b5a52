"""The file `MLmodel` in a model's folder: by it MLflow's own tools load and serve the model.

It names `pipeline.serving.pyfunc` as what reads the folder, so nothing is pickled, and the columns
of `clean` as the model's signature.

Source: https://mlflow.org/docs/latest/ml/model/#storage-format.
"""

from __future__ import annotations

import platform
from importlib.metadata import version
from pathlib import Path

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
    from mlflow.models import Model
    from mlflow.pyfunc import FLAVOR_NAME

    model = Model(metadata={"spec_hash": spec.hash, "lakestorm": version("lakestorm")})
    model.add_flavor(
        FLAVOR_NAME, loader_module=LOADER, python_version=platform.python_version(), data="."
    )
    model.save(str(folder / "MLmodel"))
