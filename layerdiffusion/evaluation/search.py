"""`evaluate search`: every method's main dial, chosen on edits that are not in the bench; the search written down.

A comparison is fair only if each method runs as well as it can. So each gets the same number of tries on the same
edits and seeds, ours too, and the same figure decides.
"""

from __future__ import annotations

import argparse
import functools
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from layerdiffusion.errors import EditError
from layerdiffusion.evaluation.bench import add_bench_arguments, check, command_line, model_name
from layerdiffusion.evaluation.metrics import LEVEL, RESAMPLES, edit_means
from layerdiffusion.evaluation.variants import Column

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
NOTHING, ALL = 10.0, 30.0  # dB: what another place of the toybox has, and what the autoencoder leaves of the right one
TIE = 0.01  # a score that beats the authors' own values by no more than this doesn't replace them
WRITTEN = ("search.json", "search.md")


@dataclass(frozen=True)
class Candidate:
    """One try: a method with these values of its main dial; `default`: the authors' own."""

    column: Column
    values: dict[str, float]
    default: bool


@dataclass(frozen=True)
class Tried:
    """What a try came to. Shares are of pictures; `low` and `high` bound the score, by bootstrap over edits."""

    method: str
    column: str
    values: dict[str, float]
    default: bool
    chosen: bool
    score: float
    low: float
    high: float
    satisfied: float
    kept: float
    background: float  # 0 … 1, see `likeness`
    background_psnr: float  # dB
    clip_score: float
    edits: int


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of `evaluate search`."""
    add_bench_arguments(parser, model="miniature", seeds=4)
    parser.add_argument("--edits", type=int, default=12, metavar="N", help="how many tuning edits, default 12")


def run(args: argparse.Namespace) -> int:
    """Try, choose, write `search.json` and `search.md`; 0 when every try was done, 1 when some edits failed."""
    from tqdm import tqdm

    from layerdiffusion.evaluation.datasets.toybench import tuning_edits
    from layerdiffusion.evaluation.records import Records
    from layerdiffusion.evaluation.runner import Worker, run_bench

    chosen, settings = check(args)
    tries = candidates(chosen)
    records, command = Records(args.out), command_line(args)
    load = functools.partial(Worker.load, model_name(args), args.device, 1 if args.ray else None)
    with tqdm(total=len(tries) * args.edits, unit="record", disable=args.json) as bar:
        outcome = run_bench(
            tuning_edits(args.edits),
            [candidate.column for candidate in tries],
            settings,
            records,
            load,
            args.ray,
            lambda progress: bar.update(progress.done - bar.n),
            workers=args.workers,
            about={"bench": "search", "command": command},
        )
    found = choose(records.read(), tries)
    page = write_search(args.out, found, {"command": command, "model": args.model, "seeds": list(settings.seeds)})
    print(json.dumps([asdict(one) for one in found]) if args.json else page)
    for failed in outcome.failed:
        print(f"{failed.edit}, {failed.column}: {failed.reason}", file=sys.stderr)
    return 1 if outcome.failed else 0


def candidates(columns: Sequence[Column]) -> list[Candidate]:
    """Every value of each method's main dial, laid over the method's column.

    Raises `EditError` for a row or a variant: it takes the values of its method.
    """
    found = []
    for column in columns:
        if column.name not in GRIDS:
            raise EditError(f"{column.name} takes the values of {column.method}; search for those of whole methods.")
        for index, values in enumerate(GRIDS[column.name]):
            name = "-".join([column.name, *(f"{dial}-{value:g}" for dial, value in values.items())])
            told = ", ".join(f"{dial} = {value:g}" for dial, value in values.items())
            ours = column.method == "ours"
            tried = replace(
                column,
                name=name,
                settings=column.settings | (values if ours else {}),
                options=column.options | ({} if ours else values),
                says=f"{column.says}, {told}",
            )
            found.append(Candidate(tried, values, index == 0))
    return found


def score(satisfied: float, kept: float, background: float) -> float:
    """What a dial is chosen by: the harmonic mean of the three things that an edit promises, each 0 … 1.

    They are the share of pictures that show all the prompt asks for, the share that keep what it doesn't name (the
    subject's paint and size), and the likeness of the background. All three, because each dial trades one for
    another: an SDEdit of strength 0 keeps everything and obeys nothing, one of strength 1 the reverse. The harmonic
    mean, because in a plain one two promises kept to the full outweigh a third that is broken; here a result that does
    nothing, or forgets the photo, scores near nothing. None of the three is CLIP's word, which the paper reports
    and a dial could be tuned to please.
    """
    return 3 / (1 / satisfied + 1 / kept + 1 / background) if min(satisfied, kept, background) > 0 else 0.0


def likeness(psnr: float | None) -> float | None:
    """A background's PSNR on a scale from `NOTHING`, 0, to `ALL`, 1."""
    return None if psnr is None else float(np.clip((psnr - NOTHING) / (ALL - NOTHING), 0, 1))


def choose(records: Sequence[dict[str, Any]], tries: Sequence[Candidate]) -> list[Tried]:
    """What each try came to, and which of a method's is chosen: the best score, of equal ones the authors' own.

    Only edits that all of a method's tries have are counted. Raises `EditError` where there are none, or no judge.
    """
    by_name: dict[str, dict[str, list[dict[str, Any]]]] = {}
    for record in records:
        by_name.setdefault(record["column"], {})[record["edit"]] = record["measures"]
    found: list[Tried] = []
    for method in dict.fromkeys(candidate.column.method for candidate in tries):
        own = [candidate for candidate in tries if candidate.column.method == method]
        everywhere = [set(by_name.get(candidate.column.name, {})) for candidate in own]
        edits = sorted(set.intersection(*everywhere))
        if not edits:
            raise EditError(f"No edit has been finished with every value of {method}; run the search again.")
        results = [_tried(candidate, [by_name[candidate.column.name][edit] for edit in edits]) for candidate in own]
        default = next(one for one in results if one.default)
        best = max(results, key=lambda one: one.score)
        winner = best if best.score > default.score + TIE else default
        found += [replace(one, chosen=one is winner) for one in results]
    return found


def _tried(candidate: Candidate, measures: Sequence[Sequence[dict[str, Any]]]) -> Tried:
    """One try's figures; `measures`: by edit, by picture."""
    if not all("satisfied" in picture for pictures in measures for picture in pictures):
        raise EditError("A search needs a judge to tell right from wrong; use a model that has one, as the miniature.")

    def means(name: str) -> np.ndarray:
        return edit_means([[picture[name] for picture in pictures] for pictures in measures])

    likenesses = edit_means([[likeness(picture["background_psnr"]) for picture in pictures] for pictures in measures])
    parts = means("satisfied"), means("kept"), likenesses
    shares = [float(part.mean()) if len(part) else 0.0 for part in parts]
    low, high = _bounds(parts)
    return Tried(
        method=candidate.column.method,
        column=candidate.column.name,
        values=dict(candidate.values),
        default=candidate.default,
        chosen=False,
        score=score(*shares),
        low=low,
        high=high,
        satisfied=shares[0],
        kept=shares[1],
        background=shares[2],
        background_psnr=float(means("background_psnr").mean()),
        clip_score=float(means("clip_score").mean()),
        edits=len(measures),
    )


def _bounds(parts: Sequence[np.ndarray]) -> tuple[float, float]:
    """The ends of the score's interval, edits drawn again."""
    count = min(map(len, parts))
    if not count:
        return 0.0, 0.0
    drawn = np.random.default_rng(0).integers(count, size=(RESAMPLES, count))
    scores = [score(*shares) for shares in zip(*(part[drawn].mean(1) for part in parts), strict=True)]
    low, high = np.quantile(scores, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def flags(found: Sequence[Tried]) -> list[str]:
    """The `--set` flags that give a bench the chosen values."""
    return [
        f"--set {name}={value:g}" if one.method == "ours" else f"--set {one.method}.{name}={value:g}"
        for one in found
        if one.chosen
        for name, value in one.values.items()
    ]


def write_search(folder: str | Path, found: Sequence[Tried], about: dict[str, Any]) -> str:
    """Write `search.json` and `search.md` to `folder`; the latter's text. Raises `EditError`."""
    folder = Path(folder)
    chosen = {one.method: one.values for one in found if one.chosen}
    data = {
        **about,
        "score": " ".join(score.__doc__.split()),
        "background": f"0 at {NOTHING:g} dB or less, 1 at {ALL:g} dB or more",
        "tie": TIE,
        "chosen": chosen,
        "flags": flags(found),
        "tried": [asdict(one) for one in found],
    }
    page = _page(found, about)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in zip(WRITTEN, (json.dumps(data, indent=1, ensure_ascii=False) + "\n", page), strict=True):
            (folder / name).write_text(text, encoding="utf-8")
    except OSError as error:
        raise EditError(
            f"The search can't be saved to {folder} ({error.strerror or error}); free some space or choose another."
        ) from error
    return page


def _page(found: Sequence[Tried], about: dict[str, Any]) -> str:
    count = len(about["seeds"])
    pictures = "one picture" if count == 1 else f"{count} pictures"
    lines = [
        f"Each method's main dial, on the same {found[0].edits} tuning edits with {pictures} each, none of them",
        "in the bench. The score is the harmonic mean of three: the share of pictures that show all the prompt asks",
        "for, the share that keep what it doesn't name, and the background's likeness "
        f"(0 at {NOTHING:g} dB, 1 at {ALL:g} dB);",
        "in brackets its 95 % interval, by bootstrap over edits. The authors' own values (\\*) are left only for a",
        f"score that is higher by more than {TIE:g}.",
        "",
        "| method | values | score | as asked | kept | background | CLIP score | |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for one in found:
        values = ", ".join(f"{name} {value:g}" for name, value in one.values.items()) + (r" \*" if one.default else "")
        cells = [
            one.method,
            values,
            f"{one.score:.3f} [{one.low:.3f}, {one.high:.3f}]",
            f"{100 * one.satisfied:.0f} %",
            f"{100 * one.kept:.0f} %",
            f"{one.background_psnr:.1f} dB",
            f"{one.clip_score:.3f}",
            "**chosen**" if one.chosen else "",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, "", f"`{about['command']}`", "", f"The bench with these: `{' '.join(flags(found))}`", ""])
