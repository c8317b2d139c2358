"""A tab of the browser, as a person uses it."""

import base64
import mimetypes
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

LEFT = "about:blank"  # where a tab is that nobody uses


class Tab:
    """A tab, and what a person does in it."""

    def __init__(self, context: Any, url: str) -> None:
        self._context = context
        self.complaints: list[str] = []
        self._listens = False
        left = [page for page in context.pages if page.url == LEFT]
        self.page = left[0] if left else context.new_page()
        self._viewport = self.page.viewport_size
        self.page.set_default_timeout(60_000)
        self.url = url
        self.open()

    def _heard(self, message: Any) -> None:
        if message.type in ("error", "warning"):
            self.complaints.append(message.text)

    def _failed(self, error: Any) -> None:
        self.complaints.append(str(error))

    def leave(self) -> None:
        """Its session ends as that of a closed tab does; the tab is there for the next person."""
        if self.page.is_closed():  # what it left in the browser is still there
            self.page, self._listens = self._context.new_page(), False
            self.page.goto(f"{self.url}theme.css")
        self._listen(False)
        self.page.evaluate("() => localStorage.removeItem('layerdiffusion-edits')")
        self.page.goto(LEFT)
        self.page.set_viewport_size(self._viewport)

    def _listen(self, listen: bool) -> None:
        if listen != self._listens:
            change = self.page.on if listen else self.page.remove_listener
            change("console", self._heard)
            change("pageerror", self._failed)
        self._listens = listen

    def goto(self) -> None:
        """Open the address. A page that is left ends its requests, and what it says of that is nobody's complaint."""
        self._listen(False)
        self.page.goto(self.url, wait_until="commit")
        self._listen(True)

    def open(self) -> None:
        self.goto()
        self.page.wait_for_selector("#photo-board canvas")
        self.page.wait_for_selector(".ld-badge.ld-good")
        self.page.wait_for_selector("#plan p")

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
        self.seen(
            f"() => {{ const data = document.querySelector('#{board} [data-version]').dataset; return {condition}; }}"
        )

    def seen(self, condition: str, timeout: float = 60_000) -> None:
        """Until it holds in the page; asked ten times a second, not for each picture of the screen."""
        self.page.wait_for_function(condition, polling=100, timeout=timeout)

    def until(self, holds: Callable[[], bool]) -> None:
        """Until it holds in the server, which is in this process."""
        for _ in range(1200):
            if holds():
                return
            self.page.wait_for_timeout(50)
        raise AssertionError("it never holds")

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
        self.seen("() => document.querySelector('#object-prompt textarea, #object-prompt input').value")

    def begin(self, picture: Path, words: str = "a dog jumping on ice") -> None:
        """A photo with its subject brushed in, and the words."""
        self.upload("photo-upload", picture)
        self.page.wait_for_selector("#photo-board .ld-has-picture")
        self.brush("photo-board", (0.35, 0.45), (0.65, 0.55))
        self.wait("photo-board", "Number(data.area) > 0")
        self.say(words)
        self.ready()

    def field(self, name: str) -> Any:
        return self.page.locator(f"#{name} textarea, #{name} input[type=number], #{name} input[type=text]").first

    def shows(self, name: str, value: str) -> None:
        """Until the field has this value."""
        self.seen(f"() => document.querySelector('#{name} textarea, #{name} input')?.value === {value!r}")

    def dial(self, name: str, value: object) -> None:
        self.field(f"dial-{name}").fill(str(value))
        self.field(f"dial-{name}").press("Tab")

    def ready(self, words: str = "") -> None:
        """Until the page says that Run can be pressed, in these words."""
        self.seen(f"() => document.querySelector('#plan .ld-ready')?.innerText.includes({words!r})")

    def missing(self, words: str) -> None:
        """Until the page says what is to be done first."""
        self.seen(f"() => document.querySelector('#plan')?.innerText.includes({words!r})")

    def done(self) -> None:
        self.seen("() => document.querySelector('#progress')?.innerText.startsWith('Done')")
        self.page.wait_for_selector("#run:visible")

    def packed(self) -> bytes:
        """The zip file that can be taken home."""
        with self.page.expect_download() as download:
            self.page.click("#zip")
        return Path(download.value.path()).read_bytes()

    def toast(self) -> str:
        return self.page.wait_for_selector(".toast-body").inner_text()
