"""`evaluate edits`: how many edits of the toybox come out as asked for, beside the same words without any tuning.

An edit takes a subject in a paint that no prompt names, and asks for another pose in the place of a reference.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from layerdiffusion.errors import EditError
from layerdiffusion.settings import Settings, setting_table

if TYPE_CHECKING:
    from PIL import Image

    from layerdiffusion.editor import Editor
    from layerdiffusion.evaluation.datasets.toyedits import ToyEdit
    from layerdiffusion.miniature.shape import ShapeMeasure

BARS = {"as asked": 0.88, "paint": 0.88, "as asked, in its paint": 0.80, "shape": 0.70}
WITHOUT = "words alone"  # the untouched model, given the whole prompt


@dataclass(frozen=True)
class Verdict:
    """What became of one picture.

    The judge's word on each attribute and on whether the subject is `whole`; `shape`: the IoU of its outline with the
    animal's own in the pose asked for, `outlined` if it has that outline; `background`: its likeness in dB.
    """

    edit: int
    seed: int
    animal: bool
    pose: bool
    place: bool
    paint: bool
    whole: bool
    shape: float
    outlined: bool
    background: float

    @property
    def as_asked(self) -> bool:
        """Whether the prompt's words are all right, of a subject that is whole."""
        return self.animal and self.pose and self.place and self.whole


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of `evaluate edits`."""
    parser.add_argument("--model", default="miniature", help="a model that knows the toybox, with its judge")
    parser.add_argument("--edits", type=int, default=24, metavar="N", help="how many edits, default 24")
    parser.add_argument("--seeds", type=int, default=4, metavar="N", help="pictures an edit, default 4")
    parser.add_argument("--tuning", action="store_true", help="on the edits that defaults are chosen on instead")
    parser.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE", help="a setting other than the model's default"
    )
    parser.add_argument("--no-baseline", action="store_true", help=f"leave out “{WITHOUT}”")
    parser.add_argument("--pictures", type=Path, metavar="FILE", help="save photo, layers and results as one sheet")
    parser.add_argument("--json", action="store_true", help="print every verdict as JSON")


def run(args: argparse.Namespace) -> int:
    """Edit, judge and print; 1 where a bar is missed, else 0."""
    from tqdm import tqdm

    from layerdiffusion.editor import Editor
    from layerdiffusion.evaluation.datasets.toyedits import FIRST_SEED, TUNING_SEED, toy_edits
    from layerdiffusion.miniature.quality import shape_measure
    from layerdiffusion.models.load import load_models

    settings = Settings(seeds=tuple(range(args.seeds)), **dict(map(parse_setting, args.set)))
    models = load_models(args.model)
    if not all((models.folder / part).is_dir() for part in ("judge", "sam")):
        raise EditError(f"The model {models.name} has no judge and SAM to measure with; use the miniature.")
    editor, measure = Editor(models, cache_limit=1), shape_measure(models.folder)
    methods = {"edits": settings} | ({} if args.no_baseline else {WITHOUT: settings})
    verdicts: dict[str, list[Verdict]] = {name: [] for name in methods}
    rows: list[list[Image.Image]] = []
    toys = toy_edits(args.edits, TUNING_SEED if args.tuning else FIRST_SEED)
    for toy in tqdm(toys, total=args.edits, desc="edits", disable=args.json):
        rows.append([toy.photo.image, toy.reference.image, editor.layers(toy.edit).composite])
        for name in methods:
            images = paint(editor, toy, settings, words_alone=name == WITHOUT)
            verdicts[name] += judged(measure, toy, images, settings.seeds)
            rows[-1] += images
    if args.pictures:
        _sheet(rows).save(args.pictures)
    shares = {name: summary(found) for name, found in verdicts.items()}
    if args.json:
        print(json.dumps({"shares": shares, "verdicts": {k: [asdict(v) for v in vs] for k, vs in verdicts.items()}}))
    else:
        _print(shares)
    return 0 if all(shares["edits"][name] >= bar for name, bar in BARS.items()) else 1


def parse_setting(text: str) -> tuple[str, Any]:
    """`finetune_lr=3e-4` as a field of `Settings` and its value. Raises `EditError`."""
    name, _, value = text.partition("=")
    if name not in setting_table():
        raise EditError(f"There is no setting {name!r}; write NAME=VALUE, as in finetune_lr=3e-4.")
    return name, setting_table()[name].parse(value)


def paint(editor: Editor, toy: ToyEdit, settings: Settings, words_alone: bool = False) -> list[Image.Image]:
    """The edit's pictures, or those of the untouched model for the same words and seeds."""
    if not words_alone:
        return editor.run(toy.edit, settings).images
    words = replace(toy.edit, object_prompt=toy.edit.prompt, background_prompt=toy.edit.prompt)
    return editor.run(words, replace(settings, embedding_steps=0, finetune_steps=0, schedule="edit")).images


def judged(measure: ShapeMeasure, toy: ToyEdit, images: list[Image.Image], seeds: Iterable[int]) -> list[Verdict]:
    """The verdict on each of an edit's pictures."""
    from layerdiffusion.evaluation.datasets.toyedits import background_psnr
    from layerdiffusion.images.masks import grow

    judge, shapes = measure.judge, measure(images, [toy.wanted] * len(images))
    found = zip(seeds, images, judge(images), judge.masks(images), shapes, strict=True)
    return [
        Verdict(
            edit=toy.seed,
            seed=seed,
            **{key: seen[key] == value for key, value in toy.wanted.items()},
            whole=seen.get("shape", "whole") == "whole",
            shape=shape.iou,
            outlined=shape.whole,
            background=background_psnr(image, toy, grow(subject, 4)),
        )
        for seed, image, seen, subject, shape in found
    ]


def summary(verdicts: list[Verdict]) -> dict[str, float]:
    """Shares of pictures: each attribute right; all that was asked right; the outline; the background's likeness."""
    shares = {key: float(np.mean([getattr(v, key) for v in verdicts])) for key in ("animal", "pose", "place", "paint")}
    return shares | {
        "as asked": float(np.mean([v.as_asked for v in verdicts])),
        "as asked, in its paint": float(np.mean([v.as_asked and v.paint for v in verdicts])),
        "judged whole": float(np.mean([v.whole for v in verdicts])),
        "shape": float(np.mean([v.outlined for v in verdicts])),
        "background": float(np.nanmean([v.background for v in verdicts])),
    }


def _print(shares: dict[str, dict[str, float]]) -> None:
    print("".ljust(28) + "".join(name.rjust(14) for name in shares) + "bar".rjust(10))
    for key in next(iter(shares.values())):
        values = [found[key] for found in shares.values()]
        told = [f"{v:.1f} dB" if key == "background" else f"{100 * v:.1f} %" for v in values]
        bar = f"{100 * BARS[key]:.0f} %" if key in BARS else ""
        print(key.ljust(28) + "".join(text.rjust(14) for text in told) + bar.rjust(10))


def _sheet(rows: list[list[Image.Image]]) -> Image.Image:
    from PIL import Image

    width, height = rows[0][0].size
    sheet = Image.new("RGB", (len(rows[0]) * width, len(rows) * height))
    for y, row in enumerate(rows):
        for x, image in enumerate(row):
            sheet.paste(image, (x * width, y * height))
    return sheet
