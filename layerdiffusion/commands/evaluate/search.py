"""`evaluate search`: every method's main dial, chosen on edits that are not in the bench.

A comparison is fair only if each method runs as well as it can. So each gets the same number of tries on the same
edits and seeds, ours too, and the same figure decides.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from statistics import harmonic_mean
from typing import Any

from layerdiffusion.commands.evaluate.bench import (
    add_bench_arguments,
    check,
    command_line,
    run_variants,
    worker_loader,
)
from layerdiffusion.errors import EditError
from layerdiffusion.evaluation.claims import BACKGROUND, PRESERVED, SATISFIED, BenchResults
from layerdiffusion.evaluation.datasets.toybench import tuning_edits
from layerdiffusion.evaluation.records import Records
from layerdiffusion.evaluation.variants import Variant
from layerdiffusion.files import saving, write_files
from layerdiffusion.scoring import PLACE_PSNR, scaled

# By method, the values tried. The first are the authors' own (ours: the paper's), and they win a tie.
GRIDS: dict[str, tuple[dict[str, float], ...]] = {
    "ours": tuple({"alpha": alpha} for alpha in (0.7, 0.3, 0.5, 0.8, 0.9, 1.0)),
    "sdedit": tuple({"strength": strength} for strength in (0.8, 0.4, 0.5, 0.6, 0.7, 0.9)),
    "imagic": tuple({"alpha": alpha} for alpha in (0.7, 0.4, 0.55, 0.85, 1.0, 1.2)),
    "pnp": tuple(
        {"attention_share": attention, "feature_share": feature}
        for attention, feature in ((0.5, 0.8), (0.5, 0.5), (0.3, 0.5), (0.2, 0.3), (0.1, 0.2), (0.0, 0.1))
    ),
}
TIE = 0.01  # a score that beats the authors' own values by no more than this doesn't replace them


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of `evaluate search`."""
    add_bench_arguments(parser, model="miniature", seeds=4)
    parser.add_argument("--edits", type=int, default=12, metavar="N", help="how many tuning edits, default 12")


def run(args: argparse.Namespace) -> int:
    """Try, choose, write `search.json`; 0 when every try was done, 1 when some edits failed."""
    chosen, settings = check(args)
    tries = [(v, candidates(v)) for v in chosen]
    edits, load = tuning_edits(args.edits), worker_loader(args)
    variants = [variant for _, found in tries for variant in found]
    outcome = run_variants(args, "search", edits, variants, settings, load)
    bench = BenchResults(Records(args.out).read())
    scores = {variant.name: scores_of(bench, [one.name for one in found]) for variant, found in tries}
    best = {name: choose(found) for name, found in scores.items()}
    flags = [
        f"--set {'' if name == 'ours' else name + '.'}{dial}={value:g}"
        for name, at in best.items()
        for dial, value in GRIDS[name][at].items()
    ]
    answer = {
        "command": command_line(args),
        "scores": scores,
        "grids": {name: GRIDS[name] for name in best},
        "flags": flags,
    }
    with saving("The search", args.out):
        write_files({args.out / "search.json": (json.dumps(answer, indent=1) + "\n").encode()})
    if args.json:
        print(json.dumps(answer))
    else:
        for name, at in best.items():
            for index, (values, score) in enumerate(zip(GRIDS[name], scores[name], strict=True)):
                dials = ", ".join(f"{dial} {value:g}" for dial, value in values.items())
                print(f"{name:8}{dials:44}{score:.3f}{'  chosen' if index == at else ''}")
        print(" ".join(flags))
    for failed in outcome.failed:
        print(f"{failed.edit}, {failed.variant}: {failed.reason}", file=sys.stderr)
    return 1 if outcome.failed else 0


def candidates(variant: Variant) -> list[Variant]:
    """The variant with each value of its method's main dial. Raises `EditError` for one that has no dial of its own."""
    if variant.name not in GRIDS:
        raise EditError(f"{variant.name} takes the values of {variant.method}; search for those of whole methods.")
    found = []
    for values in GRIDS[variant.name]:
        name = "-".join([variant.name, *(f"{dial}-{value:g}" for dial, value in values.items())])
        place = "settings" if variant.method == "ours" else "options"
        found.append(replace(variant, name=name, **{place: getattr(variant, place) | values}))
    return found


def scores_of(bench: BenchResults, names: Sequence[str]) -> list[float]:
    """Each variant's score, on the edits that all of them have.

    The score is the harmonic mean of three shares, since each dial trades one for another and none may be given up: of
    pictures that show all the prompt asks for, of those that keep what it doesn't name, and the background's PSNR on a
    scale from 0 to 1. Raises `EditError` where no edit is finished with all values, or nobody judges.
    """
    records = [{record["edit"]: record["measures"] for record in bench.of(name)} for name in names]
    edits = set.intersection(*map(set, records))
    if not edits:
        raise EditError(f"No edit has been finished with every value of {names[0]}; run the search again.")
    return [_score([picture for edit in edits for picture in found[edit]]) for found in records]


def _score(pictures: Sequence[Mapping[str, Any]]) -> float:
    if not all(SATISFIED.name in picture for picture in pictures):
        raise EditError("A search needs a judge to tell right from wrong; use a model that has one, as the miniature.")
    places = [scaled(p[BACKGROUND.name], *PLACE_PSNR) for p in pictures if p[BACKGROUND.name] is not None]
    shares = [sum(picture[name] for picture in pictures) / len(pictures) for name in (SATISFIED.name, PRESERVED.name)]
    return harmonic_mean([*shares, sum(places) / max(len(places), 1)])


def choose(scores: Sequence[float]) -> int:
    """Which score is best; the first one, of the authors' own values, unless it is beaten by more than `TIE`."""
    best = max(range(len(scores)), key=lambda at: scores[at])
    return best if scores[best] > scores[0] + TIE else 0
