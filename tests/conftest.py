"""What tests share: the random models of `tiny.py`, loaded, and an edit for them."""

from __future__ import annotations

import one_thread  # noqa: F401 - before torch

# isort: split
import copy
import errno
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny import noise_picture, save_tiny_model, save_tiny_xl
from tiny_klein import save_tiny_klein

from layerdiffusion.edit import Edit
from layerdiffusion.editor import Editor
from layerdiffusion.models.load import load_models
from layerdiffusion.models.models import Models
from layerdiffusion.process import available_cores

HERE = Path(__file__).parent
# What takes long comes first: no worker is left with it at the end.
LONGEST = ("browser", "test_true_size.py", "miniature", "evaluation", "test_snippets.py", "test_editor.py", "ui")


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """A worker a core for the whole suite; a part of it is often done before a second worker has started."""
    return available_cores() if config.args_source is pytest.Config.ArgsSource.TESTPATHS else 0


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """A file a worker, and all of the browser one worker's: its page and its Chromium start once, with a core each."""
    from xdist.scheduler import LoadFileScheduling

    class OneBrowser(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return "tests/browser" if nodeid.startswith("tests/browser/") else super()._split_scope(nodeid)

    return OneBrowser(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A worker gets the tests of a whole file, for its fixtures, and the files in this order."""
    tops = {item: item.path.relative_to(HERE).parts[0] for item in items}
    items.sort(key=lambda item: LONGEST.index(tops[item]) if tops[item] in LONGEST else len(LONGEST))


@pytest.fixture
def full_disk(monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], None]:
    """Let the disk below a folder be full for what the program writes there."""
    really_open = Path.open

    def fill(folder: Path) -> None:
        def full(self: Path, mode: str = "r", *args: Any, **options: Any) -> Any:
            if "x" in mode and folder in self.resolve().parents:
                really_open(self, mode).close()  # a file's name still finds a place
                raise OSError(errno.ENOSPC, "No space left on device")
            return really_open(self, mode, *args, **options)

        monkeypatch.setattr(Path, "open", full)

    return fill


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="session")
def tiny_v_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """v-prediction, and an autoencoder without a distribution, as the miniature has them."""
    return save_tiny_model(tmp_path_factory.mktemp("tiny-v"), "v_prediction", "AutoencoderTiny")


@pytest.fixture(scope="session")
def tiny_models(tiny_folder: Path) -> Models:
    return load_models(tiny_folder, "cpu", "float32")


@pytest.fixture(scope="session")
def tiny_v_models(tiny_v_folder: Path) -> Models:
    return load_models(tiny_v_folder, "cpu", "float32")


@pytest.fixture(scope="session")
def tiny_xl_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_xl(tmp_path_factory.mktemp("tiny-xl"))


@pytest.fixture(scope="session")
def tiny_xl_models(tiny_xl_folder: Path) -> Models:
    return load_models(tiny_xl_folder, "cpu", "float32")


@pytest.fixture(scope="session")
def tiny_klein_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_klein(tmp_path_factory.mktemp("tiny-klein"))


@pytest.fixture(scope="session")
def tiny_klein_models(tiny_klein_folder: Path) -> Models:
    return load_models(tiny_klein_folder, "cpu", "float32")


@pytest.fixture(params=["tiny", "tiny_v"])
def either_models(request: pytest.FixtureRequest) -> Models:
    """Those of both kinds of prediction; with `tiny.every_family`, SDXL too."""
    return request.getfixturevalue(f"{request.param}_models")


@pytest.fixture
def global_random_state_is_left_alone() -> Iterator[None]:
    """No code of ours may draw from, or seed, the process's own random numbers."""
    before = torch.get_rng_state()
    yield
    after = torch.get_rng_state()
    torch.set_rng_state(before)
    assert torch.equal(before, after), "the global random state was used"


@pytest.fixture(scope="session")
def edit() -> Edit:
    """A photo with its subject in the middle, before a reference whose own subject is in a corner."""
    subject, stranger = np.zeros((64, 80), bool), np.zeros((64, 80), bool)
    subject[16:48, 24:56] = True
    stranger[:24, :40] = True
    return Edit(
        noise_picture(0), subject, noise_picture(1), stranger, object_prompt="a dog jumps", background_prompt="on ice"
    )


@pytest.fixture
def seeded() -> Callable[[int], torch.Generator]:
    return lambda seed: torch.Generator().manual_seed(seed)


@pytest.fixture
def editor(either_models) -> Editor:
    return Editor(either_models)


@pytest.fixture
def fast_editor(tiny_v_models) -> Editor:
    return Editor(tiny_v_models)


@pytest.fixture
def weights_before(either_models):
    """Every bit of the pristine model, compared after the test."""
    unet = either_models.unet
    before = {name: value.clone() for name, value in unet.state_dict().items()}
    yield before
    assert unet.state_dict().keys() == before.keys()
    assert all(torch.equal(value, before[name]) for name, value in unet.state_dict().items())
    assert not any(parameter.requires_grad for parameter in unet.parameters())
    assert not unet.training


@pytest.fixture
def weights_before_v(tiny_v_models):
    before = copy.deepcopy(tiny_v_models.unet.state_dict())
    yield
    assert all(torch.equal(value, before[name]) for name, value in tiny_v_models.unet.state_dict().items())
