from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from pipeline.lake import Lake


@pytest.fixture
def trained_lake(trained: Path, tmp_path: Path) -> Lake:
    """A copy of its own for each test."""
    root = tmp_path / "lake"
    # Modification times stay, so that the raw files are the same ones.
    shutil.copytree(trained, root)
    return Lake(root)
