"""The pictures of a records folder as a page takes them: data URLs of webp, and sheets that show many at once."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from PIL import Image, ImageDraw, ImageFont

GREY = (216, 216, 224)  # where a picture is missing


class Embedded(NamedTuple):
    """A picture as a data URL, and its size in pixels."""

    url: str
    width: int
    height: int


class Album:
    """Pictures of one folder, at most `side` pixels long, saved with `quality`."""

    def __init__(self, folder: Path, side: int, quality: int) -> None:
        self.folder, self.side, self.quality = folder.resolve(), side, quality

    def picture(self, name: str | None) -> Image.Image | None:
        """The picture of a record, RGB; None where it is missing, no picture, or outside the folder."""
        path = (self.folder / (name or ".")).resolve()
        if not path.is_relative_to(self.folder):
            return None
        try:
            with Image.open(path) as picture:
                return picture.convert("RGB")
        except (OSError, Image.DecompressionBombError):
            return None

    def embedded(self, name: str | None) -> Embedded | None:
        """The picture as an element takes it; None where it is missing."""
        picture = self.picture(name)
        return None if picture is None else self.embed(fitted(picture, self.side))

    def embed(self, picture: Image.Image) -> Embedded:
        buffer = io.BytesIO()
        picture.save(buffer, "WEBP", quality=self.quality, method=4)
        data = base64.b64encode(buffer.getvalue()).decode()
        return Embedded(f"data:image/webp;base64,{data}", picture.width, picture.height)


def fitted(picture: Image.Image, side: int) -> Image.Image:
    """The picture with its longer side at most this long; never enlarged."""
    scale = side / max(picture.size)
    if scale >= 1:
        return picture
    return picture.resize([max(1, round(length * scale)) for length in picture.size], Image.Resampling.LANCZOS)


def sheet(
    rows: Sequence[tuple[str, Sequence[Image.Image | None]]], heads: Sequence[str], side: int, gap: int = 3
) -> Image.Image:
    """Rows of square cells beneath their names, the row's own words above it: a picture for where HTML isn't."""
    font, small = (ImageFont.load_default(size=size) for size in (max(11, side // 10), max(10, side // 11)))
    head, words = side // 6 + 6, side // 7 + 4 if any(text for text, _ in rows) else 0
    paper = Image.new("RGB", (len(heads) * (side + gap) + gap, head + len(rows) * (side + words + gap) + gap), "white")
    pen = ImageDraw.Draw(paper)
    for at, name in enumerate(heads):
        pen.text((gap + at * (side + gap) + side / 2, head / 2), name, fill="black", font=font, anchor="mm")
    for row, (text, pictures) in enumerate(rows):
        top = head + row * (side + words + gap)
        pen.text((gap + 2, top + words / 2), text, fill=(70, 70, 90), font=small, anchor="lm")
        for at, picture in enumerate(pictures):
            left = gap + at * (side + gap)
            cell = Image.new("RGB", (side, side), GREY)
            if picture is not None:
                shown = fitted(picture, side)
                cell.paste(shown, ((side - shown.width) // 2, (side - shown.height) // 2))
            paper.paste(cell, (left, top + words))
    return paper
