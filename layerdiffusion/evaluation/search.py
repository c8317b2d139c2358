"""Every method's main dial, chosen on edits that are not in the bench; the search written down.

A comparison is fair only if each method runs as well as it can. So each gets the same number of tries on the same
edits and seeds, ours too, and the same figure decides.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from layerdiffusion.errors import EditError
from layerdiffusion.evaluation.fit import PLACE, scaled
from layerdiffusion.evaluation.report.template import render
from layerdiffusion.evaluation.statistics import bounds, edit_means
from layerdiffusion.evaluation.variants import Variant

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
NOTHING, ALL = PLACE
TIE = 0.01  # a score that beats the authors' own values by no more than this doesn't replace them
WRITTEN = ("search.json", "search.md")


@dataclass(frozen=True)
class Candidate:
    """One try: a method with these values of its main dial; `default`: the authors' own."""

    variant: Variant
    values: dict[str, float]
    default: bool


@dataclass(frozen=True)
class Tried:
    """The figures of a try. Shares are of pictures; `low` and `high` bound the score, by bootstrap over edits."""

    method: str
    variant: str
    values: dict[str, float]
    default: bool
    chosen: bool
    score: float
    low: float
    high: float
    satisfied: float
    preserved: float
    background: float  # 0 … 1, see `likeness`
    background_psnr: float  # dB
    clip_score: float
    edits: int


def candidates(variants: Sequence[Variant]) -> list[Candidate]:
    """Every value of each method's main dial, laid over the method's own variant.

    Raises `EditError` for a row or a layered method: it takes the values of its method.
    """
    found = []
    for variant in variants:
        if variant.name not in GRIDS:
            raise EditError(f"{variant.name} takes the values of {variant.method}; search for those of whole methods.")
        for index, values in enumerate(GRIDS[variant.name]):
            name = "-".join([variant.name, *(f"{dial}-{value:g}" for dial, value in values.items())])
            description = ", ".join(f"{dial} = {value:g}" for dial, value in values.items())
            ours = variant.method == "ours"
            tried = replace(
                variant,
                name=name,
                settings=variant.settings | (values if ours else {}),
                options=variant.options | ({} if ours else values),
                description=f"{variant.description}, {description}",
            )
            found.append(Candidate(tried, values, index == 0))
    return found


def score(satisfied: Any, preserved: Any, background: Any) -> Any:
    """What a dial is chosen by: the harmonic mean of the three things that an edit promises, each 0 … 1.

    They are the share of pictures that show all the prompt asks for, the share that keep what it doesn't name (the
    subject's paint and size), and the likeness of the background. All three, because each dial trades one for
    another: an SDEdit of strength 0 keeps everything and obeys nothing, one of strength 1 the reverse. The harmonic
    mean, because in a plain one two promises kept to the full outweigh a third that is broken; here a result that does
    nothing, or forgets the photo, scores near nothing. None of the three is CLIP's word, which the paper reports
    and a dial could be tuned to please.
    """
    with np.errstate(divide="ignore"):
        return 3 / sum(1 / np.asarray(part, float) for part in (satisfied, preserved, background))


def likeness(psnr: float | None) -> float | None:
    """A background's PSNR on a scale from `NOTHING`, 0, to `ALL`, 1."""
    return None if psnr is None else scaled(psnr, NOTHING, ALL)


def choose(records: Sequence[dict[str, Any]], tries: Sequence[Candidate]) -> list[Tried]:
    """The figures of each try, and which of a method's is chosen: the best score, of equal ones the authors' own.

    Only edits that all of a method's tries have are counted. Raises `EditError` where there are none, or no judge.
    """
    by_name: dict[str, dict[str, list[dict[str, Any]]]] = {}
    for record in records:
        by_name.setdefault(record["variant"], {})[record["edit"]] = record["measures"]
    found: list[Tried] = []
    for method in dict.fromkeys(candidate.variant.method for candidate in tries):
        own = [candidate for candidate in tries if candidate.variant.method == method]
        everywhere = [set(by_name.get(candidate.variant.name, {})) for candidate in own]
        edits = sorted(set.intersection(*everywhere))
        if not edits:
            raise EditError(f"No edit has been finished with every value of {method}; run the search again.")
        results = [_tried(candidate, [by_name[candidate.variant.name][edit] for edit in edits]) for candidate in own]
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
    count = min(map(len, parts))
    mean_score = lambda *parts, axis: score(*(part.mean(axis) for part in parts))  # noqa: E731
    low, high = bounds([part[:count] for part in parts], mean_score) if count else (0.0, 0.0)
    return Tried(
        method=candidate.variant.method,
        variant=candidate.variant.name,
        values=dict(candidate.values),
        default=candidate.default,
        chosen=False,
        score=float(score(*shares)),
        low=low,
        high=high,
        satisfied=shares[0],
        preserved=shares[1],
        background=shares[2],
        background_psnr=float(means("background_psnr").mean()),
        clip_score=float(means("clip_score").mean()),
        edits=len(measures),
    )


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
        "score": " ".join((score.__doc__ or "").split()),
        "background": f"0 at {NOTHING:g} dB or less, 1 at {ALL:g} dB or more",
        "tie": TIE,
        "chosen": chosen,
        "flags": flags(found),
        "tried": [asdict(one) for one in found],
    }
    notes = {"nothing": NOTHING, "all": ALL, "tie": TIE}
    page = render("search.md.j2", found=found, about=about, flags=flags(found), **notes)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in zip(WRITTEN, (json.dumps(data, indent=1, ensure_ascii=False) + "\n", page), strict=True):
            (folder / name).write_text(text, encoding="utf-8")
    except OSError as error:
        raise EditError(
            f"The search can't be saved to {folder} ({error.strerror or error}); free some space or choose another."
        ) from error
    return page
