"""`evaluate toybench`: our method, baselines and the rows of Table 1 on edits of the toybox whose answer is known."""

from __future__ import annotations

import argparse

from layerdiffusion.commands.evaluate.bench import add_bench_arguments, check, run_and_report, worker_loader
from layerdiffusion.evaluation.datasets.toybench import FULL, toybench, tuning_edits

TUNING = 12  # edits that dials are chosen on, unless asked for otherwise


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of `evaluate toybench`."""
    add_bench_arguments(parser, model="miniature", seeds=4)
    whole = ",".join(f"{kind}={number}" for kind, number in FULL.items())
    words = f"how many edits, each kind in turn, or how many of which kind; default {whole}; with --tuning {TUNING}"
    parser.add_argument("--edits", type=edit_counts, metavar="N|KIND=N,…", help=words)
    parser.add_argument("--tuning", action="store_true", help="on the edits that dials are chosen on instead")
    parser.add_argument("--no-shape", action="store_true", help="don't measure outlines: a third of a second a picture")


def edit_counts(text: str) -> int | dict[str, int]:
    """A flag's number of edits: `60`, or `both=30,pose=20`."""
    try:
        if "=" not in text:
            return int(text)
        return {kind.strip(): int(number) for kind, number in (part.split("=") for part in text.split(","))}
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of edits; give 60, or both=30,pose=20") from None


def run(args: argparse.Namespace) -> int:
    """Edit, measure, print and report; 0 when every record is there, 1 when some edits failed."""
    check(args)
    make, usual = (tuning_edits, TUNING) if args.tuning else (toybench, FULL)
    edits = make(usual if args.edits is None else args.edits)
    name = "toybench, tuning edits" if args.tuning else "toybench"
    return run_and_report(args, name, edits, worker_loader(args, shape=not args.no_shape))
