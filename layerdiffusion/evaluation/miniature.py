"""`evaluate miniature`: every figure the miniature has to reach, beside its bar, on what it never trained on.

Scenes come from seeds no training draws from; "unseen" figures are of combinations of animal and place, or animal and
paint, that all training but the judge's left out.
"""

from __future__ import annotations

import argparse
import logging
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from layerdiffusion.errors import ModelError
from layerdiffusion.miniature import clip, fidelity, measures, segmenter
from layerdiffusion.miniature.captions import join, phrase
from layerdiffusion.miniature.card import label_grid
from layerdiffusion.miniature.data import Scenes, psnr, scenes, to_tensor
from layerdiffusion.miniature.judge import accuracy, load_judge
from layerdiffusion.miniature.measures import ATTRIBUTES, Figure, ShapeMeasure
from layerdiffusion.miniature.world import ANIMALS, HELD_OUT_SEEDS, Scene, draw
from layerdiffusion.models.find import find
from layerdiffusion.models.load import MINIATURE, load_models
from layerdiffusion.models.sam import load_sam

LOOKS = ("marking", "accent")
SEEDS = {"vae": 0, "judge": 10_000, "clip": 20_000, "sam": 30_000, "sam two": 40_000, "seen": 50_000, "unseen": 60_000,
         "drawn": 70_000, "judge broken": 90_000, "outline": 80_000, "find": 47_000}  # fmt: skip


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of `evaluate miniature`."""
    parser.add_argument("--model", type=Path, default=MINIATURE, metavar="DIR", help="default: the one shipped")
    parser.add_argument("--part", action="append", choices=list(FIGURES), help="only this part; may be repeated")
    parser.add_argument("--pictures", type=Path, metavar="DIR", help="save the measured pictures in sheets here")
    one = parser.add_mutually_exclusive_group()
    one.add_argument("--quick", action="store_true", help="an eighth of the scenes and pictures: a rough idea")
    one.add_argument("--record", action="store_true", help="write the figures to DIR, for the model card")
    one.add_argument("--curve", type=Path, metavar="FILE", help="only the share of whole subjects, by a checkpoint of"
                     " the network's training (diffusion.pt), as a point of the curve in DIR")  # fmt: skip


def run(args: argparse.Namespace) -> int:
    """Measure and print; 1 where a bar is missed, else 0."""
    if not args.model.is_dir():
        raise ModelError(f"There is no model folder {args.model}; give the folder of a miniature.")
    logging.getLogger("diffusers").setLevel(logging.ERROR)  # it warns of its own configs
    if args.curve:
        return _add_to_curve(args.model, args.curve)
    evaluation = Evaluation(args.model, args.quick, args.pictures)
    figures: list[Figure] = []
    for part in args.part or FIGURES:
        start = time.monotonic()
        measured = evaluation.measure(part)
        figures += measured
        print(*map(table_row, measured), f"  ({part}: {time.monotonic() - start:.0f} s)", sep="\n", flush=True)
    if args.record:
        measures.record(figures, args.model, FIGURES)
    missed = sum(not figure.reached for figure in figures)
    print(f"{missed} of {len(figures)} figures miss their bar." if missed else "Every bar is reached.")
    return 1 if missed else 0


def _add_to_curve(folder: Path, checkpoint: Path) -> int:
    for needed in (checkpoint, *(folder / part / "config.json" for part in ("vae", "judge", "sam"))):
        if not needed.exists():
            raise ModelError(f"There is no {needed}, which a point of the curve is measured with.")
    pipeline, pictures = measures.load_checkpoint(folder, checkpoint)
    share = measures.whole_share(pipeline, ShapeMeasure.load(folder), guidance=measures.guidance_of(folder))
    measures.add_point(folder, pictures, share)
    print(f"After {pictures:,} pictures {100 * share:.1f} % of the subjects are whole.")
    return 0


def table_row(figure: Figure) -> str:
    """The figure as a line of the table."""
    bar = "" if figure.bar is None else ("≤ " if figure.at_most else "≥ ") + figure.formatted(figure.bar)
    verdict = "" if figure.bar is None else "ok" if figure.reached else "MISSED"
    return f"{figure.part:10}{figure.name:46}{figure.formatted(figure.value):10}{bar:10}{verdict}".rstrip()


@dataclass(frozen=True)
class Evaluation:
    """What is measured: the miniature in `folder`, on an eighth of the scenes if `quick`; sheets go to `pictures`."""

    folder: Path
    quick: bool = False
    pictures: Path | None = None

    def measure(self, part: str) -> list[Figure]:
        """The figures of a part, without values where the folder doesn't have what they are measured with."""
        measure, *needs = MEASURES[part]
        if not all((self.folder / needed).exists() for needed in needs):
            return FIGURES[part]
        return [replace(figure, value=value) for figure, value in zip(FIGURES[part], measure(self), strict=True)]

    def count(self, full: int) -> int:
        return full // 8 if self.quick else full

    def scenes(self, part: str, full: int, **options) -> Scenes:
        seed = HELD_OUT_SEEDS + SEEDS[part]
        return scenes(self.count(full), seed, processes=1, **{"unseen": None, **options})

    def autoencoded(self, images: np.ndarray) -> np.ndarray:
        from diffusers import AutoencoderTiny

        vae = AutoencoderTiny.from_pretrained(self.folder / "vae", torch_dtype=torch.float32).eval()
        return measures.autoencoded(vae, images)


def measure_vae(of: Evaluation) -> Iterator[float]:
    """PSNR of what the autoencoder gives back, over the picture and over the subject."""
    drawn = of.scenes("vae", 240)
    found, wanted = to_tensor(of.autoencoded(drawn.images)), to_tensor(drawn.images)
    yield psnr(found, wanted)
    yield psnr(found, wanted, torch.from_numpy(drawn.masks[:, 0]))


def measure_diffusion(of: Evaluation) -> list[float]:
    """Pictures for complete captions, of combinations trained on and of unseen ones: whole, one, like drawn, right."""
    pipeline, guidance = measures.load_pipeline(of.folder), measures.guidance_of(of.folder)
    measure = ShapeMeasure.load(of.folder)
    whole, right, images = {}, {}, {}
    for kind in ("seen", "unseen"):
        wanted = measures.random_attributes(of.count(400), kind == "unseen", SEEDS[kind])
        images[kind] = measures.generate(pipeline, wanted, SEEDS[kind], guidance)
        shapes = measure(images[kind], wanted)
        whole[kind] = float(np.mean([shape.whole for shape in shapes]))
        right[kind] = measures.right(measure.judge, images[kind], wanted)
        if of.pictures is not None:
            _save_sheets(of.pictures, kind, images[kind], wanted, right[kind], [shape.iou for shape in shapes])
    every = np.stack([np.asarray(image) for image in images["seen"] + images["unseen"]])
    floors = measures.kid_in_floors(fidelity.load(of.folder / "features"), every, of.scenes("drawn", 1600).images)
    one = float(np.mean(measures.one_subject(measure.judge, images["seen"])))
    all_five = (float(right[kind].all(1).mean()) for kind in ("seen", "unseen"))
    return [whole["seen"], whole["unseen"], one, floors, *all_five, *right["seen"].mean(0).tolist()]


def _save_sheets(folder: Path, kind: str, images: list, wanted: list, right: np.ndarray, ious: list[float]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    labels = []
    for attributes, row, iou in zip(wanted, right, ious, strict=True):
        wrong = ", ".join(key for key, ok in zip(ATTRIBUTES, row, strict=True) if not ok)
        labels.append(f"{iou:.2f} {join(*phrase(attributes))}" + (f" [{wrong}]" if wrong else ""))
    for start in range(0, len(images), 25):
        part = slice(start, start + 25)
        label_grid(images[part], labels[part], 5).save(folder / f"{kind}-{start:03d}.png")


def measure_outline(of: Evaluation) -> Iterator[float]:
    """What the measures find in scenes whose answer is known, in the order of `FIGURES`."""
    measure = ShapeMeasure.load(of.folder)
    drawn, broken = (of.scenes("outline", 160, broken=share) for share in (0.0, 1.0))
    two = of.scenes("outline", 480, subjects=2)  # few have both apart

    def whole(images: np.ndarray, wanted: Sequence[dict]) -> float:
        return float(np.mean([shape.whole for shape in measure(list(images), wanted)]))

    def one(images: np.ndarray) -> float:
        return float(np.mean(measures.one_subject(measure.judge, list(images))))

    yield whole(drawn.images, drawn.attributes)
    yield whole(of.autoencoded(drawn.images), drawn.attributes)
    yield one(drawn.images)
    yield one(two.images[[measures.apart(masks) for masks in two.masks]])
    wrecks = [i for i, attributes in enumerate(broken.attributes) if attributes.get("shape") == "broken"]
    # The same scenes as in `drawn`, which still has what a wreck was drawn as.
    yield whole(broken.images[wrecks], [drawn.attributes[i] for i in wrecks])
    others = [ANIMALS[(ANIMALS.index(a["animal"]) + 1) % len(ANIMALS)] for a in drawn.attributes]
    yield whole(drawn.images, [{**a, "animal": other} for a, other in zip(drawn.attributes, others, strict=True)])


def measure_sam(of: Evaluation) -> Iterable[float]:
    """Masks from clicks and boxes."""
    found = segmenter.figures(load_sam(of.folder / "sam"), of.scenes("sam", 240), of.scenes("sam two", 160, subjects=2))
    return [found[key] for key in ("one_click", "three_clicks", "right_subject", "box", "taken_away", "iou_error")]


def measure_clip(of: Evaluation) -> Iterable[float]:
    """Whether the CLIP score tells a right caption from a wrong one."""
    network, processor = clip.load(of.folder / "clip")
    found = clip.figures(network.eval(), processor, of.scenes("clip", 640))
    return [found[key] for key in ("first_of_64", *ATTRIBUTES)]


def measure_find(of: Evaluation) -> Iterable[float]:
    """Words that name one of two different subjects, the front and the back one in turn."""
    models, ious = load_models(of.folder, "cpu"), []
    for scene, named in _pairs(HELD_OUT_SEEDS + SEEDS["find"], of.count(200)):
        mask = find(models, scene.image, f"the {scene.animals[named]}")[0].mask
        ious.append([(mask & own).sum() / (mask | own).sum() for own in (scene.masks[named], scene.masks[1 - named])])
    return [float(np.mean([own > max(0.5, other) for own, other in ious])), float(np.mean([own for own, _ in ious]))]


def _pairs(seed: int, count: int) -> Iterator[tuple[Scene, int]]:
    """Scenes of two different subjects, each in sight on 1 % of the picture, and which of them to name."""
    for index in range(count):
        scene = draw(seed, subjects=2)
        while scene.animals[0] == scene.animals[1] or min(mask.mean() for mask in scene.masks) < 0.01:
            seed += 1
            scene = draw(seed, subjects=2)
        seed += 1
        yield scene, index % 2


def measure_judge(of: Evaluation) -> Iterable[float | None]:
    """The judge's accuracy on drawn scenes, and whether it tells broken subjects from whole ones."""
    judge = load_judge(of.folder / "judge")
    found = accuracy(judge, of.scenes("judge", 1600))
    named = [found.get(key) for key in (*ATTRIBUTES, *LOOKS)]
    return [*named, accuracy(judge, of.scenes("judge broken", 800, broken=0.5)).get("shape")]


def measure_size(of: Evaluation) -> Iterable[float]:
    """Megabytes on disk, in all and of the largest file."""
    sizes = [file.stat().st_size / 1e6 for file in of.folder.rglob("*") if file.is_file()]
    return [sum(sizes), max(sizes, default=0.0)]


# What measures each part, and the files that it needs.
VAE, JUDGE, SAM, CLIP = (f"{part}/config.json" for part in ("vae", "judge", "sam", "clip"))
MEASURES: dict[str, tuple] = {
    "vae": (measure_vae, VAE),
    "diffusion": (measure_diffusion, "model_index.json", JUDGE, SAM, "features/model.safetensors"),
    "outline": (measure_outline, VAE, JUDGE, SAM),
    "sam": (measure_sam, SAM),
    "clip": (measure_clip, CLIP),
    "find": (measure_find, "model_index.json", SAM, CLIP),
    "judge": (measure_judge, JUDGE),
    "size": (measure_size,),
}
# Name and bar, then, where they aren't shares that should be high, the unit and whether the bar is the most.
_ROWS: dict[str, list[tuple]] = {
    "vae": [("PSNR over the picture", 30.0, "dB"), ("PSNR over the subject", 27.0, "dB")],
    "diffusion": [
        ("subject whole", 0.85), ("subject whole, unseen combinations", 0.80), ("exactly one subject", 0.98),
        ("KID, in floors of drawn scenes", 5.0, "", True),
        ("all five attributes", 0.92), ("all five attributes, unseen combinations", 0.90),
        *((key, None) for key in ATTRIBUTES),
    ],
    "outline": [
        ("drawn scenes whole", 0.97), ("autoencoded scenes whole", 0.95), ("of one subject: drawn scenes", 0.98),
        ("of one subject: scenes with two apart", 0.05, "%", True), ("broken scenes whole", 0.05, "%", True),
        ("drawn scenes whole, another animal named", 0.05, "%", True),
    ],
    "sam": [
        ("mean IoU, one click on the subject", 0.90, ""), ("mean IoU after three clicks", 0.94, ""),
        ("the clicked one of two subjects", 0.95), ("mean IoU from a box", 0.90, ""),
        ("a negative click takes one of two away", 0.90), ("mean error of the predicted IoU", 0.05, "", True),
    ],
    "clip": [
        ("its caption among 64, first guess", 0.90),
        *((f"a wrong {key} lowers the score", None if key == "size" else 0.90) for key in ATTRIBUTES),
    ],
    "find": [("the named one of two is first", 0.90), ("mean IoU of the first with the named one", 0.85, "")],
    "judge": [*((key, 0.98) for key in ATTRIBUTES), *((key, 0.95) for key in LOOKS), ("whole or broken", 0.95)],
    "size": [("all files", 60.0, "MB", True), ("the largest file", 10.0, "MB", True)],
}  # fmt: skip
FIGURES = {part: [Figure(part, row[0], None, *row[1:]) for row in rows] for part, rows in _ROWS.items()}
