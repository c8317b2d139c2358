"""`python -m layerdiffusion evaluate WHAT`: for each measure a module with `add_arguments` and `run`."""

from __future__ import annotations

import argparse
import sys
from importlib import import_module

# What can be measured: the module that does it, and a line of help.
MEASURES = {
    "miniature": ("layerdiffusion.evaluation.miniature", "the embedded models against the bars they are to reach"),
    "edits": ("layerdiffusion.evaluation.edits", "edits of the toybox, pose and place, against words alone"),
    "toybench": ("layerdiffusion.evaluation.bench", "ours, its rivals and the rows of Table 1 on the toybox"),
    "tedbench": (
        "layerdiffusion.evaluation.datasets.tedbench",
        "the same on a folder of photographs laid out as TEdBench",
    ),
    "search": ("layerdiffusion.evaluation.search", "the main dial of each method, chosen on edits of their own"),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """A sub-command for each measure; only the module of the one asked for is imported."""
    measures = parser.add_subparsers(dest="measure", metavar="what", required=True)
    asked = [word for word in sys.argv[1:] if word in MEASURES]
    for name, (module, summary) in MEASURES.items():
        measure = measures.add_parser(name, help=summary, description=f"{summary.capitalize()}.", allow_abbrev=False)
        if not asked or name in asked:
            command = import_module(module)
            command.add_arguments(measure)
            measure.set_defaults(run_measure=command.run)


def run(args: argparse.Namespace) -> int:
    """Hand over to the measure; its exit status."""
    return args.run_measure(args)
