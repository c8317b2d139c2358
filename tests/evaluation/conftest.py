"""What the tests of benches share: a tiny model that can be measured, and settings that are done in a moment."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny import QUICK, save_tiny_model

from layerdiffusion.evaluation.worker import Worker
from layerdiffusion.models.load import MINIATURE
from layerdiffusion.settings import Settings


@pytest.fixture(scope="session")
def measured_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model with the miniature's CLIP and judge beside it."""
    folder = save_tiny_model(tmp_path_factory.mktemp("measured"))
    for part in ("clip", "judge"):
        (folder / part).symlink_to(MINIATURE / part)
    return folder


@pytest.fixture(scope="session")
def worker(measured_folder: Path) -> Worker:
    return Worker.load(measured_folder, "cpu")


@pytest.fixture(scope="session")
def quick() -> Settings:
    return QUICK
