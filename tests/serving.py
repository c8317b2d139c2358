"""The page on a random model with everything it uses (SAM and CLIP too), served in this process."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from tiny import save_tiny_clip, save_tiny_model

from layerdiffusion.models.sam import SamConfig, build_sam, save_sam
from layerdiffusion.ui.backend import Backend
from layerdiffusion.ui.launch import build_page, launch_arguments
from layerdiffusion.ui.options import PageOptions
from layerdiffusion.ui.session import Session
from layerdiffusion.ui.spaces import on_zero_gpu

SAM = SamConfig(
    image_size=64,
    patch_size=8,
    embed_dim=16,
    depth=1,
    num_heads=2,
    window_size=0,
    global_attn_indexes=(0,),
    out_chans=16,
    mask_in_chans=8,
    decoder_num_heads=2,
    decoder_mlp_dim=32,
    iou_head_hidden_dim=16,
)
SETTINGS = '{"embedding_steps": 2, "finetune_steps": 2, "sampling_steps": 3, "seeds": [0, 1]}'

# How many events Gradio counts before it makes a table of all of them anew: by default one.
os.environ.setdefault("GRADIO_ANALYTICS_CACHE_FREQUENCY", "1000")


@dataclass
class Served:
    url: str
    backend: Backend
    blocks: Any

    def session(self, size: tuple[int, int]) -> Session:
        """The one whose photo has this size."""
        tabs = self.blocks.app.state_holder.session_data.values()
        states = [state for tab in tabs for state in tab.state_data.values() if isinstance(state, Session)]
        return next(state for state in states if state.photo.image is not None and state.photo.image.size == size)


def save_page_model(folder: Path, save: Callable[[Path], Path] = save_tiny_model, settings: str = SETTINGS) -> Path:
    """Write a random model as `save` does, and beside it a SAM, a CLIP and its own settings."""
    save_tiny_clip(save(folder))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        save_sam(build_sam(SAM), SAM, folder / "sam")
    (folder / "settings.json").write_text(settings, encoding="utf-8")
    return folder


@contextmanager
def served(folder: Path, **options: Any) -> Iterator[Served]:
    """The page, open to requests, its model loaded as the page does it: in the background, after it has opened.

    On ZeroGPU before, as `launch` has it. Without `no_example=False` it opens empty.
    """
    given = {
        "model": str(folder),
        "host": "127.0.0.1",
        "port": free_port(),
        "offline": True,
        "no_example": True,
        **options,
    }
    options = PageOptions(**given)
    backend = Backend(options)
    if on_zero_gpu():
        backend.start()
    blocks = build_page(backend)
    _, url, _ = blocks.launch(**{**launch_arguments(options), "quiet": True}, prevent_thread_lock=True)
    if not on_zero_gpu():
        backend.start()
    for thread in threading.enumerate():
        if thread.name == "load-models":  # a test that builds a network meanwhile would get the libraries' patches
            thread.join(120)
    try:
        yield Served(url, backend, blocks)
    finally:
        blocks.close()


def free_port() -> int:
    """Gradio looks for one itself, but two workers that look at once both take the same."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def photo(width: int, height: int, seed: int = 0) -> Image.Image:
    """A picture whose every pixel differs from its neighbours, with a plain subject in the middle."""
    pixels = np.random.default_rng(seed).integers(60, 200, (height, width, 3), dtype=np.uint8)
    pixels[height // 4 : -height // 4, width // 4 : -width // 4] = (200, 60, 40)
    return Image.fromarray(pixels)
