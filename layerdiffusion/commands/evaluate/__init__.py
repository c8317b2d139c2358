"""`python -m layerdiffusion evaluate WHAT`: for each measure a module with `add_arguments` and `run`."""

import argparse

# What can be measured: the module that does it, and a line of help.
EVALUATIONS = {
    "miniature": ("layerdiffusion.evaluation.miniature", "the embedded models against the bars they are to reach"),
    "edits": ("layerdiffusion.commands.evaluate.edits", "edits of pose and place, against the bars they are to reach"),
    "toybench": ("layerdiffusion.commands.evaluate.toybench", "ours, baselines and the rows of Table 1 on the toybox"),
    "tedbench": (
        "layerdiffusion.commands.evaluate.tedbench",
        "the same on a folder of photographs laid out as TEdBench",
    ),
    "pie-bench": ("layerdiffusion.commands.evaluate.pie_bench", "the same on one laid out as PIE-Bench"),
    "table": ("layerdiffusion.commands.evaluate.table", "the tables of a bench, as Markdown, from its measures.csv"),
    "search": (
        "layerdiffusion.commands.evaluate.search",
        "the main dial of each method, chosen on edits of their own",
    ),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """A sub-command for each measure; only the module of the one asked for is imported."""
    measures = parser.add_subparsers(dest="measure", metavar="what", required=True)
    for name, (module, summary) in EVALUATIONS.items():
        measures.add_parser(name, help=summary, description=f"{summary.capitalize()}.", module=module)
