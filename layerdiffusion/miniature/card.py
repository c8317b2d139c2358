"""The model card, made from data: the parts' `training.json`, the recorded figures, and pictures generated now."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader
from PIL import Image, ImageDraw, ImageFont

from layerdiffusion.errors import ModelError
from layerdiffusion.miniature.captions import join, phrase
from layerdiffusion.miniature.measures import curve, generate, guidance_of, load_pipeline, random_attributes, recorded
from layerdiffusion.miniature.outline import WHOLE
from layerdiffusion.miniature.parts import PARTS
from layerdiffusion.miniature.world import ANIMALS, HELD_OUT_SEEDS, MARKINGS, PAINTS, PLACES, POSES, SIDE, SIZES, draw

SAMPLES, LOSSES, CARD = "samples.webp", "losses.png", "README.md"
NOTES = "notes.json"  # what no program can measure: which samples a person finds not whole, and what was tried


def write(folder: Path, count: int = 24) -> Path:
    """Write `README.md` and its pictures to `folder`; for a part that isn't there yet the card says "missing"."""
    if not folder.is_dir():
        raise ModelError(f"There is no {folder} to describe; train the parts first, or give another --out.")
    facts = {name: _read(folder / part.folder / "training.json") for name, part in PARTS.items()}
    facts = {name: fact for name, fact in facts.items() if fact}
    figures = recorded(folder)
    if generates := (folder / "model_index.json").exists():
        samples(folder, count).save(folder / SAMPLES, quality=88, method=6)
    if facts:
        plot_losses({name: fact["losses"] for name, fact in facts.items()}, folder / LOSSES)
    templates = Environment(
        loader=FileSystemLoader(Path(__file__).parent), trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
    )
    text = templates.get_template("card.md.j2").render(
        animals=ANIMALS, paints=list(PAINTS)[1:], poses=POSES, sizes=SIZES, places=PLACES, markings=MARKINGS[1:],
        side=SIDE, whole_from=WHOLE, first=HELD_OUT_SEEDS, guidance=guidance_of(folder), notes=_read(folder / NOTES),
        count=count if generates else 0, samples=SAMPLES, losses=LOSSES, parts=_parts(folder, facts), facts=facts,
        curve=curve(folder), figures=figures, part_names=PARTS,
        missed=sum(not figure.reached for figure in figures if figure.value is not None),
        whole=next((figure for figure in figures if figure.name == "subject whole"), None),
    )  # fmt: skip
    (folder / CARD).write_text(text, encoding="utf-8")
    return folder / CARD


def _read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def samples(folder: Path, count: int = 24) -> Image.Image:
    """Pictures of seeds 0, 1, 2, … with their captions beneath, none left out."""
    wanted = random_attributes(count, False, 0)
    images = generate(load_pipeline(folder), wanted, 0, guidance_of(folder))
    # Enlarged, so that the captions fit beneath.
    large = [image.resize((192, 192), Image.Resampling.BICUBIC) for image in images]
    return label_grid(large, [join(*phrase(attributes)) for attributes in wanted])


def plot_losses(losses: dict[str, list], path: Path) -> None:
    """Write a small plot for each part: the loss, on a logarithmic scale, over minutes of training."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(3 * len(losses), 1.9), layout="constrained")
    plots = figure.subplots(1, len(losses), squeeze=False)[0]
    for axes, (name, points) in zip(plots, losses.items(), strict=True):
        axes.semilogy([seconds / 60 for _, seconds, _ in points], [loss for *_, loss in points])
        axes.set_title(name, fontsize="medium")
        axes.set_xlabel("minutes", fontsize="small")
        axes.tick_params(labelsize="small", which="both")
    figure.savefig(path)


def _parts(folder: Path, facts: dict[str, dict]) -> Iterator[tuple[str, ...]]:
    """The cells of the table of parts."""
    for name, part in PARTS.items():
        fact = facts.get(name)
        if fact is None and name == "decoder":
            continue  # it was never trained by itself: it is as the autoencoder's training left it
        files = [file for sub in (part.folder, *part.beside) for file in (folder / sub).rglob("*") if file.is_file()]
        size = f"{sum(file.stat().st_size for file in files) / 1e6:.1f} MB" if files else "missing"
        parameters = took = where = "–"
        if fact is not None:
            parameters = f"{fact['parameters'] / 1e6:.2f} M" if fact.get("parameters") else "–"
            took = (
                f"{fact['minutes']:g} min: {fact['steps']:,} steps of {fact['batch']}, {fact['pictures']:,} pictures "
                f"drawn from {fact['scenes']:,} scenes, seed {fact['seed']}"
            )
            where = fact["machine"] + (f", {fact['threads']} of them at most" if fact.get("threads") else "")
        yield f"{name} (`{part.folder}/`)", part.what, parameters, size, took, where


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
