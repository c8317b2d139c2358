"""Pictures of the toybox in a grid, each with its caption beneath."""

from __future__ import annotations

from PIL import Image, ImageDraw, ImageFont

from layerdiffusion.miniature.world import draw


def contact_sheet(seeds=range(24), columns: int = 6, side: int = 192) -> Image.Image:
    """Scenes with their captions beneath, `columns` to a row, drawn at `side` pixels."""
    scenes = [draw(seed, side=side) for seed in seeds]
    return label_grid([scene.image for scene in scenes], [scene.caption for scene in scenes], columns)


def label_grid(images: list[Image.Image], labels: list[str], columns: int = 6) -> Image.Image:
    """Equal pictures in a grid, each with a line of text beneath, folded to its width."""
    font = ImageFont.load_default(size=12)
    width, height = images[0].size
    rows = -(-len(images) // columns)
    sheet = Image.new("RGB", (columns * (width + 6), rows * (height + 36)), "white")
    pen = ImageDraw.Draw(sheet)
    for i, (image, label) in enumerate(zip(images, labels, strict=True)):
        x, y = (i % columns) * (width + 6), (i // columns) * (height + 36)
        sheet.paste(image, (x, y))
        lines, line = [], ""
        for word in label.split():
            if line and font.getlength(f"{line} {word}") > width:
                lines.append(line)
                line = ""
            line = f"{line} {word}".strip()
        pen.multiline_text((x + 2, y + height + 2), "\n".join([*lines, line][:2]), fill="black", font=font, spacing=1)
    return sheet
