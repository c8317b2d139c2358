"""The page: layout and events put together, and its launch."""

import logging
import os
import warnings
from importlib import metadata
from types import SimpleNamespace
from typing import Any

import gradio as gr

from layerdiffusion.images.io import MAX_BYTES
from layerdiffusion.ui import api
from layerdiffusion.ui.backend import Device
from layerdiffusion.ui.errors import friendly
from layerdiffusion.ui.handlers import compare as compare_events
from layerdiffusion.ui.handlers import layers as layer_events
from layerdiffusion.ui.handlers import results as result_events
from layerdiffusion.ui.handlers import run as run_events
from layerdiffusion.ui.handlers.layers import dial_values
from layerdiffusion.ui.layout import build
from layerdiffusion.ui.options import Options
from layerdiffusion.ui.spaces import on_zero_gpu
from layerdiffusion.ui.theme import theme
from layerdiffusion.ui.widgets.board import static_text
from layerdiffusion.ui.widgets.drawing import escape

TITLE = "LayerDiffusion"
CLEAN_EVERY, KEEP_FILES = 600, 7200  # seconds: how often Gradio's copies are looked through, and how long they last
log = logging.getLogger(__name__)


def build_page(device: Device) -> gr.Blocks:
    """The whole page, its events and its API."""
    defaults = device.defaults()
    clean = (CLEAN_EVERY, KEEP_FILES)
    with gr.Blocks(title=TITLE, fill_width=True, analytics_enabled=False, delete_cache=clean) as blocks:
        page = build(defaults)
        layer_events.connect(page, device)
        run_events.connect(page, device)
        result_events.connect(page, device)
        compare_events.connect(page, device)
        api.connect(device)
        _connect_badge(page, device, defaults)
    if device.options.study:
        from layerdiffusion.evaluation.study import Study
        from layerdiffusion.ui.study import add_study

        add_study(blocks, Study(device.options.study))
    return blocks.queue(max_size=device.options.max_users, default_concurrency_limit=4)


def _connect_badge(page: SimpleNamespace, device: Device, shown: Any) -> None:
    """The badge says what the model is; when it has come, the dials take its defaults."""

    def tick() -> tuple[Any, ...]:
        dials = [gr.skip()] * len(page.dials)
        if not device.loading and device.ready and device.defaults() != shown:
            dials = dial_values(device.defaults())
        return badge(device), gr.Timer(active=device.loading), *dials

    page.timer.tick(
        friendly(tick),
        None,
        [page.badge, page.timer, *page.dials],
        show_progress="hidden",
        api_visibility="private",
        queue=False,
    ).then(**page.refresh)


def badge(device: Device) -> str:
    """Which model is loaded, where it runs, and what it knows."""
    if device.loading:
        return _badge("wait", "Loading the model …", "The page can be used already.")
    try:
        models = device.editor.models
    except Exception as error:
        return _badge("bad", "No model", str(error))
    where = {"cuda": "GPU", "cpu": "CPU", "mps": "Apple GPU"}.get(models.device.type, models.device.type)
    if device.is_miniature:
        knows = "toy animals and vehicles in eight painted places"
        return _badge("good", f"Toybox miniature · {where}", models.notice or f"It knows {knows}.")
    name = models.name.rstrip("/").rsplit("/", 1)[-1]
    return _badge("good", f"{name} · {where}", models.notice or f"{models.size} × {models.size} pixels.")


def _badge(kind: str, name: str, note: str) -> str:
    return (
        f'<div class="ld-badge ld-{kind}" role="status" title="{escape(note)}"><i></i><b>{escape(name)}</b>'
        f"<span>{escape(note)}</span></div>"
    )


def launch(options: Options) -> None:
    """Open the page and keep it open; the models load once it can be seen."""
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", category=UserWarning, module="gradio")
    device = Device(options)
    if on_zero_gpu():
        device.start()
    blocks = build_page(device)
    blocks.launch(**launch_arguments(options), prevent_thread_lock=True)
    if not on_zero_gpu():
        device.start()
    blocks.block_thread()


def launch_arguments(options: Options) -> dict[str, Any]:
    """What Gradio 6 takes at launch: the looks, the limits, and who may come in."""
    return {
        "server_name": options.host,
        "server_port": options.port,
        "share": options.share,
        "auth": [options.auth] if options.auth else None,
        "theme": theme(),
        "css": static_text("page.css"),
        "head": f"<script>{static_text('page.js')}</script>",
        "max_file_size": MAX_BYTES,
        "footer_links": ["api"],
        "show_error": False,
        "ssr_mode": False,
        "mcp_server": _mcp(),
        "quiet": False,
    }


def _mcp() -> bool:
    """Whether Gradio's MCP extra is installed, in a version that this Gradio takes."""
    from packaging.requirements import Requirement

    try:
        installed = metadata.version("mcp")
    except metadata.PackageNotFoundError:
        return False
    wanted = (Requirement(line) for line in metadata.requires("gradio") or [])
    return all(installed in requirement.specifier for requirement in wanted if requirement.name == "mcp")
