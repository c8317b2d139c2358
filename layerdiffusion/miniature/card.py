"""The model card, made from data: the parts' `training.json`, the recorded figures, and pictures painted now."""

from __future__ import annotations

import json
import math
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from layerdiffusion.errors import ModelError
from layerdiffusion.miniature.figures import recorded, rough_parts
from layerdiffusion.miniature.pictures import guidance_of, painter, wishes
from layerdiffusion.miniature.sheets import label_grid
from layerdiffusion.miniature.train import PARTS
from layerdiffusion.miniature.world import (
    ANIMALS,
    HELD_OUT_SEEDS,
    PAINTS,
    PLACES,
    POSES,
    SIDE,
    SIZES,
    join,
    phrase,
)

SAMPLES, CURVES, CARD = "samples.webp", "losses.png", "README.md"
NOTES = "notes.json"  # what no program can measure: which samples a person finds whole, and what was tried
WHAT = {
    "vae": "AutoencoderTiny: 128 × 128 pixels to 16 × 16 × 16 latents",
    "decoder": "the autoencoder's decoder, trained on: its latents stay what they are",
    "diffusion": "UNet2DConditionModel and CLIPTextModel, v-prediction",
    "judge": "a plain convolutional classifier",
    "sam": "`segment_anything`'s `Sam` with a small ViT",
    "clip": "`transformers.CLIPModel`, ViT and text transformer",
    "features": "a small convolutional network, by whose features KID is measured",
}


def write(folder: Path, count: int = 24) -> Path:
    """Write `README.md` and its pictures to `folder`; what isn't there yet is said to be missing."""
    if not folder.is_dir():
        raise ModelError(f"There is no {folder} to describe; train the parts first, or give another --out.")
    facts = {name: _facts(folder / part.folder / "training.json") for name, part in PARTS.items()}
    facts = {name: fact for name, fact in facts.items() if fact}
    figures, notes = recorded(folder), _facts(folder / NOTES) or {}
    painted = (folder / "model_index.json").exists()
    if painted:
        samples(folder, count).save(folder / SAMPLES, quality=88, method=6)
    if facts:
        curves({name: fact["losses"] for name, fact in facts.items()}).save(folder / CURVES, optimize=True)
    text = _text(folder, facts, figures, rough_parts(folder), notes, count if painted else 0)
    (folder / CARD).write_text(text, encoding="utf-8")
    return folder / CARD


def _facts(path: Path) -> dict | None:
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


def samples(folder: Path, count: int = 24) -> Image.Image:
    """Pictures of seeds 0, 1, 2, … with their captions beneath, none left out."""
    captions = [join(*phrase(attributes)) for attributes in wishes(count, False, 0)]
    paint = painter(folder)
    images = [
        image for i in range(0, count, 12) for image in paint(captions[i : i + 12], list(range(count))[i : i + 12])
    ]
    # Larger than they are, so that the captions fit beneath.
    large = [image.resize((192, 192), Image.Resampling.BICUBIC) for image in images]
    return label_grid(large, captions, 6)


def curves(losses: dict[str, list], width: int = 300, height: int = 190) -> Image.Image:
    """A small plot for each part: the loss, on a logarithmic scale, over minutes of training."""
    font = ImageFont.load_default(size=12)
    sheet = Image.new("RGB", (width * len(losses), height), "white")
    pen = ImageDraw.Draw(sheet)
    for at, (name, curve) in enumerate(losses.items()):
        left, right, top, bottom = at * width + 44, (at + 1) * width - 12, 26, height - 24
        pen.text((left, 6), name, fill="black", font=font)
        pen.rectangle((left, top, right, bottom), outline=(190, 190, 190))
        points = [(seconds / 60, math.log10(loss)) for _, seconds, loss in curve if loss > 0]
        if len(points) < 2:
            continue
        most = points[-1][0]
        low, high = min(y for _, y in points), max(y for _, y in points)
        span = max(high - low, 1e-6)
        line = [
            (left + (right - left) * x / most, bottom - 4 - (bottom - top - 8) * (y - low) / span) for x, y in points
        ]
        pen.line(line, fill=(30, 90, 200), width=2, joint="curve")
        for value, y in ((high, top), (low, bottom - 14)):
            pen.text((at * width + 4, y), f"{10**value:.3g}", fill=(90, 90, 90), font=font)
        pen.text((left, bottom + 4), "0", fill=(90, 90, 90), font=font)
        label = f"{most:.0f} min"
        pen.text((right - font.getlength(label), bottom + 4), label, fill=(90, 90, 90), font=font)
    return sheet


def _text(folder: Path, facts: dict, figures: list, rough: set[str], notes: dict, count: int) -> str:
    parts = [_HEAD.format(
        animals=", ".join(ANIMALS), paints=", ".join(PAINTS), poses=", ".join(POSES), sizes=", ".join(SIZES),
        places=", ".join(PLACES), side=SIDE, guidance=guidance_of(folder),
    )]  # fmt: skip
    if count:
        parts.append(f"## Samples\n\nSeeds 0 to {count - 1}, none left out, 50 DDIM steps.\n\n![samples]({SAMPLES})\n")
        parts.append(_by_eye(notes, count))
    parts.append("## Parts\n\n" + _parts_table(folder, facts))
    if facts:
        parts.append(f"![loss curves]({CURVES})\n\n" + _outlook(facts))
    parts.append("## Figures\n\n" + _figures_table(figures, rough))
    whole = next((f.formatted(f.value) for f in figures if f.name.startswith("subject whole: ") and f.value), "not all")
    parts.append(_TAIL.format(first=f"{HELD_OUT_SEEDS:,}", whole=whole, trials=_trials(notes)))
    return "\n".join(parts)


def _by_eye(notes: dict, count: int) -> str:
    """How many of the samples a person finds whole, and which not, counted from 0 along the rows."""
    if "not_whole" not in notes:
        return "Nobody has counted yet how many of them are whole.\n"
    broken = notes["not_whole"]
    which = f": not {', '.join(map(str, broken))}, counted from 0 along the rows" if broken else ""
    return f"By eye, {count - len(broken)} of the {count} subjects are whole{which}.\n"


def _trials(notes: dict) -> str:
    """What was compared, and what was not."""
    if not notes.get("trials") and not notes.get("not_tried"):
        return ""
    lines = ["## What was tried\n", "| | pictures | subject whole |", "|---|---|---|"]
    lines += [f"| {t['what']} | {t['pictures']} | {100 * t['whole']:.1f} % |" for t in notes.get("trials", [])]
    lines += [""] + [f"- {line}" for line in notes.get("not_tried", [])]
    return "\n".join(lines) + "\n\n"


def _parts_table(folder: Path, facts: dict) -> str:
    lines = [
        "| part | what it is | parameters | on disk | training | on |",
        "|---|---|---|---|---|---|",
    ]
    for name, part in PARTS.items():
        fact = facts.get(name)
        if fact is None and name == "decoder":
            continue  # nobody trained it on: it is as the autoencoder's training left it
        files = [file for sub in _FOLDERS[name] for file in (folder / sub).rglob("*") if file.is_file()]
        size = f"{sum(file.stat().st_size for file in files) / 1e6:.1f} MB" if files else "missing"
        if fact is None:
            lines.append(f"| {name} (`{part.folder}/`) | {WHAT[name]} | – | {size} | – | – |")
            continue
        parameters = f"{fact['parameters'] / 1e6:.2f} M" if fact.get("parameters") else "–"
        took = (
            f"{fact['minutes']:g} min: {fact['steps']:,} steps of {fact['batch']}, {fact['pictures']:,} pictures "
            f"drawn from {fact['scenes']:,} scenes, seed {fact['seed']}"
        )
        threads = f", {fact['threads']} of them at most" if fact.get("threads") else ""
        where = fact["machine"] + threads
        lines.append(f"| {name} (`{part.folder}/`) | {WHAT[name]} | {parameters} | {size} | {took} | {where} |")
    notes = [f"- {name}: {fact['note']}" for name, fact in facts.items() if fact.get("note")]
    return "\n".join(lines) + "\n" + ("\n" + "\n".join(notes) + "\n" if notes else "")


_FOLDERS = {
    "vae": ("vae",),
    "decoder": ("vae/decoder",),
    "diffusion": ("unet", "text_encoder", "tokenizer", "scheduler"),
    "judge": ("judge",),
    "sam": ("sam",),
    "clip": ("clip",),
    "features": ("features",),
}


def _outlook(facts: dict) -> str:
    """What the second half of each part's training still brought: what more of it may bring."""
    lines = []
    for name, fact in facts.items():
        losses = [loss for *_, loss in fact["losses"]]
        if len(losses) >= 8:
            eighth = len(losses) // 8
            middle = sum(losses[len(losses) // 2 - eighth : len(losses) // 2]) / eighth
            end = sum(losses[-eighth:]) / eighth
            lines.append(f"{name} {middle:.3g} → {end:.3g}")
    if not lines:
        return ""
    return "The losses from the middle of the training to its end: " + "; ".join(lines) + ".\n"


def _figures_table(figures: list, rough: set[str]) -> str:
    if not figures:
        return "Not measured yet: `python -m layerdiffusion evaluate miniature --record`.\n"
    lines = ["| part | figure | reached | bar | |", "|---|---|---|---|---|"]
    for figure in figures:
        bar = "–" if figure.bar is None else ("≤ " if figure.at_most else "≥ ") + figure.formatted(figure.bar)
        verdict = "reached" if figure.reached else "**missed**" if figure.value is not None else "not measured"
        verdict = "" if figure.bar is None else verdict
        lines.append(f"| {figure.part} | {figure.name} | {figure.formatted(figure.value)} | {bar} | {verdict} |")
    missed = sum(not figure.reached for figure in figures if figure.value is not None)
    said = f"{missed} of {len(figures)} figures miss their bar." if missed else "Every bar is reached."
    if rough:
        said += f" Of {', '.join(sorted(rough))} only an eighth of the pictures were measured (--quick)."
    return "\n".join(lines) + f"\n\n{said}\n"


_HEAD = """---
license: apache-2.0
library_name: diffusers
pipeline_tag: text-to-image
---

# The miniature

A complete small Stable Diffusion with its own SAM, CLIP and judge, trained from nothing on a world drawn by a program,
the toybox, so that LayerDiffusion runs, is tested and can be measured on any machine, offline.

```python
from diffusers import StableDiffusionPipeline

pipeline = StableDiffusionPipeline.from_pretrained("assets/miniature")
pipeline("a red cat jumping on the beach", guidance_scale={guidance}).images[0]
```

Its pictures are {side} × {side}. What it knows: {animals}; in the paints {paints}; {poses}; {sizes}; and the places
{places}. Subjects also face left or right and carry markings (spots, stripes, a saddle) that no caption names.
"""

_TAIL = """`python -m layerdiffusion evaluate miniature` measures them again. Its scenes are of seeds {first} and up,
from which no training draws. "Unseen combinations" are one place and one paint for each animal, left out of all
training but the judge's: it measures the others, and must know what they are asked for. It says what is in a picture,
and its own errors count against the diffusion model. "Whole" is what the outline is: the subject, cut out, covers the
sprite's silhouette in the pose asked for, at the best place, scale and mirror image, with an IoU of 0.80 or more.

{trials}## Limits

- Of its subjects {whole} have the outline that their words name. The others lose parts, thin legs above all, or run
  together, also where the judge still knows them.
- It knows the toybox and nothing else: a word its captions don't have means nothing to it, and a photo of the real
  world is outside what any part of it has seen.
- Two subjects, people, writing and counting are beyond the diffusion model. Only the SAM has seen two subjects.
- The SAM was taught on subjects, both subjects and the place without them, and answers other clicks badly.
- The CLIP and the judge compare toybox pictures with toybox captions; their scores aren't comparable with OpenAI's.

## Training it again

```
python -m layerdiffusion train-miniature --out DIR          # every part
python -m layerdiffusion train-miniature clip --out DIR     # or one: vae, decoder, diffusion, judge, sam, clip, …
python -m layerdiffusion train-miniature card --out DIR     # this page
```

Everything is drawn from the sprites in `assets/toybox`; no other data is used. Stopping and starting again goes on from
the last checkpoint.

## Licence

The weights are under the Apache License 2.0. The sprites are Microsoft's Fluent Emoji under the MIT licence, whose text
lies beside them in `assets/toybox/LICENSE`.
"""
