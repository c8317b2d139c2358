"""A tab of the browser, as a person uses it."""

import base64
import mimetypes
from pathlib import Path
from types import SimpleNamespace
from typing import Any


class Tab:
    """A tab, and what a person does in it."""

    def __init__(self, context: Any, url: str) -> None:
        self.complaints: list[str] = []
        self.page = context.new_page()
        self.page.on("console", self._heard)
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.set_default_timeout(60_000)
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
