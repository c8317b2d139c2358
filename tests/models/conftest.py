"""What tests of the models share."""

import shutil
from fnmatch import fnmatch
from pathlib import Path

import pytest


@pytest.fixture
def folder(tiny_folder, tmp_path) -> Path:
    """A copy to break."""
    return Path(shutil.copytree(tiny_folder, tmp_path / "model"))


@pytest.fixture
def no_network(monkeypatch):
    import huggingface_hub
    from huggingface_hub.errors import LocalEntryNotFoundError

    def snapshot_download(repository, **_):
        raise LocalEntryNotFoundError("Name or service not known")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """A hub with one repository, the folder that it is called with; returns its cache. What is fetched, and at which
    commit, is in its `fetched`.
    """
    import huggingface_hub

    def serve(folder):
        def snapshot_download(repository, allow_patterns, revision=None):
            for path in folder.rglob("*.*"):
                name = str(path.relative_to(folder))
                if any(fnmatch(name, pattern) for pattern in allow_patterns):
                    serve.fetched[name] = revision
                    (tmp_path / "cache" / name).parent.mkdir(parents=True, exist_ok=True)
                    shutil.copy(path, tmp_path / "cache" / name)
            return str(tmp_path / "cache")

        monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
        return tmp_path / "cache"

    serve.fetched = {}
    return serve
