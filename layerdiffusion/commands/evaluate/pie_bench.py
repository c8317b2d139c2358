"""`evaluate pie-bench`: the same comparison on photographs with masks, in a folder laid out as PIE-Bench is."""

from __future__ import annotations

import argparse
from pathlib import Path

from layerdiffusion.commands.evaluate.bench import add_bench_arguments, check, names, run_and_report, worker_loader
from layerdiffusion.commands.evaluate.tedbench import SAM_HELP, sam_of
from layerdiffusion.evaluation.datasets.pie_bench import FIRST, TYPES, pie_bench


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of `evaluate pie-bench`."""
    words = "mapping_file.json and annotation_images/"
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help=words)
    types = ", ".join(f"{number} {name}" for number, name in TYPES.items())
    words = f"kinds of edit by PIE-Bench's numbers, default {','.join(FIRST)}: {types}"
    parser.add_argument("--types", type=names, default=[*FIRST], metavar="N,…", help=words)
    parser.add_argument("--edits", type=int, metavar="N", help="only the first so many")
    parser.add_argument("--sam", help=SAM_HELP)
    add_bench_arguments(parser, model="auto", seeds=2)


def run(args: argparse.Namespace) -> int:
    """Edit, measure, print and report; 0 when every record is there, 1 when some edits failed."""
    check(args)
    edits = pie_bench(args.data, args.types, args.edits)
    return run_and_report(args, "pie-bench", edits, worker_loader(args, sam_of(args)))
