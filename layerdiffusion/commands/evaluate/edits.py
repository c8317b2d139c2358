"""`evaluate edits`: how many edits of the toybox come out as asked for, beside the same words without any tuning.

An edit takes a subject in a paint that no prompt names, and asks for another pose in the place of a reference.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image
from tqdm import tqdm

from layerdiffusion.commands.terminal import Seeds, assignments, with_changes
from layerdiffusion.errors import EditError
from layerdiffusion.evaluation.datasets.toybench import POSE_SEED, POSE_TUNING_SEED, BenchEdit, pose_edits
from layerdiffusion.evaluation.metrics import judged
from layerdiffusion.images.layers import lay_out
from layerdiffusion.images.masks import grow
from layerdiffusion.scoring import psnr
from layerdiffusion.settings import PRESET_FLAGS, Settings

if TYPE_CHECKING:
    from layerdiffusion.editor import Editor
    from layerdiffusion.miniature.shape import ShapeMeasure

BARS = {"as asked": 0.88, "paint": 0.88, "as asked, in its paint": 0.80, "shape": 0.70}
WITHOUT = "words alone"  # the untouched model, given the whole prompt
SHARES = {"animal": "animal", "pose": "pose", "place": "place", "paint": "paint", "as asked": "satisfied",
          "as asked, in its paint": "as_wanted", "judged whole": "whole", "shape": "outlined"}  # fmt: skip


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of `evaluate edits`."""
    add = parser.add_argument
    add("--model", default="miniature", help="a model that knows the toybox, with its judge")
    add("--edits", type=int, default=24, metavar="N", help="how many edits, default 24")
    add("--seeds", action=Seeds, default=[0, 1, 2, 3], help="one picture an edit for each: 0 1 2 or 0-3, the default")
    add("--tuning", action="store_true", help="on the edits that defaults are chosen on instead")
    add("--preset", choices=PRESET_FLAGS, help="several settings at once")
    add("--set", action="append", default=[], metavar="NAME=VALUE", help="a setting other than the model's default")
    add("--no-baseline", action="store_true", help=f"leave out “{WITHOUT}”")
    add("--pictures", type=Path, metavar="FILE", help="save photo, layers and results as one sheet")
    add("--json", action="store_true", help="print every verdict as JSON")


def run(args: argparse.Namespace) -> int:
    """Edit, judge and print; 1 where a bar is missed, else 0."""
    changes = assignments(args.set)
    settings = with_changes(Settings(seeds=args.seeds), changes.pop("", {}))
    if changes:
        raise EditError(f"--set is of {next(iter(changes))}, but only settings can be changed here: NAME=VALUE.")
    from layerdiffusion.editor import Editor
    from layerdiffusion.miniature.quality import shape_measure
    from layerdiffusion.models.load import load_models

    models = load_models(args.model)
    if not all((models.folder / part).is_dir() for part in ("judge", "sam")):
        raise EditError(f"The model {models.name} has no judge and SAM to measure with; use the miniature.")
    if args.preset:
        settings = Settings.from_dict(models.preset(PRESET_FLAGS[args.preset]).to_dict() | settings.to_dict())
    editor, measure = Editor(models, cache_limit=1), shape_measure(models.folder)
    verdicts: dict[str, list[dict[str, Any]]] = {
        name: [] for name in ("edits", WITHOUT)[: 1 if args.no_baseline else 2]
    }
    rows: list[list[Image.Image]] = []
    edits = pose_edits(args.edits, POSE_TUNING_SEED if args.tuning else POSE_SEED)
    for toy in tqdm(edits, desc="edits", disable=args.json):
        layers = lay_out(toy.edit, (models.size, models.size))
        rows.append([layers.object_image, layers.background_image, layers.composite])
        for name, found in verdicts.items():
            images = generate(editor, toy, settings, words_alone=name == WITHOUT)
            found += verdicts_on(measure, toy, images, args.seeds)
            rows[-1] += images
    if args.pictures:
        _sheet(rows).save(args.pictures)
    shares = {name: summary(found) for name, found in verdicts.items()}
    print(json.dumps({"shares": shares, "verdicts": verdicts}) if args.json else _table(shares))
    return 0 if all(shares["edits"][name] >= bar for name, bar in BARS.items()) else 1


def generate(editor: Editor, toy: BenchEdit, settings: Settings, words_alone: bool = False) -> list[Image.Image]:
    """The edit's pictures, or those of the untouched model for the same words and seeds."""
    if not words_alone:
        return editor.run(toy.edit, settings).images
    words = replace(toy.edit, object_prompt=toy.edit.prompt, background_prompt=toy.edit.prompt)
    return editor.run(words, replace(settings, embedding_steps=0, finetune_steps=0, schedule="edit")).images


def verdicts_on(
    measure: ShapeMeasure, toy: BenchEdit, images: list[Image.Image], seeds: Sequence[int]
) -> list[dict[str, Any]]:
    """For each of an edit's pictures the judge's word on each attribute and on whether the subject is `whole`.

    `satisfied`: all that the prompt names is right, of a subject that is whole; `as_wanted`: its paint too.
    `shape`: the IoU of its outline with the animal's own in the pose asked for, `outlined` if it has that outline;
    `background`: its likeness in dB.
    """

    layers = lay_out(toy.edit, images[0].size)
    judge, shapes = measure.judge, measure(images, [toy.wanted] * len(images))
    verdicts = []
    for seed, image, shown, subject, shape in zip(
        seeds, images, judge(images), judge.masks(images), shapes, strict=True
    ):
        right, whole = judged(toy, shown), shown.get("shape", "whole") == "whole"
        right |= {name: right[name] and whole for name in ("satisfied", "as_wanted")}
        background = psnr(layers.background_image, image, ~(grow(subject, 4) | layers.background_mask))
        found = {"whole": whole, "shape": shape.iou, "outlined": shape.whole, "background": background}
        verdicts.append({"edit": toy.id, "seed": seed, **right, **found})
    return verdicts


def summary(verdicts: list[dict[str, Any]]) -> dict[str, float]:
    """Shares of pictures: each attribute right; all that was asked right; the outline; the background's likeness."""
    shares = {name: float(np.mean([one[key] for one in verdicts])) for name, key in SHARES.items()}
    return shares | {"background": float(np.mean([v["background"] for v in verdicts if v["background"] is not None]))}


def _table(shares: dict[str, dict[str, float]]) -> str:
    lines = ["".ljust(28) + "".join(name.rjust(14) for name in shares) + "bar".rjust(10)]
    for key in next(iter(shares.values())):
        values = [found[key] for found in shares.values()]
        cells = [f"{value:.1f} dB" if key == "background" else f"{100 * value:.1f} %" for value in values]
        bar = f"{100 * BARS[key]:.0f} %" if key in BARS else ""
        lines.append(key.ljust(28) + "".join(cell.rjust(14) for cell in cells) + bar.rjust(10))
    return "\n".join(lines)


def _sheet(rows: list[list[Image.Image]]) -> Image.Image:
    width, height = rows[0][0].size
    sheet = Image.new("RGB", (len(rows[0]) * width, len(rows) * height))
    for y, row in enumerate(rows):
        for x, image in enumerate(row):
            sheet.paste(image, (x * width, y * height))
    return sheet
