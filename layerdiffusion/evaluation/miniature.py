"""`evaluate miniature`: every figure the miniature has to reach, beside its bar, on what it never trained on.

Scenes come from seeds no training draws from; "unseen" figures are of combinations of animal and place, or animal and
paint, that all training but the judge's left out.
"""

from __future__ import annotations

import argparse
import json
import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from layerdiffusion.errors import ModelError
from layerdiffusion.models.load import MINIATURE

if TYPE_CHECKING:
    from PIL import Image

FIGURES = "figures.json"
STEPS, GUIDANCE = 50, 3.0
SEEDS = {"vae": 0, "judge": 10_000, "clip": 20_000, "sam": 30_000, "sam two": 40_000, "seen": 50_000, "unseen": 60_000}
ATTRIBUTES = ("animal", "place", "pose", "paint", "size")
DIFFUSION_BARS = dict(zip((*ATTRIBUTES, "all five"), (0.90, 0.97, 0.90, 0.90, 0.85, 0.65), strict=True))


@dataclass(frozen=True)
class Figure:
    """One figure of the table. `value` None: the part isn't there. `bar` None: told, but nothing to reach."""

    part: str
    name: str
    value: float | None
    bar: float | None
    unit: str = "%"  # "%" figures are shares of 1
    at_most: bool = False

    @property
    def reached(self) -> bool:
        """Whether the bar is met; what can't be measured doesn't meet it."""
        if self.bar is None:
            return True
        if self.value is None:
            return False
        return self.value <= self.bar if self.at_most else self.value >= self.bar

    def told(self, number: float | None) -> str:
        """`number` in this figure's unit."""
        if number is None:
            return "–"
        if self.unit == "%":
            return f"{100 * number:.1f} %"
        return f"{number:.3f}" if self.unit == "" else f"{number:.1f} {self.unit}"


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
        record(figures, args.model, args.quick)
    missed = [figure for figure in figures if not figure.reached]
    if not args.json:
        print(f"{len(missed)} of {len(figures)} figures miss their bar." if missed else "Every bar is reached.")
    return 1 if missed else 0


def record(figures: list[Figure], folder: Path, quick: bool) -> None:
    """Put the figures into `figures.json`; those of parts not measured now stay as they were."""
    path = folder / FIGURES
    now = {figure.part for figure in figures}
    kept = [f for f in recorded(folder) if f.part not in now]
    rough = (rough_parts(folder) - now) | (now if quick else set())
    order = {part: at for at, part in enumerate(MEASURES)}
    rows = [asdict(figure) for figure in sorted([*kept, *figures], key=lambda figure: order[figure.part])]
    path.write_text(json.dumps({"quick": sorted(rough), "figures": rows}, indent=1) + "\n", encoding="utf-8")


def rough_parts(folder: Path) -> set[str]:
    """The parts whose recorded figures are quick ones."""
    path = folder / FIGURES
    if not path.exists():
        return set()
    saved = json.loads(path.read_text(encoding="utf-8"))
    return set(saved["quick"])


def recorded(folder: Path) -> list[Figure]:
    """The figures that `record` wrote; none where it never did."""
    path = folder / FIGURES
    if not path.exists():
        return []
    return [Figure(**row) for row in json.loads(path.read_text(encoding="utf-8"))["figures"]]


def row(*cells: str) -> str:
    """A line of the table."""
    widths = (10, 46, 10, 10, 8)
    return "".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)).rstrip()


def table_row(figure: Figure) -> str:
    """The figure as a line of the table."""
    sign = "≤ " if figure.at_most else "≥ "
    bar = "" if figure.bar is None else sign + figure.told(figure.bar)
    verdict = "" if figure.bar is None else "ok" if figure.reached else "MISSED"
    return row(figure.part, figure.name, figure.told(figure.value), bar, verdict)


# --- the parts ------------------------------------------------------------------------------------------------------


def _scenes(part: str, count: int, **options):
    from layerdiffusion.miniature.data import scenes
    from layerdiffusion.miniature.world import HELD_OUT_SEEDS

    return scenes(count, HELD_OUT_SEEDS + SEEDS[part], processes=1, **{"unseen": None, **options})


def _missing(part: str, names: dict[str, float | None], **options) -> list[Figure]:
    return [Figure(part, name, None, bar, **options) for name, bar in names.items()]


def measure_vae(folder: Path, divisor: int = 1, pictures: Path | None = None) -> Iterator[Figure]:
    """PSNR of what the autoencoder gives back, over the picture and over the subject."""
    import torch

    from layerdiffusion.miniature.data import psnr, to_tensor

    bars = {"PSNR over the picture": 28.0, "PSNR over the subject": 25.0}
    if not (folder / "vae" / "config.json").exists():
        yield from _missing("vae", bars, unit="dB")
        return
    from layerdiffusion.models._torchvision import ensure_torchvision

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
        return
    judge = load_judge(folder / "judge")
    found = accuracy(judge, _scenes("judge", 1600 // divisor))
    for key in ATTRIBUTES:
        yield Figure("judge", key, found[key], 0.98)


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


def measure_clip(folder: Path, divisor: int = 1, pictures: Path | None = None) -> Iterator[Figure]:
    """Whether the CLIP score knows a right caption from a wrong one."""
    names = {"first_of_64": "its caption among 64, first guess"} | {
        key: f"a wrong {key} lowers the score" for key in ATTRIBUTES
    }
    found: dict[str, float] = {}
    if (folder / "clip" / "config.json").exists():
        import torch

        from layerdiffusion.models._torchvision import ensure_torchvision

        ensure_torchvision()
        from transformers import CLIPModel, CLIPProcessor

        from layerdiffusion.miniature.clip import figures

        clip = CLIPModel.from_pretrained(folder / "clip", dtype=torch.float32).eval()
        found = figures(clip, CLIPProcessor.from_pretrained(folder / "clip"), _scenes("clip", 640 // divisor))
    for key, name in names.items():
        yield Figure("clip", name, found.get(key), None if key == "size" else 0.90)


def measure_diffusion(folder: Path, divisor: int = 1, pictures: Path | None = None) -> Iterator[Figure]:
    """Pictures for complete captions, judged; those of combinations never trained on, judged likewise."""
    names = [*ATTRIBUTES, "all five"]
    ready = all((folder / part).exists() for part in ("model_index.json", "judge/config.json"))
    if not ready:
        yield from _missing("diffusion", DIFFUSION_BARS)
        yield from _missing("diffusion", {f"{name}, unseen combinations": 0.0 for name in names})
        return
    from layerdiffusion.miniature.judge import load_judge

    paint, judge = painter(folder), load_judge(folder / "judge")
    count = 400 // divisor
    seen = _judged(paint, judge, count, False, pictures)
    unseen = _judged(paint, judge, count, True, pictures)
    for name in names:
        yield Figure("diffusion", name, seen[name], DIFFUSION_BARS[name])
    for name in names:
        yield Figure("diffusion", f"{name}, unseen combinations", unseen[name], seen[name] - 0.10)


def guidance_of(folder: Path) -> float:
    """The classifier-free guidance that the model's own settings ask for."""
    path = folder / "settings.json"
    settings = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    return settings.get("guidance_scale", GUIDANCE)


Painter = Callable[..., "list[Image.Image]"]


def painter(folder: Path) -> Painter:
    """`paint(captions, seeds)`: pictures of the folder's model, by diffusers' own pipeline, DDIM, 50 steps."""
    import torch

    from layerdiffusion.models._torchvision import ensure_torchvision
    from layerdiffusion.models.profile import device_profile

    ensure_torchvision()
    from diffusers import StableDiffusionPipeline

    pipeline = StableDiffusionPipeline.from_pretrained(folder, torch_dtype=torch.float32)
    profile = device_profile()
    pipeline.to(profile.device)
    pipeline.set_progress_bar_config(disable=True)
    guidance = guidance_of(folder)

    def paint(captions: list[str], seeds: list[int], steps: int = STEPS):
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        with torch.autocast(profile.device.type, profile.precision, enabled=profile.precision != torch.float32):
            return pipeline(captions, num_inference_steps=steps, guidance_scale=guidance, generator=generators).images

    return paint


def wishes(count: int, unseen: bool, first_seed: int) -> list[dict[str, str]]:
    """`count` complete sets of attributes, of combinations trained on or of those that weren't."""
    from layerdiffusion.miniature.world import PLACES, draw_attributes, held_out

    found: list[dict[str, str]] = []
    rng = np.random.default_rng([first_seed, 8])
    while len(found) < count:
        attributes = draw_attributes(rng, rng, str(rng.choice(PLACES)), {})
        if held_out(attributes) == unseen:
            found.append({key: attributes[key] for key in ATTRIBUTES})
    return found


def _judged(paint: Painter, judge, count: int, unseen: bool, folder: Path | None) -> dict[str, float]:
    """The share of pictures of which the judge names each attribute as asked for, and all five."""
    from tqdm import tqdm

    from layerdiffusion.miniature.world import join, label_grid, phrase

    kind = "unseen" if unseen else "seen"
    wanted = wishes(count, unseen, SEEDS[kind])
    captions = [join(*phrase(attributes)) for attributes in wanted]
    right = []
    for start in tqdm(range(0, count, 25), desc=f"pictures, {kind}", unit="batch", leave=False):
        part = slice(start, min(start + 25, count))
        images = paint(captions[part], [SEEDS[kind] + i for i in range(part.start, part.stop)])
        found = judge(images)
        agrees = [[f[key] == w[key] for key in ATTRIBUTES] for f, w in zip(found, wanted[part], strict=True)]
        right += agrees
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
            wrong = [", ".join(f[k] for k, ok in zip(ATTRIBUTES, a, strict=True) if not ok)
                     for f, a in zip(found, agrees, strict=True)]  # fmt: skip
            labels = [c + (f" [{w}]" if w else "") for c, w in zip(captions[part], wrong, strict=True)]
            label_grid(images, labels, 5).save(folder / f"{kind}-{start:03d}.png")
    table = np.array(right)
    shares = dict(zip(ATTRIBUTES, table.mean(0).tolist(), strict=True))
    return shares | {"all five": float(table.all(1).mean())}


def measure_size(folder: Path, divisor: int = 1, pictures: Path | None = None) -> Iterator[Figure]:
    """Megabytes on disk, in all and of the largest file."""
    sizes = [file.stat().st_size / 1e6 for file in folder.rglob("*") if file.is_file()]
    yield Figure("size", "all files", sum(sizes), 45.0, "MB", True)
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
    "sam": measure_sam,
    "clip": measure_clip,
    "judge": measure_judge,
    "size": measure_size,
    "speed": measure_speed,
}
