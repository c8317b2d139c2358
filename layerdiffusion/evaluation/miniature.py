"""`evaluate miniature`: every figure the miniature has to reach, beside its bar, on what it never trained on.

Scenes come from seeds no training draws from; "unseen" figures are of combinations of animal and place, or animal and
paint, that all training but the judge's left out.
"""

from __future__ import annotations

import argparse
import json
import logging
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from layerdiffusion.errors import ModelError
from layerdiffusion.miniature.captions import join, phrase
from layerdiffusion.miniature.data import psnr, scenes, to_tensor
from layerdiffusion.miniature.figures import FIGURES, Figure, record
from layerdiffusion.miniature.pictures import ATTRIBUTES, generated, painter, wishes
from layerdiffusion.miniature.sheets import label_grid
from layerdiffusion.miniature.world import HELD_OUT_SEEDS, Scene, draw
from layerdiffusion.models._torchvision import ensure_torchvision
from layerdiffusion.models.load import MINIATURE, load_models

if TYPE_CHECKING:
    from PIL import Image

    from layerdiffusion.miniature.judge import Judge

SEEDS = {"vae": 0, "judge": 10_000, "clip": 20_000, "sam": 30_000, "sam two": 40_000, "seen": 50_000, "unseen": 60_000,
         "crowd": 70_000, "judge broken": 90_000, "outline": 80_000, "find": 47_000}  # fmt: skip
DIFFUSION_BARS = dict(zip((*ATTRIBUTES, "all five"), (0.90, 0.97, 0.90, 0.90, 0.85, 0.92), strict=True))
KID = "KID, in floors of drawn scenes"
EYE_BARS = {"subject whole: IoU ≥ 0.80 with its outline": 0.85, "exactly one subject": 0.97, KID: 3.0}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of `evaluate miniature`."""
    parser.add_argument("--model", type=Path, default=MINIATURE, metavar="DIR", help="default: the one shipped")
    parser.add_argument("--part", action="append", choices=list(MEASURES), help="only this part; may be repeated")
    parser.add_argument("--quick", action="store_true", help="an eighth of the scenes and pictures: a rough idea")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    parser.add_argument("--record", action="store_true", help=f"write them to {FIGURES} in DIR, for the model card")
    parser.add_argument("--pictures", type=Path, metavar="DIR", help="save the judged pictures in sheets here")


def run(args: argparse.Namespace) -> int:
    """Measure and print; 1 where a bar is missed, else 0."""
    if not args.model.is_dir():
        raise ModelError(f"There is no model folder {args.model}; give the folder of a miniature.")
    logging.getLogger("diffusers").setLevel(logging.ERROR)  # it warns of its own configs
    figures: list[Figure] = []
    for part in args.part or MEASURES:
        start = time.monotonic()
        measured = list(MEASURES[part](args.model, 8 if args.quick else 1, args.pictures))
        figures += measured
        if not args.json:
            if len(figures) == len(measured):
                print(row("part", "figure", "reached", "bar", ""))
            for figure in measured:
                print(table_row(figure), flush=True)
            print(f"  ({part}: {time.monotonic() - start:.0f} s)", flush=True)
    if args.json:
        print(json.dumps([asdict(figure) | {"reached": figure.reached} for figure in figures], indent=1))
    if args.record:
        record(figures, args.model, args.quick, MEASURES)
    missed = [figure for figure in figures if not figure.reached]
    if not args.json:
        print(f"{len(missed)} of {len(figures)} figures miss their bar." if missed else "Every bar is reached.")
    return 1 if missed else 0


def row(*cells: str) -> str:
    """A line of the table."""
    widths = (10, 46, 10, 10, 8)
    return "".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)).rstrip()


def table_row(figure: Figure) -> str:
    """The figure as a line of the table."""
    sign = "≤ " if figure.at_most else "≥ "
    bar = "" if figure.bar is None else sign + figure.formatted(figure.bar)
    verdict = "" if figure.bar is None else "ok" if figure.reached else "MISSED"
    return row(figure.part, figure.name, figure.formatted(figure.value), bar, verdict)


# --- the parts ------------------------------------------------------------------------------------------------------


def _scenes(part: str, count: int, **options):
    return scenes(count, HELD_OUT_SEEDS + SEEDS[part], processes=1, **{"unseen": None, **options})


def _missing(part: str, names: dict[str, float | None], **options) -> list[Figure]:
    return [Figure(part, name, None, bar, **options) for name, bar in names.items()]


def measure_vae(folder: Path, divisor: int = 1, pictures: Path | None = None) -> Iterator[Figure]:
    """PSNR of what the autoencoder gives back, over the picture and over the subject."""
    import torch

    bars = {"PSNR over the picture": 31.0, "PSNR over the subject": 29.0}
    if not (folder / "vae" / "config.json").exists():
        yield from _missing("vae", bars, unit="dB")
        return
    ensure_torchvision()
    from diffusers import AutoencoderTiny

    vae = AutoencoderTiny.from_pretrained(folder / "vae", torch_dtype=torch.float32).eval()
    scenes = _scenes("vae", 240 // divisor)
    wanted = to_tensor(scenes.images)
    with torch.no_grad():
        found = torch.cat([vae.decode(vae.encode(part).latents).sample.clamp(-1, 1) for part in wanted.split(20)])
    masks = torch.from_numpy(scenes.masks[:, 0])
    for (name, bar), mask in zip(bars.items(), (None, masks), strict=True):
        yield Figure("vae", name, psnr(found, wanted, mask), bar, "dB")


def measure_judge(folder: Path, divisor: int = 1, pictures: Path | None = None) -> Iterator[Figure]:
    """The judge's accuracy on drawn scenes."""
    from layerdiffusion.miniature.judge import accuracy, load_judge

    if not (folder / "judge" / "config.json").exists():
        yield from _missing("judge", dict.fromkeys(ATTRIBUTES, 0.98))
        yield from _missing("judge", {"whole or broken": 0.95})
        return
    judge = load_judge(folder / "judge")
    found = accuracy(judge, _scenes("judge", 1600 // divisor))
    for key in ATTRIBUTES:
        yield Figure("judge", key, found[key], 0.98)
    if "shape" in judge.labels:
        mixed = accuracy(judge, _scenes("judge broken", 800 // divisor, broken=0.5))
        yield Figure("judge", "whole or broken", mixed["shape"], 0.95)


def measure_sam(folder: Path, divisor: int = 1, pictures: Path | None = None) -> Iterator[Figure]:
    """Masks from clicks and boxes."""
    from layerdiffusion.miniature.segmenter import figures
    from layerdiffusion.models.sam import load_sam

    names = {
        "one_click": ("mean IoU, one click on the subject", 0.90, "", False),
        "three_clicks": ("mean IoU after three clicks", 0.94, "", False),
        "right_subject": ("the clicked one of two subjects", 0.95, "%", False),
        "box": ("mean IoU from a box", 0.90, "", False),
        "taken_away": ("a negative click takes one of two away", 0.90, "%", False),
        "iou_error": ("mean error of the predicted IoU", 0.05, "", True),
    }
    found: dict[str, float] = {}
    if (folder / "sam" / "config.json").exists():
        one = _scenes("sam", 240 // divisor)
        two = _scenes("sam two", 160 // divisor, subjects=2)
        found = figures(load_sam(folder / "sam"), one, two)
    for key, (name, bar, unit, at_most) in names.items():
        yield Figure("sam", name, found.get(key), bar, unit, at_most)


def measure_find(folder: Path, divisor: int = 1, pictures: Path | None = None) -> Iterator[Figure]:
    """Words that name one of two different subjects, the front and the back one in turn."""
    names = {"the named one of two is first": 0.90, "mean IoU of the first with the named one": 0.85}
    if not all((folder / part).exists() for part in ("model_index.json", "sam/config.json", "clip/config.json")):
        yield from _missing("find", names)
        return
    from layerdiffusion.models.find import find

    models, ious = load_models(folder, "cpu"), []
    for scene, named in _pairs(HELD_OUT_SEEDS + SEEDS["find"], 200 // divisor):
        mask = find(models, scene.image, f"the {scene.animals[named]}")[0].mask
        ious.append([(mask & own).sum() / (mask | own).sum() for own in (scene.masks[named], scene.masks[1 - named])])
    first = [own > max(0.5, other) for own, other in ious]
    values = float(np.mean(first)), float(np.mean([own for own, _ in ious]))
    for (name, bar), value, unit in zip(names.items(), values, ("%", ""), strict=True):
        yield Figure("find", name, value, bar, unit)


def _pairs(seed: int, count: int) -> Iterator[tuple[Scene, int]]:
    """Scenes of two different subjects, each in sight on 1 % of the picture, and which of them to name."""
    for index in range(count):
        scene = draw(seed, subjects=2)
        while scene.animals[0] == scene.animals[1] or min(mask.mean() for mask in scene.masks) < 0.01:
            seed += 1
            scene = draw(seed, subjects=2)
        seed += 1
        yield scene, index % 2


def measure_clip(folder: Path, divisor: int = 1, pictures: Path | None = None) -> Iterator[Figure]:
    """Whether the CLIP score knows a right caption from a wrong one."""
    names = {"first_of_64": "its caption among 64, first guess"} | {
        key: f"a wrong {key} lowers the score" for key in ATTRIBUTES
    }
    found: dict[str, float] = {}
    if (folder / "clip" / "config.json").exists():
        import torch

        ensure_torchvision()
        from transformers import CLIPModel, CLIPProcessor

        from layerdiffusion.miniature.clip import figures

        clip = CLIPModel.from_pretrained(folder / "clip", dtype=torch.float32).eval()
        found = figures(clip, CLIPProcessor.from_pretrained(folder / "clip"), _scenes("clip", 640 // divisor))
    for key, name in names.items():
        yield Figure("clip", name, found.get(key), None if key == "size" else 0.90)


def measure_diffusion(folder: Path, divisor: int = 1, pictures: Path | None = None) -> Iterator[Figure]:
    """Pictures for complete captions: judged, their subjects' outlines measured, and the crowd of them compared.

    Those of combinations never trained on are judged likewise.
    """
    names = [*ATTRIBUTES, "all five"]
    needed = ("model_index.json", "judge/config.json", "sam/config.json")
    if not all((folder / part).exists() for part in needed):
        yield from _missing("diffusion", DIFFUSION_BARS | EYE_BARS)
        yield from _missing("diffusion", {f"{name}, unseen combinations": 0.0 for name in names})
        return
    from layerdiffusion.miniature import quality

    paint, measure, count = painter(folder), quality.shape_measure(folder), 400 // divisor
    crowd: list[Image.Image] = []
    shares = {}
    for kind in ("seen", "unseen"):
        wanted = wishes(count, kind == "unseen", SEEDS[kind])
        images = generated(paint, wanted, SEEDS[kind], f"pictures, {kind}")
        right, judged_whole = judged(measure.judge, images, wanted)
        shapes = measure(images, wanted)
        if pictures is not None:
            _save_sheets(pictures, kind, images, wanted, right, [shape.iou for shape in shapes])
        shares[kind] = _shares(right, judged_whole)
        whole = [shape.whole for shape in shapes]
        shares[kind] |= {
            "whole": float(np.mean(whole)),
            "one": float(np.mean(quality.one_subject(measure.judge, images))),
            "agreement": quality.agreement(whole, judged_whole),
        }
        crowd += images
    for name in names:
        yield Figure("diffusion", name, shares["seen"][name], DIFFUSION_BARS[name])
    for name in names:
        bar = 0.90 if name == "all five" else shares["seen"][name] - 0.10
        yield Figure("diffusion", f"{name}, unseen combinations", shares["unseen"][name], bar)
    distance, floor = _kids(folder, crowd)
    floors = None if distance is None or floor is None else distance / floor
    values = (shares["seen"]["whole"], shares["seen"]["one"], floors)
    for (name, bar), value in zip(EYE_BARS.items(), values, strict=True):
        yield Figure("diffusion", name, value, bar, "" if name == KID else "%", name == KID)
    yield Figure("diffusion", "subject whole, unseen combinations", shares["unseen"]["whole"], None)
    yield Figure("diffusion", "judge's word for whole against the outline", shares["seen"]["agreement"], None)
    yield Figure("diffusion", "KID", distance, None, "")
    yield Figure("diffusion", "KID of drawn scenes among themselves", floor, None, "")


def _kids(folder: Path, crowd: list[Image.Image]) -> tuple[float | None, float | None]:
    """KID of pictures against drawn scenes, and of these among themselves; None where there is no network for it."""
    if not (folder / "features" / "model.safetensors").exists():
        return None, None
    from layerdiffusion.miniature.fidelity import load
    from layerdiffusion.miniature.quality import kid_over_floor

    drawn = _scenes("crowd", 2 * len(crowd)).images
    return kid_over_floor(load(folder / "features"), np.stack([np.asarray(image) for image in crowd]), drawn)


def measure_outline(folder: Path, divisor: int = 1, pictures: Path | None = None) -> Iterator[Figure]:
    """The measure of outlines itself: of drawn scenes, of autoencoded ones, of broken ones, and with wrong words."""
    names = {"drawn scenes whole": 0.95, "autoencoded scenes whole": 0.95, "of one subject: drawn scenes": 0.95,
             "of one subject: scenes with two apart": 0.05, "broken scenes whole": 0.05,
             "drawn scenes whole, another animal named": 0.05}  # fmt: skip
    if not all((folder / part / "config.json").exists() for part in ("judge", "sam", "vae")):
        for name, bar in names.items():
            yield Figure("outline", name, None, bar, at_most=bar < 0.5)
        return
    from layerdiffusion.miniature import quality

    count = 160 // divisor
    values = quality.outline_figures(folder, *(
        _scenes("outline", count, **options) for options in ({}, {"broken": 1.0}, {"subjects": 2})
    ))  # fmt: skip
    for (name, bar), value in zip(names.items(), values, strict=True):
        yield Figure("outline", name, value, bar, at_most=bar < 0.5)


def judged(judge: Judge, images: list[Image.Image], wanted: list[dict[str, str]]) -> tuple[np.ndarray, list[bool]]:
    """Of which attributes the judge names each picture's as asked for, bool (N, 5), and whether it finds it whole."""
    found = judge(images)
    right = [[f[key] == w[key] for key in ATTRIBUTES] for f, w in zip(found, wanted, strict=True)]
    return np.array(right), [f.get("shape", "whole") == "whole" for f in found]


def _shares(right: np.ndarray, whole: list[bool]) -> dict[str, float]:
    """The share of pictures with each attribute right, and with all five right and the subject whole."""
    shares = dict(zip(ATTRIBUTES, right.mean(0).tolist(), strict=True))
    return shares | {"all five": float((right.all(1) & np.array(whole)).mean())}


def _save_sheets(folder: Path, kind: str, images: list, wanted: list, right: np.ndarray, ious: list[float]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    labels = []
    for attributes, row, iou in zip(wanted, right, ious, strict=True):
        wrong = ", ".join(key for key, ok in zip(ATTRIBUTES, row, strict=True) if not ok)
        labels.append(f"{iou:.2f} {join(*phrase(attributes))}" + (f" [{wrong}]" if wrong else ""))
    for start in range(0, len(images), 25):
        part = slice(start, start + 25)
        label_grid(images[part], labels[part], 5).save(folder / f"{kind}-{start:03d}.png")


def measure_size(folder: Path, divisor: int = 1, pictures: Path | None = None) -> Iterator[Figure]:
    """Megabytes on disk, in all and of the largest file."""
    sizes = [file.stat().st_size / 1e6 for file in folder.rglob("*") if file.is_file()]
    yield Figure("size", "all files", sum(sizes), 60.0, "MB", True)
    yield Figure("size", "the largest file", max(sizes, default=0.0), 10.0, "MB", True)


def measure_speed(folder: Path, divisor: int = 1, pictures: Path | None = None) -> Iterator[Figure]:
    """How long a picture takes on two CPU cores, the model loaded."""
    name = "a 50-step picture on two cores"
    if not (folder / "model_index.json").exists():
        yield Figure("speed", name, None, 5.0, "s", True)
        return
    import torch

    paint = painter(folder)
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        paint(["a cat"], [0], 2)
        start = time.perf_counter()
        paint(["a red cat jumping on the beach"], [0])
        taken = time.perf_counter() - start
    finally:
        torch.set_num_threads(threads)
    yield Figure("speed", name, taken, 5.0, "s", True)


MEASURES = {
    "vae": measure_vae,
    "diffusion": measure_diffusion,
    "outline": measure_outline,
    "sam": measure_sam,
    "clip": measure_clip,
    "find": measure_find,
    "judge": measure_judge,
    "size": measure_size,
    "speed": measure_speed,
}
