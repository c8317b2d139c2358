"""`python -m layerdiffusion train-miniature`: every part of the miniature from drawn scenes alone.

`--out` holds the checkpoints (`vae.pt`, `diffusion.pt`, …, with their loss curves) and `miniature/`, the
finished folder. Training a part again goes on from its checkpoint or, where that is gone, from its weights in the
finished folder (a copy of `assets/miniature` will do). Of the autoencoder only the decoder goes on: the diffusion model
has learnt its latents. The order that `all` takes is the order of need: the diffusion model wants the autoencoder, the
judge is better with it, the CLIP better with the judge.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
from pathlib import Path

from layerdiffusion.errors import ModelError
from layerdiffusion.miniature.parts import PARTS

FINISHED = "miniature"
CURVE_POINTS = 80


# Every part draws scenes of its own; scenes with two subjects have seeds that no other has.
TWO_SUBJECTS_FROM = 10_000_000


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of `train-miniature`."""
    parser.add_argument(
        "part",
        nargs="?",
        default="all",
        choices=[*PARTS, "all", "sheet", "card"],
        help="what to train (default: all); sheet draws 24 scenes, card writes the model card of a finished folder",
    )
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="checkpoints and the finished folder")
    parser.add_argument(
        "--minutes", type=_positive, help="wall time to train for, on top of earlier runs; of all: shared out"
    )
    parser.add_argument("--scenes", type=int, help="how many scenes to draw")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default=None, help="cpu or cuda (default: cuda if there is one)")
    parser.add_argument("--threads", type=int, help="CPU threads to use (default: all)")


def _positive(text: str) -> float:
    value = float(text)
    if value <= 0:
        raise argparse.ArgumentTypeError("it must be more than 0")
    return value


def run(args: argparse.Namespace) -> int:
    """Train what was asked for; 0. Raises `ModelError` where a part is missing that another needs."""
    args.out.mkdir(parents=True, exist_ok=True)
    if args.part == "sheet":
        from layerdiffusion.miniature.card import contact_sheet

        contact_sheet().save(args.out / "scenes.png")
        print(f"24 scenes with their captions: {args.out / 'scenes.png'}")
        return 0
    if args.part == "card":
        from layerdiffusion.miniature.card import write

        print(f"The model card: {write(args.out / FINISHED)}")
        return 0

    import torch

    if args.threads:
        torch.set_num_threads(args.threads)
    device = args.device or ("cuda" if torch.cuda.is_available() else "cpu")
    names = list(PARTS) if args.part == "all" else [args.part]
    whole = sum(PARTS[name].minutes for name in names)
    for name in names:
        minutes = PARTS[name].minutes * (args.minutes / whole if args.minutes else 1)
        train_part(name, args.out, minutes, seed=args.seed, device=device, scenes=args.scenes)
    return 0


def train_part(
    name: str, out: Path, minutes: float, *, seed: int = 0, device: str = "cpu", scenes: int | None = None
) -> Path:
    """Train part `name` for `minutes`, save it in the finished folder beside its facts, and return where."""
    from layerdiffusion.miniature import autoencoder, clip, data, diffusion, fidelity, judge, segmenter
    from layerdiffusion.miniature.training import Plan
    from layerdiffusion.models.sam import load_sam

    count = scenes or PARTS[name].scenes
    plan = Plan(out, minutes, seed, device)
    finished = out / FINISHED
    folder = finished / PARTS[name].folder
    print(f"{name}: drawing {count} scenes, then {minutes:.1f} min of training on {device}", flush=True)
    if name == "vae":
        model = autoencoder.train(data.scenes(count, empty=0.05), plan)
        model.half().save_pretrained(folder)
        batch = autoencoder.BATCH
    elif name == "decoder":
        vae = autoencoder.train(data.scenes(count, empty=0.05), plan, start=_vae(finished))
        vae.half().save_pretrained(finished / "vae")
        model, batch = vae.decoder, autoencoder.BATCH
        folder.mkdir(exist_ok=True)
    elif name == "diffusion":
        trained_before = (finished / "model_index.json").exists()
        pipeline = diffusion.load(finished) if trained_before else diffusion.build(_vae(finished))
        diffusion.train(pipeline, diffusion.Pool(pipeline.vae, count), plan)
        diffusion.save(pipeline, finished)
        model, batch = pipeline.unet, diffusion.BATCH
    elif name == "judge":
        vae = _vae(finished, missing_ok=True)
        # All combinations: a judge that errs on those the others never saw would blame them for it.
        start = judge.load_judge(folder, device) if (folder / "config.json").exists() else None
        drawn = data.scenes(count, seed * count, empty=0.03, unseen=None, broken=judge.BROKEN_SHARE)
        trained = judge.train(drawn, plan, vae, start)
        judge.save_judge(trained, folder)
        model, batch = trained.network, judge.BATCH
    elif name == "sam":
        one = data.scenes(count // 2)
        two = data.scenes(count // 2, TWO_SUBJECTS_FROM, subjects=2)
        start = load_sam(folder) if (folder / "config.json").exists() else None
        model, batch = segmenter.train(one, two, plan, start), segmenter.BATCH
        segmenter.save(model, folder)
    elif name == "features":
        model, batch = fidelity.train(data.scenes(count, unseen=None), plan), fidelity.BATCH
        fidelity.save(model, folder)
    else:
        helper = finished / "judge"
        teacher = judge.load_judge(helper, device) if (helper / "config.json").exists() else None
        before = clip.load(folder) if (folder / "config.json").exists() else None
        model, processor = clip.train(data.scenes(count, empty=0.03), plan, teacher, before)
        clip.save(model, processor, folder)
        batch = clip.BATCH
    parameters = sum(weight.numel() for weight in model.parameters())
    record(name, folder, out, batch=batch, scenes=count, seed=seed, device=device, parameters=parameters)
    print(f"{name}: saved in {folder}", flush=True)
    return folder


def _vae(finished: Path, missing_ok: bool = False):
    """The trained autoencoder in float32, or None where that will do."""
    from diffusers import AutoencoderTiny

    if not (finished / "vae" / "config.json").exists():
        if missing_ok:
            return None
        raise ModelError(f"There is no autoencoder in {finished / 'vae'} yet; train it first: train-miniature vae.")
    return AutoencoderTiny.from_pretrained(finished / "vae").float().requires_grad_(False).eval()


def record(
    name: str,
    folder: Path,
    checkpoints: Path,
    *,
    batch: int,
    scenes: int,
    seed: int,
    device: str = "cpu",
    parameters: int | None = None,
) -> Path:
    """Write what a part's training took, `training.json`, to `folder`: the model card is made from it.

    Steps, time and the loss curve ([step, seconds, loss], thinned) are those of `checkpoints/name.pt`.
    """
    import torch

    checkpoint = torch.load(checkpoints / f"{name}.pt", map_location="cpu", weights_only=True, mmap=True)
    curve_file = checkpoints / f"{name}.losses.json"
    curve = json.loads(curve_file.read_text()) if curve_file.exists() else []
    facts = {
        "part": name,
        "machine": machine(device),
        "threads": torch.get_num_threads() if device == "cpu" else None,
        "minutes": round(checkpoint["seconds"] / 60, 1),
        "steps": checkpoint["step"],
        "batch": batch,
        "pictures": checkpoint["step"] * batch,
        "scenes": scenes,
        "seed": seed,
        "parameters": parameters,
        "losses": thinned(curve),
    }
    path = folder / "training.json"
    path.write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    return path


def thinned(curve: list, points: int = CURVE_POINTS) -> list:
    """The curve in at most `points` entries, each the mean of its neighbours at the last one's step."""
    group = -(-len(curve) // points) if curve else 1
    parts = [curve[i : i + group] for i in range(0, len(curve), group)]
    return [[p[-1][0], p[-1][1], round(sum(entry[2] for entry in p) / len(p), 5)] for p in parts]


def machine(device: str) -> str:
    """What trained, in words."""
    import torch

    if device.startswith("cuda"):
        return torch.cuda.get_device_name(device)
    cpu = Path("/proc/cpuinfo")
    model = ""
    if cpu.exists():
        model = next((line.split(":")[1] for line in cpu.read_text().splitlines() if "model name" in line), "")
    return f"{os.cpu_count()} cores of {model.strip() or platform.processor() or platform.machine()}"
