"""Chromium, and tabs in it whose console must stay clean."""

import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from serving import Served, photo, save_page_model, served
from tab import Tab

from layerdiffusion.progress import Reporter
from layerdiffusion.ui import examples
from layerdiffusion.ui.examples import make, wishes

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
REQUIRED = os.environ.get("LAYERDIFFUSION_REQUIRE_BROWSER") == "1" or os.environ.get("CI") == "true"
VIEWPORT = {"width": 1440, "height": 900}
# The last two pictures of the address bar's suggestions cost a second of the processor for each tab; the rest is of
# Playwright's own list, in whose place this one stands.
WITHOUT = "PaintHolding,MediaRouter,LensOverlay,OptimizationHints,HttpsUpgrades,DestroyProfileOnBrowserClose,AimEnabled"
WITHOUT += ",WebUIOmniboxPopup,WebUIOmniboxAimPopup"
ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", f"--disable-features={WITHOUT}"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.browser)


@pytest.fixture(scope="session")
def chromium() -> Iterator[Any]:
    if CHROMIUM is None:
        (pytest.fail if REQUIRED else pytest.skip)("There is no Chromium; apt-get install chromium.")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """The page with two finished examples, all of them by the random model."""
    from layerdiffusion.editor import Editor
    from layerdiffusion.models.load import load_models

    folder = save_page_model(tmp_path_factory.mktemp("page-model"))
    before, examples.FOLDER = examples.FOLDER, tmp_path_factory.mktemp("examples")
    editor = Editor(load_models(folder, "cpu", "float32"))
    for wish in wishes():
        if wish.name in ("lie-down", "to-the-snow"):
            make(wish, editor, examples.FOLDER)
    with served(folder) as page:
        assert page.backend.editor
        yield page
    examples.FOLDER = before


@pytest.fixture(scope="session")
def window(chromium: Any) -> Iterator[Any]:
    """The window that tests share, and its tab, one after the other: what it has compiled is there for the next."""
    window = chromium.new_context(viewport=VIEWPORT)
    yield window
    window.close()


@pytest.fixture
def tabs(chromium: Any, window: Any, page: Served) -> Iterator[Callable[..., Tab]]:
    """Opens tabs, each with its own session; at the end nothing may have been said on their consoles.

    A second tab, and one with options (`device_scale_factor`, …), has a window of its own: a browser opens six
    connections to a server and no more, and each tab holds two.
    """
    opened: list[tuple[Any, Tab]] = []  # with the window of its own

    def new(**options: Any) -> Tab:
        own = chromium.new_context(**{"viewport": VIEWPORT, **options}) if options or opened else None
        opened.append((own, Tab(own or window, page.url)))
        return opened[-1][1]

    yield new
    for own, tab in opened:
        if own:
            own.close()
        else:
            tab.leave()
        assert not tab.complaints


@pytest.fixture
def tab(tabs: Callable[..., Tab]) -> Tab:
    return tabs()


@pytest.fixture
def pace(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """Each step of an edit takes `pace.seconds` more, asleep: what is to be cancelled is not done before."""
    pace, check = SimpleNamespace(seconds=0.0), Reporter.check

    def rested(self: Reporter) -> None:
        time.sleep(pace.seconds)
        check(self)

    monkeypatch.setattr(Reporter, "check", rested)
    return pace


@pytest.fixture
def pictures(tmp_path: Path) -> dict[str, Path]:
    made = {"photo": photo(96, 64), "reference": photo(64, 80, seed=1), "other": photo(72, 72, seed=2)}
    for name, picture in made.items():
        picture.save(tmp_path / f"{name}.png")
    return {name: tmp_path / f"{name}.png" for name in made}
