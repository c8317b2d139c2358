"""`evaluate edits`: how many edits of pose and place come out as asked for, in the looks that only the photo shows."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np

from layerdiffusion.commands.bars import progress_bar
from layerdiffusion.commands.terminal import Seeds, assignments, with_changes, writable
from layerdiffusion.errors import EditError
from layerdiffusion.evaluation.datasets.toybench import POSE_SEED, POSE_TUNING_SEED, pose_edits
from layerdiffusion.files import saving, write_files
from layerdiffusion.images.io import png_bytes
from layerdiffusion.result import captioned
from layerdiffusion.settings import PRESET_FLAGS, Settings

LEAST_SHARES = {"in_its_looks": 0.80, "outlined": 0.70}
SHARE_NAMES = {"animal": "animal", "pose": "pose", "place": "place", "paint": "paint", "marking": "marking",
               "satisfied": "as asked", "kept": "looks kept", "in_its_looks": "as asked, in its looks",
               "outlined": "whole", "as_wanted": "as wanted"}  # fmt: skip


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of `evaluate edits`."""
    add = parser.add_argument
    add("--model", default="miniature", help="a model that knows the toybox, with its judge")
    add("--edits", type=int, default=24, metavar="N", help="how many edits, default 24")
    add("--seeds", action=Seeds, default=[0, 1, 2, 3], help="one picture an edit for each: 0 1 2 or 0-3, the default")
    add("--tuning", action="store_true", help="on the edits that defaults are chosen on instead")
    add("--preset", choices=PRESET_FLAGS, help="several settings at once")
    add("--set", action="append", default=[], metavar="NAME=VALUE", help="a setting other than the model's default")
    add("--pictures", type=Path, metavar="FILE", help="save photo, layers and results as one PNG sheet")
    add("--json", action="store_true", help="print what was measured of every picture as JSON")


def run(args: argparse.Namespace) -> int:
    """Edit, judge and print; 1 where a bar is missed, else 0."""
    changes = assignments(args.set)
    settings = with_changes(Settings(seeds=args.seeds), changes.pop("", {}))
    if changes:
        raise EditError(f"--set is of {next(iter(changes))}, but only settings can be changed here: NAME=VALUE.")
    if args.pictures:
        writable(args.pictures.parent)
    from layerdiffusion.evaluation.worker import Worker
    from layerdiffusion.models.memory import fitting_preset

    worker = Worker.load(args.model)
    if worker.measures.shapes is None:
        raise EditError(f"The model {worker.models.name} has no judge and SAM to measure with; use the miniature.")
    if args.preset:
        preset = fitting_preset(worker.models, PRESET_FLAGS[args.preset])
        settings = Settings.from_dict(preset.to_dict() | settings.to_dict())
    found, rows = [], []
    edits = pose_edits(args.edits, POSE_TUNING_SEED if args.tuning else POSE_SEED)
    for toy in progress_bar(edits, desc="edits", disable=args.json):
        result = worker.editor.run(toy.edit, settings)
        measured = worker.measures(toy, result.images, result.seeds)
        found += [{"edit": toy.id, **one, "in_its_looks": one["satisfied"] and one["kept"]} for one in measured]
        names = ("subject", "background", "layers")
        given = (result.layers.object_image, result.layers.background_image, result.layers.composite)
        shown = [
            ("as wanted" if one["as_wanted"] else "", image) for one, image in zip(measured, result.images, strict=True)
        ]
        rows.append([*zip(names, given, strict=True), *shown])
    if args.pictures:
        with saving("The sheet", args.pictures):
            write_files({args.pictures: png_bytes(captioned(rows))})
    shares = {name: float(np.mean([one[name] for one in found])) for name in SHARE_NAMES}
    print(json.dumps({"shares": shares, "pictures": found}) if args.json else _table(shares, found))
    return 0 if all(shares[name] >= bar for name, bar in LEAST_SHARES.items()) else 1


def _table(shares: dict[str, float], found: list[dict[str, Any]]) -> str:
    bars = {name: f"   bar {100 * bar:.0f} %" for name, bar in LEAST_SHARES.items()}
    lines = [f"{SHARE_NAMES[name]:26}{100 * share:5.1f} %{bars.get(name, '')}" for name, share in shares.items()]
    known = [one["background_psnr"] for one in found if one["background_psnr"] is not None]
    return "\n".join([*lines, f"{'background':26}{np.mean(known):5.1f} dB"])
