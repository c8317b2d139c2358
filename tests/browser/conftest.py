"""Chromium, and tabs in it whose console must stay clean."""

import base64
import mimetypes
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from serving import Served, photo, save_page_model, served

from layerdiffusion.ui import examples

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
REQUIRED = os.environ.get("LAYERDIFFUSION_REQUIRE_BROWSER") == "1" or os.environ.get("CI") == "true"
ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]


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
    from layerdiffusion.models import load_models

    folder = save_page_model(tmp_path_factory.mktemp("page-model"))
    before, examples.FOLDER = examples.FOLDER, tmp_path_factory.mktemp("examples")
    editor = Editor(load_models(folder, "cpu", "float32"))
    for wish in examples.WISHES:
        if wish.name in ("lie-down", "to-the-snow"):
            examples.make(wish, editor, examples.FOLDER)
    with served(folder) as page:
        assert page.device.editor
        yield page
    examples.FOLDER = before


class Tab:
    """A tab, and what a person does in it."""

    def __init__(self, context: Any, url: str) -> None:
        self.complaints: list[str] = []
        self.page = context.new_page()
        self.page.on("console", self._heard)
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.set_default_timeout(20_000)
        self.url = url
        self.open()

    def _heard(self, message: Any) -> None:
        if message.type in ("error", "warning"):
            self.complaints.append(message.text)

    def open(self) -> None:
        self.page.goto(self.url)
        self.page.wait_for_selector("#photo-board canvas")
        self.page.wait_for_selector(".ld-badge.ld-good")

    def upload(self, button: str, path: Path) -> None:
        self.page.set_input_files(f"input[type=file]:has(+ #{button})", path)

    def drop(self, path: Path, onto: str = "#work") -> None:
        """Let a file fall on the page, as a person's mouse does."""
        content = base64.b64encode(path.read_bytes()).decode()
        parcel = self.page.evaluate_handle(
            """([name, content, type]) => {
              const bytes = Uint8Array.from(atob(content), (letter) => letter.charCodeAt(0));
              const parcel = new DataTransfer();
              parcel.items.add(new File([bytes], name, { type }));
              return parcel;
            }""",
            [path.name, content, mimetypes.guess_type(path)[0]],
        )
        for event in ("dragover", "drop"):
            self.page.dispatch_event(onto, event, {"dataTransfer": parcel})

    def data(self, board: str) -> SimpleNamespace:
        values = self.page.eval_on_selector(f"#{board} [data-version]", "element => ({...element.dataset})")
        return SimpleNamespace(**{name: int(value or 0) for name, value in values.items()})

    def wait(self, board: str, condition: str) -> None:
        """Until `condition` holds of the board's data, as in `data.points == 1`."""
        self.page.wait_for_function(
            f"() => {{ const data = document.querySelector('#{board} [data-version]').dataset; return {condition}; }}"
        )

    def at(self, board: str, across: float, down: float) -> tuple[float, float]:
        """The screen's place of a share of the board's stage."""
        self.page.locator(f"#{board} .ld-stage").scroll_into_view_if_needed()
        box = self.page.locator(f"#{board} .ld-stage").bounding_box()
        return box["x"] + box["width"] * across, box["y"] + box["height"] * down

    def brush(self, board: str, *path: tuple[float, float], tool: str = "brush", size: float = 12) -> None:
        version = self.data(board).version
        self.page.click(f"#{board} [data-tool={tool}]")
        self.page.eval_on_selector(f"#{board} .ld-brush input", f"input => input.value = {size}")
        self.page.mouse.move(*self.at(board, *path[0]))
        self.page.mouse.down()
        for place in path[1:]:
            self.page.mouse.move(*self.at(board, *place), steps=4)
        self.page.mouse.up()
        self.wait(board, f"data.version > {version}")

    def say(self, words: str) -> None:
        self.page.fill("#prompt textarea", words)
        self.page.wait_for_function(
            "() => document.querySelector('#object-prompt textarea, #object-prompt input').value"
        )

    def field(self, name: str) -> Any:
        return self.page.locator(f"#{name} textarea, #{name} input[type=number], #{name} input[type=text]").first

    def dial(self, name: str, value: object) -> None:
        self.field(f"dial-{name}").fill(str(value))
        self.field(f"dial-{name}").press("Tab")

    def ready(self, words: str = "") -> None:
        """Until the page says that Run can be pressed, in these words."""
        self.page.wait_for_function(f"() => document.querySelector('#plan .ld-ready')?.innerText.includes({words!r})")

    def missing(self, words: str) -> None:
        """Until the page says what is to be done first."""
        self.page.wait_for_function(f"() => document.querySelector('#plan')?.innerText.includes({words!r})")

    def done(self) -> None:
        self.page.wait_for_function("() => document.querySelector('#progress')?.innerText.startsWith('Done')")
        self.page.wait_for_selector("#run:visible")

    def toast(self) -> str:
        return self.page.wait_for_selector(".toast-body").inner_text()


@pytest.fixture
def tabs(chromium: Any, page: Served) -> Iterator[Callable[..., Tab]]:
    """Opens tabs, each of its own user; at the end nothing may have been said on their consoles."""
    opened: list[tuple[Any, Tab]] = []

    def new(**context: Any) -> Tab:
        own = chromium.new_context(**{"viewport": {"width": 1440, "height": 900}, **context})
        opened.append((own, Tab(own, page.url)))
        return opened[-1][1]

    yield new
    for context, tab in opened:
        context.close()
        assert not tab.complaints


@pytest.fixture
def tab(tabs: Callable[..., Tab]) -> Tab:
    return tabs()


@pytest.fixture
def pictures(tmp_path: Path) -> dict[str, Path]:
    made = {"photo": photo(96, 64), "reference": photo(64, 80, seed=1), "other": photo(72, 72, seed=2)}
    for name, picture in made.items():
        picture.save(tmp_path / f"{name}.png")
    return {name: tmp_path / f"{name}.png" for name in made}
