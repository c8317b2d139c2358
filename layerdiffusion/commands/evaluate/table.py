"""`evaluate table`: the tables of a bench, from every picture's measures."""

from __future__ import annotations

import argparse
from pathlib import Path

from layerdiffusion.evaluation.report import markdown, read_measures


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of `evaluate table`."""
    parser.add_argument("measures", type=Path, metavar="FILE", help="the measures.csv of a bench")


def run(args: argparse.Namespace) -> int:
    """Print Markdown; 0."""
    print(markdown(read_measures(args.measures)))
    return 0
