"""`evaluate search`: every method's main dial, chosen on edits that are not in the bench."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict

from layerdiffusion.commands.evaluate.bench import (
    add_bench_arguments,
    check,
    command_line,
    run_variants,
    worker_loader,
)
from layerdiffusion.evaluation.datasets.toybench import tuning_edits
from layerdiffusion.evaluation.records import Records
from layerdiffusion.evaluation.search import candidates, choose, write_search


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of `evaluate search`."""
    add_bench_arguments(parser, model="miniature", seeds=4)
    parser.add_argument("--edits", type=int, default=12, metavar="N", help="how many tuning edits, default 12")


def run(args: argparse.Namespace) -> int:
    """Try, choose, write `search.json` and `search.md`; 0 when every try was done, 1 when some edits failed."""
    chosen, settings = check(args)
    tries = candidates(chosen)
    edits, load = tuning_edits(args.edits), worker_loader(args)
    outcome = run_variants(args, "search", edits, [one.variant for one in tries], settings, load)
    found = choose(Records(args.out).read(), tries)
    about = {"command": command_line(args), "model": args.model, "seeds": args.seeds}
    page = write_search(args.out, found, about)
    print(json.dumps([asdict(one) for one in found]) if args.json else page)
    for failed in outcome.failed:
        print(f"{failed.edit}, {failed.variant}: {failed.reason}", file=sys.stderr)
    return 1 if outcome.failed else 0
