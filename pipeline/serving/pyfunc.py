"""A registered model for MLflow's own tools: `mlflow.pyfunc.load_model`, `mlflow models serve`.

MLflow reads the file `MLmodel` of a model's folder, which names this module; nothing is unpickled.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from pipeline.serving.scorer import Scorer


class LakestormModel:
    """What MLflow calls."""

    def __init__(self, scorer: Scorer) -> None:
        self._scorer = scorer

    def predict(self, data: pd.DataFrame, params: dict[str, Any] | None = None) -> pd.DataFrame:
        """Scores a frame of columns of `clean`; `params` are none of ours."""
        del params
        found: pd.DataFrame = self._scorer.score(data)
        return found


def _load_pyfunc(folder: str) -> LakestormModel:
    """MLflow's entry; `folder` is that of the model."""
    return LakestormModel(Scorer.from_folder(Path(folder)))
