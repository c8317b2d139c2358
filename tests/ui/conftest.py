"""The page, served once for all tests of it that need no browser."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from serving import Served, save_page_model, served


@pytest.fixture(scope="session")
def page_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_page_model(tmp_path_factory.mktemp("page-model"))


@pytest.fixture(scope="session")
def page(page_model: Path) -> Iterator[Served]:
    with served(page_model) as page:
        assert page.backend.editor  # loading imports in a thread, and pytest looks at all modules now and then
        yield page
