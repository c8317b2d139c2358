"""Pieces of HTML, pictures as data URLs, and the page's scripts and styles."""

import base64
import html
import io
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import cv2
import gradio as gr
import numpy as np
from PIL import Image

from layerdiffusion.images.masks import cut_out

THUMBNAIL = 96
HOTTEST = 0.25  # of the full range: changes beyond it look the same


def escape(text: object) -> str:
    return html.escape(str(text), quote=True)


def heading(number: int, title: str, hint: str) -> gr.HTML:
    """A card's title with its place in the order of work."""
    mark = f'<span class="ld-number">{number}</span>'
    return gr.HTML(f'<h2>{mark}{title}</h2><p class="ld-hint">{hint}</p>', elem_classes=["ld-heading"])


def picture_gallery(label: str, **names: Any) -> gr.Gallery:
    """Pictures side by side, to be clicked and not opened; how many in a row, `page.css` says."""
    return gr.Gallery(
        label=label,
        show_label=False,
        height="auto",
        object_fit="contain",
        format="png",
        allow_preview=False,
        interactive=False,
        buttons=[],
        **names,
    )


def picture_url(image: Image.Image, quality: int = 92) -> str:
    """The picture as a data URL: PNG where it is small, so that a toy stays exact, else JPEG."""
    exact = image.mode != "RGB" or max(image.size) <= 512
    buffer = io.BytesIO()
    image.save(buffer, "PNG") if exact else image.save(buffer, "JPEG", quality=quality)
    return f"data:image/{'png' if exact else 'jpeg'};base64,{base64.b64encode(buffer.getvalue()).decode()}"


def thumbnail_url(image: Image.Image) -> str:
    """The picture, small, as a data URL."""
    small = image.convert("RGB")
    small.thumbnail((THUMBNAIL, THUMBNAIL), Image.Resampling.LANCZOS)
    return picture_url(small)


def heat_map(image: Image.Image, change: np.ndarray) -> Image.Image:
    """The picture in dark grey, under colours from black to yellow where `change`, float (H, W), is 0 … `HOTTEST`; what
    is NaN there stays grey."""
    levels = np.nan_to_num(np.clip(change / HOTTEST, 0, 1) * 255).astype(np.uint8)
    colours = cv2.cvtColor(cv2.applyColorMap(levels, cv2.COLORMAP_INFERNO), cv2.COLOR_BGR2RGB)
    grey = np.asarray(image.convert("L").convert("RGB")) // 2
    return Image.fromarray(np.where(np.isnan(change)[..., None], grey, colours))


def mask_url(mask: np.ndarray) -> str:
    """The mask as a picture that is opaque where it is True."""
    alpha = Image.fromarray(np.where(mask, 255, 0).astype(np.uint8))
    return picture_url(Image.merge("LA", (Image.new("L", alpha.size, 255), alpha)))


def cutout_url(image: Image.Image, mask: np.ndarray) -> str:
    """The picture where the mask is True, transparent elsewhere."""
    return picture_url(cut_out(image, mask))


def duration(seconds: float) -> str:
    """ "8 s", "2 min 5 s": as people say it."""
    seconds = max(0, round(seconds))
    if seconds < 60:
        return f"{seconds} s"
    minutes, rest = divmod(seconds, 60)
    return f"{minutes} min" if minutes >= 10 or not rest else f"{minutes} min {rest} s"


def loss_curve(losses: Sequence[float], steps: int, width: int = 320, height: int = 72) -> str:
    """A small plot of the losses so far, lightly smoothed: single ones depend on their timestep."""
    if len(losses) < 2:
        return f'<svg viewBox="0 0 {width} {height}" class="ld-curve" aria-hidden="true"></svg>'
    values = np.asarray(losses, float)
    window = max(1, min(len(values) // 4, 25))
    padded = np.concatenate([np.full(window - 1, values[0]), values])
    smooth = np.convolve(padded, np.ones(window) / window, "valid")
    low, high = float(smooth.min()), float(smooth.max())
    chosen = np.unique(np.linspace(0, len(smooth) - 1, 160).astype(int))
    across = (chosen + 1) / max(steps, len(values)) * width
    down = height - 6 - (smooth[chosen] - low) / ((high - low) or 1) * (height - 12)
    line = " ".join(f"{x:.1f},{y:.1f}" for x, y in zip(across, down, strict=True))
    return (
        f'<svg viewBox="0 0 {width} {height}" class="ld-curve" role="img" '
        f'aria-label="Loss, now {smooth[-1]:.3f}"><polyline points="{line}"/></svg>'
    )


FOLDER = Path(__file__).parents[1] / "static"


@cache
def static_text(*names: str) -> str:
    """The files' text, one after the other."""
    return "".join((FOLDER / name).read_text(encoding="utf-8") for name in names)
