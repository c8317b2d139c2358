"""`evaluate tedbench`: the same comparison on photographs, in a folder laid out as TEdBench is."""

from __future__ import annotations

import argparse
import functools
from pathlib import Path
from typing import TYPE_CHECKING

from layerdiffusion.commands.evaluate.bench import add_bench_arguments, check, run_and_report, worker_loader
from layerdiffusion.evaluation.datasets.tedbench import read_points, tedbench

if TYPE_CHECKING:
    from layerdiffusion.models.segmenter import Segmenter

POINTS_HELP = (
    'clicks on the subjects as JSON: {"dog.jpeg": [[120, 200]], "cat.jpeg": {"points": [[90, 80]], '
    '"not_points": [[30, 30]]}, "cup.jpeg": {"box": [20, 40, 90, 120]}}; else the centre of each picture; '
    "a mask that is in OUT/masks already is used as it is"
)

SAM_HELP = "miniature, vit_b, vit_l, vit_h, a file, a folder, or a hub id; else the model's"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of `evaluate tedbench`."""
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="input_list.json and originals/")
    parser.add_argument("--points", type=Path, metavar="FILE", help=POINTS_HELP)
    parser.add_argument("--edits", type=int, metavar="N", help="only the first so many")
    parser.add_argument("--sam", help=SAM_HELP)
    add_bench_arguments(parser, model="auto", seeds=2)


def run(args: argparse.Namespace) -> int:
    """Mark the subjects, edit, measure, print and report; 0 when every record is there, 1 when some edits failed."""
    check(args)
    sam = sam_of(args)

    @functools.cache
    def segmenter() -> Segmenter:
        from layerdiffusion.models.profile import device_profile
        from layerdiffusion.models.sam import load_sam
        from layerdiffusion.models.segmenter import Segmenter

        profile = device_profile(args.device)
        name = profile.segmenter if sam == "auto" else sam
        return Segmenter(load_sam(name, profile.device), resident=not profile.low_memory)

    edits = tedbench(args.data, segmenter, args.out / "masks", read_points(args.points), args.edits)
    return run_and_report(args, "tedbench", edits, worker_loader(args, sam))


def sam_of(args: argparse.Namespace) -> str:
    """Which SAM finds the subjects in photographs and results."""
    return args.sam or ("miniature" if args.model == "miniature" else "auto")
