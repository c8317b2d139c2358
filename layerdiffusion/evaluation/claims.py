"""What a folder of records shows: means with their intervals, and the paper's claims tested one by one."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from layerdiffusion.baselines import LABELS
from layerdiffusion.evaluation.datasets.toybench import KINDS
from layerdiffusion.evaluation.variants import METHOD_VARIANTS, TABLE_1

LEVEL, RESAMPLES = 0.95, 10_000

Values = Sequence[float | None]  # of one edit, one a picture; None and NaN are left out


class Interval(NamedTuple):
    """A mean and the ends of its interval; NaN where there is nothing to take the mean of."""

    mean: float
    low: float
    high: float


def bootstrap(values_by_edit: Sequence[Values]) -> Interval:
    """The mean over edits of each edit's mean, and its 95 % percentile bootstrap interval over edits.

    The edits are drawn again, not the pictures: seeds of one edit succeed and fail together, and an interval over
    pictures would be too narrow. An edit without any value is left out. The same values give the same interval.
    """
    from scipy import stats

    known = ([float(v) for v in values if v is not None and not np.isnan(v)] for values in values_by_edit)
    means = np.array([np.mean(values) for values in known if values])
    if len(means) < 2:
        only = float(means[0]) if len(means) else float("nan")
        return Interval(only, only, only)
    low, high = stats.bootstrap(
        (means,), np.mean, n_resamples=RESAMPLES, confidence_level=LEVEL, method="percentile",
        rng=np.random.default_rng(0),
    ).confidence_interval  # fmt: skip
    return Interval(float(means.mean()), float(low), float(high))


HOLDS, FAILS, UNDECIDED, UNMEASURED = "holds", "does not hold", "undecided", "not measured"
OURS, BASELINES = "ours", ("sdedit", "imagic", "pnp")
BOTH = "both"  # the kind of edit that the paper is about
DIGITS = {"dB": 1, "cosine": 3}


class Measure(NamedTuple):
    """One measure of the tables; of each, more is better."""

    name: str  # as in a record's measures
    label: str
    unit: str  # "share", "dB" or "cosine"
    description: str

    def format_value(self, value: float) -> str:
        """The value with as many digits as mean something."""
        text = f"{100 * value:.0f} %" if self.unit == "share" else f"{value:.{DIGITS[self.unit]}f}"
        return text.replace("-", "−")

    def format_interval(self, interval: Interval | None) -> str:
        """The mean and its 95 % interval, as in "62 % [55, 69]"; "–" where nothing was measured."""
        if interval is None:
            return "–"
        low, high = (self.format_value(value).removesuffix(" %") for value in interval[1:])
        return f"{self.format_value(interval.mean)} [{low}, {high}]"


MEASURES = tuple(
    Measure(*one)
    for one in (
        ("as_wanted", "as wanted", "share", "pictures as asked, with the looks kept and the subject whole"),
        ("satisfied", "as asked", "share", "pictures in which the judge sees all that the prompt names"),
        ("kept", "looks kept", "share", "pictures that kept what only the photo shows, such as paint and marking"),
        ("outlined", "whole", "share", "pictures whose subject has its own outline in the pose asked for"),
        *(
            (name, name, "share", f"pictures with the right {name}, by the judge")
            for name in ("animal", "pose", "place", "paint", "size", "marking", "accent")
        ),
        ("clip_score", "CLIP score", "cosine", "cosine of the picture's and the prompt's CLIP embeddings"),
        ("clipscore", "CLIPScore", "cosine", "2.5 · max(0, cosine), with the prefix “A photo depicts”"),
        ("subject_likeness", "subject likeness", "cosine", "cosine of CLIP embeddings of both subjects, cut out"),
        ("dino_likeness", "subject likeness, DINOv2", "cosine", "the same by DINOv2 (DreamBooth's DINO score)"),
        ("background_psnr", "background, dB", "dB", "PSNR of the background off both subjects"),
        ("background_likeness", "background, 1 − LPIPS", "cosine", "1 − LPIPS of the same pixels"),
    )
)
_BY_NAME = {measure.name: measure for measure in MEASURES}
WANTED, SATISFIED, PRESERVED, OUTLINED, CLIP, LIKENESS, BACKGROUND = (
    _BY_NAME[name]
    for name in ("as_wanted", "satisfied", "kept", "outlined", "clip_score", "subject_likeness", "background_psnr")
)


@dataclass(frozen=True)
class Comparison:
    """`better` minus `worse` in one measure, over the edits that both have."""

    better: str
    worse: str
    measure: Measure
    difference: Interval | None
    edits: int

    @property
    def verdict(self) -> str:
        """By the interval alone: above zero, not above it, or on both sides of it."""
        if self.difference is None:
            return UNMEASURED
        if self.difference.low > 0:
            return HOLDS
        return FAILS if self.difference.high <= 0 else UNDECIDED


@dataclass(frozen=True)
class Claim:
    """A claim of the paper in one measure: it holds where all its comparisons do, and fails where one does."""

    title: str
    paper: str  # what the paper reports
    measure: Measure
    comparisons: tuple[Comparison, ...]

    @property
    def verdict(self) -> str:
        verdicts = [comparison.verdict for comparison in self.comparisons]
        return next((found for found in (FAILS, UNDECIDED, UNMEASURED) if found in verdicts), HOLDS)


class BenchResults:
    """The records of a bench, by edit and variant."""

    def __init__(self, records: Iterable[dict[str, Any]]) -> None:
        self.records = list(records)
        self.by_name = {(record["edit"], record["variant"]): record for record in self.records}
        self.kind = {record["edit"]: record["kind"] for record in self.records}
        order = [BOTH, *KINDS]  # the paper's own kind comes first, those of another bench last
        self.kinds = sorted({*self.kind.values()}, key=lambda kind: (*order, kind).index(kind))
        self.seeds = sorted({seed for record in self.records for seed in record["seeds"]})
        present = dict.fromkeys(record["variant"] for record in self.records)
        self.rows = [name for name in TABLE_1 if name in present]
        self.methods = [name for name in METHOD_VARIANTS if name in present]
        self.ablations = [name for name in present if name not in self.methods and name not in self.rows]
        self.variants = [*self.methods, *self.rows, *self.ablations]
        self.full = "f" if "f" in present else OURS  # row (f) has the paper's weights, ours the model's own
        pictures = [picture for record in self.records for picture in record["measures"]]
        self.measures = [m for m in MEASURES if any(_is_number(picture.get(m.name)) for picture in pictures)]
        self.main = WANTED if WANTED in self.measures else CLIP  # without a judge, the paper's own measure

    def of(self, variant: str) -> list[dict[str, Any]]:
        """The variant's records."""
        return [record for record in self.records if record["variant"] == variant]

    def values(self, variant: str, measure: Measure, kinds: Sequence[str] = ()) -> dict[str, dict[int, float]]:
        """Edit → seed → value; what was not measured, or isn't finite, is left out."""
        found = {}
        for record in self.of(variant):
            pictures = {
                picture["seed"]: float(picture[measure.name])
                for picture in record["measures"]
                if _is_number(picture.get(measure.name))
            }
            if pictures and (not kinds or record["kind"] in kinds):
                found[record["edit"]] = pictures
        return found

    def interval(self, variant: str, measure: Measure, kinds: Sequence[str] = ()) -> Interval | None:
        """Mean and 95 % interval over edits; None where nothing was measured."""
        values = [list(seeds.values()) for seeds in self.values(variant, measure, kinds).values()]
        return bootstrap(values) if values else None

    def compare(self, better: str, worse: str, measure: Measure, kinds: Sequence[str] = ()) -> Comparison:
        """The difference of two variants, edit by edit and seed by seed."""
        first, second = self.values(better, measure, kinds), self.values(worse, measure, kinds)
        pairs = [
            [value - second[edit][seed] for seed, value in seeds.items() if seed in second[edit]]
            for edit, seeds in first.items()
            if edit in second
        ]
        pairs = [pair for pair in pairs if pair]
        return Comparison(better, worse, measure, bootstrap(pairs) if pairs else None, len(pairs))

    def claims(self) -> list[Claim]:
        """The paper's claims, tested on these records."""
        both = (BOTH,) if BOTH in self.kinds else ()
        edits = "on edits that change pose and background" if both else "on these edits"
        ahead = [measure for measure in (WANTED, SATISFIED, CLIP) if measure in self.measures] or [self.main]

        def claim(
            title: str, paper: str, measure: Measure, of: str, over: Iterable[str], kinds: Sequence[str] = ()
        ) -> Claim:
            return Claim(title, paper, measure, tuple(self.compare(of, worse, measure, kinds) for worse in over))

        title, paper = (
            f"Ours is ahead of the compared methods {edits}",
            "ours leads in CLIP score and in the user study",
        )
        found = [claim(title, paper, measure, OURS, BASELINES, both) for measure in ahead]
        title = "Each part earns its place: row (f) is ahead of (a), (b), (g), (h) and (i)"
        paper = "CLIP .35 against .28, .32, .33, .32 and .29"
        found += [claim(title, paper, measure, self.full, "abghi") for measure in ahead]
        title, paper = "Stage 3 lifts the share of results that satisfy the text", "from 43 % without it to 81 %"
        found.append(claim(title, paper, SATISFIED, self.full, "i"))
        title, paper = "Stage 1 makes the background more similar", "claimed of row (g), without a figure"
        found.append(claim(title, paper, BACKGROUND, self.full, "g"))
        if layered := [name for name in self.methods if name.endswith("-layered")]:
            title = f"Ours is still ahead {edits} when the baselines are given the layered picture as well"
            found.append(claim(title, "not tested", self.main, OURS, layered, both))
        return found


def label(variant: str) -> str:
    """A variant's name for people: "Plug-and-Play", "(a)", or as it is."""
    if variant in TABLE_1:
        return f"({variant})"
    if variant in METHOD_VARIANTS:
        method = METHOD_VARIANTS[variant].method
        name = "Ours" if method == OURS else LABELS[method]
        return f"{name}, {variant.rpartition('-')[2]}" if variant not in (method, OURS) else name
    return variant


def kind_label(kind: str) -> str:
    return KINDS.get(kind, kind)


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value)
