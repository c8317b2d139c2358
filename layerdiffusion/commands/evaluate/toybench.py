"""`evaluate toybench`: our method, baselines and the rows of Table 1 on edits of the toybox whose answer is known."""

from __future__ import annotations

import argparse

from layerdiffusion.commands.evaluate.bench import add_bench_arguments, check, run_and_report, worker_loader
from layerdiffusion.evaluation.datasets.toybench import toybench, tuning_edits


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of `evaluate toybench`."""
    add_bench_arguments(parser, model="miniature", seeds=4)
    parser.add_argument("--edits", type=int, default=60, metavar="N", help="how many edits, default 60")
    parser.add_argument("--tuning", action="store_true", help="on the edits that dials are chosen on instead")


def run(args: argparse.Namespace) -> int:
    """Edit, measure, print and report; 0 when every record is there, 1 when some edits failed."""
    check(args)
    edits = (tuning_edits if args.tuning else toybench)(args.edits)
    return run_and_report(args, "toybench, tuning edits" if args.tuning else "toybench", edits, worker_loader(args))
