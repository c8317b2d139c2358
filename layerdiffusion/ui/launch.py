"""The page put together with its events, its colours, and its launch."""

import asyncio
import logging
import math
import os
import re
import time
import warnings
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib import metadata
from typing import Any

import gradio as gr
from packaging.requirements import Requirement
from starlette.datastructures import Headers, MutableHeaders
from starlette.middleware import Middleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from layerdiffusion.images.io import MAX_BYTES
from layerdiffusion.ui import api
from layerdiffusion.ui.backend import Backend
from layerdiffusion.ui.handlers import boards, dials, jobs, model, opening, plan, results
from layerdiffusion.ui.options import PageOptions
from layerdiffusion.ui.page import page_of
from layerdiffusion.ui.spaces import on_zero_gpu
from layerdiffusion.ui.widgets.drawing import static_text

ACCENT = gr.themes.Color(
    name="iris",
    c50="#f3f2ff", c100="#e8e5ff", c200="#d3cdff", c300="#b4a9ff", c400="#9180fb", c500="#7358f0",
    c600="#5f3fdc", c700="#4f31b8", c800="#412a94", c900="#372677", c950="#21154d",
)  # fmt: skip
INK = gr.themes.Color(
    name="ink",
    c50="#f7f7fa", c100="#eeeef3", c200="#dfdfe8", c300="#c6c6d4", c400="#9898ac", c500="#6f6f86",
    c600="#555569", c700="#3e3e50", c800="#272735", c900="#1a1a26", c950="#101018",
)  # fmt: skip


def theme() -> gr.themes.Base:
    return gr.themes.Base(
        primary_hue=ACCENT,
        secondary_hue=ACCENT,
        neutral_hue=INK,
        radius_size=gr.themes.sizes.radius_md,
        spacing_size=gr.themes.sizes.spacing_md,
        text_size=gr.themes.sizes.text_md,
        # Gradio's own copy; of its semi-bold, most letters are missing, so that bold stands in for it.
        font=[gr.themes.LocalFont("IBM Plex Sans", weights=(400, 700)), "system-ui", "sans-serif"],
        font_mono=["ui-monospace", "monospace"],
    ).set(
        body_background_fill="*neutral_50",
        body_background_fill_dark="*neutral_950",
        background_fill_primary_dark="*neutral_900",
        block_background_fill="transparent",
        block_background_fill_dark="transparent",
        block_border_width="0px",
        block_shadow="none",
        block_label_background_fill="transparent",
        block_label_background_fill_dark="transparent",
        block_title_text_weight="600",
        block_title_text_size="*text_sm",
        body_text_color_subdued="*neutral_600",
        body_text_color_subdued_dark="*neutral_400",
        block_info_text_size="*text_xs",
        block_info_text_color="*neutral_600",
        block_info_text_color_dark="*neutral_400",
        block_padding="0px",
        panel_background_fill="transparent",
        input_background_fill="white",
        input_background_fill_dark="*neutral_900",
        input_border_width="1px",
        input_border_color="*neutral_300",
        input_border_color_dark="*neutral_700",
        button_primary_background_fill="*primary_600",
        button_primary_background_fill_hover="*primary_700",
        button_primary_background_fill_dark="*primary_500",
        button_primary_background_fill_hover_dark="*primary_600",
        button_primary_text_color="white",
        slider_color="*primary_500",
    )


LOOKS = 20  # in the time after which a tab is forgotten
PATIENCE = {"/queue/join": 4.0, "/call/": 60.0}  # seconds until a call is listened to: a program's, one typed by hand
LOOK = 0.5  # seconds between two looks at the calls
_LISTENS = re.compile(r"/heartbeat/([^/?]+)|/queue/data\?(?:.*&)?session_hash=([^&]+)|/call/[^?]+/([^/?]+)")


class OpenTabs:
    """Which sessions have their tab open; forgets the others `keep_seconds` after they were last seen.

    And ends the calls that nobody listens to. Gradio ends the calls of those whom it sees leave; whoever sends a call
    and is gone before they listen to its answer was never there to be seen. Gradio counts a `gr.State`'s time from
    when it was last an output, which the session never is, and doesn't know when a tab comes back after a break in its
    connection. Open tabs are known by requests that end with them: their heartbeat, and the answers they listen to.
    """

    def __init__(self, keep_seconds: float) -> None:
        self.keep_seconds = keep_seconds
        self._open: Counter[str] = Counter()  # requests by session, or by call where there is no session
        self._seen: dict[str, tuple[Any, float]] = {}  # session: Gradio's time of its last event, when that was noted

    def middleware(self, app: Any) -> Any:
        """Counts the requests that end with their tab."""

        async def watched(scope: Any, receive: Any, send: Any) -> None:
            asked = f"{scope.get('path', '')}?{scope.get('query_string', b'').decode('latin-1')}"
            listens = _LISTENS.search(asked) if scope.get("method") == "GET" else None
            session = next(filter(None, listens.groups())) if listens else ""
            self._open[session] += 1
            try:
                await app(scope, receive, send)
            finally:
                self._open[session] -= 1
                if not self._open[session]:
                    del self._open[session]

        return watched

    @asynccontextmanager
    async def lifespan(self, app: Any) -> AsyncIterator[None]:
        """Forget on time for as long as the server runs."""

        async def sweep() -> None:
            while True:
                await asyncio.sleep(self.keep_seconds / LOOKS)
                self.forget_closed(app.state_holder, time.monotonic())

        async def listen() -> None:
            while True:
                await asyncio.sleep(LOOK)
                await self.end_unheard(app.get_blocks()._queue, time.monotonic())

        tasks = [asyncio.create_task(task()) for task in (sweep, listen)]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()

    async def end_unheard(self, queue: Any, now: float) -> None:
        """End the calls in Gradio's `queue` that nobody has listened to for too long; `now` in seconds."""
        waiting = [event for line in queue.event_queue_per_concurrency_id.values() for event in line.queue]
        for event in [*waiting, *(event for job in queue.active_jobs for event in job or ())]:
            patience = next((PATIENCE[way] for way in PATIENCE if way in event.request.url.path), math.inf)
            if event.session_hash not in self._open and now - event.enqueue_time > patience:
                await queue.clean_events(session_hash=event.session_hash)

    def forget_closed(self, holder: Any, now: float) -> None:
        """Drop the sessions of Gradio's `StateHolder` whose time has come; `now` in seconds."""
        for session in list(holder.session_data):
            last_event = holder.time_last_used.get(session)
            before, noted = self._seen.get(session, (None, now))
            if session in self._open or last_event != before:
                self._seen[session] = last_event, now
            elif now - noted > self.keep_seconds:
                with holder.lock:
                    holder.session_data.pop(session, None)
                    holder.time_last_used.pop(session, None)
        self._seen = {session: seen for session, seen in self._seen.items() if session in holder.session_data}


class FirstScript:
    """Puts a script before all others of the page: Gradio's `head` comes after Gradio's own listeners."""

    def __init__(self, app: ASGIApp, script: str) -> None:
        self.app, self.script = app, f"<head><script>{script}</script>".encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        start: Message | None = None

        async def sent(message: Message) -> None:
            nonlocal start
            if message["type"] == "http.response.start":
                if Headers(raw=message["headers"]).get("content-type", "").startswith("text/html"):
                    start = message  # its length is known once the page is
                    return
            elif start:
                message["body"] = message["body"].replace(b"<head>", self.script, 1)
                MutableHeaders(raw=start["headers"])["content-length"] = str(len(message["body"]))
                await send(start)
                start = None
            await send(message)

        await self.app(scope, receive, sent)


TITLE = "LayerDiffusion"
SWEEPS = 10  # of Gradio's copies of pictures, in the time that they may last
PRIVACY = (
    '<p class="ld-hint">What stays here: your pictures, in memory and as temporary files, until {} minutes after you '
    "close this tab; what the stages made of them, in memory, until newer edits need the room. Nothing else.</p>"
)


def build_page(backend: Backend) -> gr.Blocks:
    """The whole page, its events and its API."""
    defaults = backend.opening()
    keep = 60 * backend.options.keep_minutes
    clean = (keep // SWEEPS, keep - keep // SWEEPS)  # so that none is ever older than `keep`
    with gr.Blocks(title=TITLE, fill_width=True, analytics_enabled=False, delete_cache=clean) as blocks:
        page = page_of(defaults, backend.may_download)
        refresh = plan.refresh_event(page, backend)
        for connect in (boards.connect, jobs.connect, results.connect):
            connect(page, backend, refresh)
        dials.connect(page, backend, refresh, blocks)
        opening.connect(page, backend, refresh, blocks)
        model.connect(page, backend, refresh, defaults)
        api.connect(backend)
        gr.HTML(PRIVACY.format(backend.options.keep_minutes), elem_id="privacy")
    return jobs.limit_waiting(blocks.queue(default_concurrency_limit=4), backend.options.max_users)


def launch(options: PageOptions) -> None:
    """Open the page and keep it open; the models load once it can be seen."""
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", category=UserWarning, module="gradio")
    backend = Backend(options)
    if on_zero_gpu():
        backend.start()
    blocks = build_page(backend)
    blocks.launch(**launch_arguments(options), prevent_thread_lock=True)
    if not on_zero_gpu():
        backend.start()
    blocks.block_thread()


def launch_arguments(options: PageOptions, tabs: OpenTabs | None = None) -> dict[str, Any]:
    """What Gradio 6 takes at launch: the looks, the limits, and who may come in."""
    tabs = tabs or OpenTabs(60 * options.keep_minutes)
    return {
        "server_name": options.host,
        "server_port": options.port,
        "share": options.share,
        "auth": [options.auth] if options.auth else None,
        "theme": theme(),
        "css": static_text("page.css"),
        "max_file_size": MAX_BYTES,
        "footer_links": ["api"],
        "show_error": False,
        "ssr_mode": False,
        "root_path": options.root_path,
        "run_history": False,  # a call by itself can't be run again: the work is in the session, and its pictures
        "mcp_server": _mcp(),
        "quiet": False,
        "app_kwargs": {
            "middleware": [Middleware(tabs.middleware), Middleware(FirstScript, static_text("page.js"))],
            "lifespan": tabs.lifespan,
        },
    }


def _mcp() -> bool:
    """Whether Gradio's MCP extra is installed, in a version that this Gradio takes."""
    try:
        installed = metadata.version("mcp")
    except metadata.PackageNotFoundError:
        return False
    wanted = (Requirement(line) for line in metadata.requires("gradio") or [])
    return all(installed in requirement.specifier for requirement in wanted if requirement.name == "mcp")
