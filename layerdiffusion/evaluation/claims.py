"""What a folder of records shows: means with their intervals, and the paper's claims tested one by one."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from layerdiffusion.evaluation.datasets.toybench import KINDS
from layerdiffusion.evaluation.given import GIVEN
from layerdiffusion.evaluation.statistics import Interval, bootstrap
from layerdiffusion.evaluation.variants import METHOD_VARIANTS, ROWS, TABLE_1
from layerdiffusion.methods.options import LABELS

HOLDS, FAILS, UNDECIDED, UNMEASURED = "holds", "does not hold", "undecided", "not measured"
OURS, OFFERED = "ours", "offered"
BOTH = "both"  # the kind of edit that the paper is about
BASELINES = ("sdedit", "imagic", "pnp")


class Measure(NamedTuple):
    """One measure of the tables; of each, more is better."""

    name: str  # as in a record's measures
    label: str
    unit: str  # "share", "dB", "cosine" or "rating"
    description: str

    def format_value(self, value: float) -> str:
        """The value with as many digits as mean something."""
        if self.unit == "share":
            return f"{100 * value:.0f} %".replace("-", "−")
        return (f"{value:.1f}" if self.unit in ("dB", "rating") else f"{value:.3f}").replace("-", "−")

    def format_interval(self, interval: Interval) -> str:
        """ "62 % [55, 69]": the mean, and where it may lie."""
        low, high = (self.format_value(value).removesuffix(" %") for value in interval[1:])
        return f"{self.format_value(interval.mean)} [{low}, {high}]"


WANTED = Measure(
    "as_wanted", "as wanted", "share", "pictures as asked that kept the rest of the subject's looks as well"
)
SATISFIED = Measure("satisfied", "as asked", "share", "pictures in which the judge sees all that the prompt names")
PRESERVED = Measure(
    "kept", "looks kept", "share", "pictures that kept what only the photo shows, such as paint and size"
)
OUTLINED = Measure(
    "outlined",
    "whole",
    "share",
    "pictures whose subject has its own outline in the pose asked for: IoU of 0.80 or more",
)
CLIP = Measure("clip_score", "CLIP score", "cosine", "cosine of the picture's and the prompt's CLIP embeddings")
BACKGROUND = Measure(
    "background_psnr", "background, dB", "dB", "PSNR against the wanted background, where neither has a subject"
)
LIKENESS = Measure(
    "subject_likeness",
    "subject likeness",
    "cosine",
    "cosine of CLIP embeddings of the result's subject and the photo's",
)
ATTRIBUTES = tuple(
    Measure(name, name, "share", f"pictures with the right {name}, by the judge")
    for name in ("animal", "pose", "place", "paint", "size")
)
MEASURES = (
    WANTED,
    SATISFIED,
    PRESERVED,
    OUTLINED,
    *ATTRIBUTES,
    CLIP,
    Measure("clipscore", "CLIPScore", "cosine", "2.5 · max(0, cosine), with the prefix “A photo depicts”"),
    LIKENESS,
    Measure("dino_likeness", "subject likeness, DINOv2", "cosine", "the same by DINOv2 (DreamBooth's DINO score)"),
    BACKGROUND,
    Measure("background_likeness", "background, 1 − LPIPS", "cosine", "1 − LPIPS of the same pixels"),
    *(
        Measure(f"vlm_{scale}", f"{scale}, 1 to 5", "rating", f"how right a vision-language model finds its {scale}")
        for scale in ("action", "subject", "background")
    ),
)

# The CLIP scores of the paper's Table 1: by another model and on other edits than any measured here.
PAPER_CLIP = {
    "a": 0.28, "b": 0.32, "c": 0.29, "d": 0.32, "e": 0.28, "f": 0.35,
    "g": 0.33, "h": 0.32, "i": 0.29, "j": 0.32, "k": 0.29,
}  # fmt: skip


@dataclass(frozen=True)
class Test:
    """One comparison: `better` minus `worse` in one measure, over the edits that both have."""

    __test__ = False  # not one of pytest's

    measure: Measure
    better: str
    worse: str
    difference: Interval | None
    edits: int

    @property
    def verdict(self) -> str:
        """By the interval alone: above nothing, not above it, or on both sides of it."""
        if self.difference is None:
            return UNMEASURED
        if self.difference.low > 0:
            return HOLDS
        return FAILS if self.difference.high <= 0 else UNDECIDED


@dataclass(frozen=True)
class Claim:
    """A claim of the paper and its tests; the verdict is that of the tests in its main measure."""

    title: str
    paper: str  # what the paper reports
    main: Measure
    tests: tuple[Test, ...]
    kinds: tuple[str, ...] = ()  # only edits of these; none: all of them

    @property
    def measures(self) -> list[Measure]:
        """Those it is tested in, the main one first."""
        return list(dict.fromkeys([self.main, *(test.measure for test in self.tests)]))

    def tests_in(self, measure: Measure) -> list[Test]:
        return [test for test in self.tests if test.measure == measure]

    def verdict_in(self, measure: Measure) -> str:
        """It holds where every test in this measure does, and doesn't where one doesn't."""
        verdicts = [test.verdict for test in self.tests_in(measure)]
        for found in (FAILS, UNDECIDED):
            if found in verdicts:
                return found
        return UNMEASURED if not verdicts or UNMEASURED in verdicts else HOLDS

    @property
    def verdict(self) -> str:
        """The verdict in the main measure."""
        return self.verdict_in(self.main)


class Bench:
    """The records of a bench, by edit and variant."""

    def __init__(self, records: Iterable[dict[str, Any]]) -> None:
        self.records = list(records)
        self._intervals: dict[tuple[str, Measure, tuple[str, ...]], Interval | None] = {}
        self.by_name = {(record["edit"], record["variant"]): record for record in self.records}
        self.kind = {record["edit"]: record["kind"] for record in self.records}
        self.edits = list(self.kind)
        order = [BOTH, *KINDS]  # the paper's own kind comes first, those of another bench last
        self.kinds = sorted(
            dict.fromkeys(self.kind.values()), key=lambda k: order.index(k) if k in order else len(order)
        )
        self.seeds = sorted({seed for record in self.records for seed in record["seeds"]})
        present = dict.fromkeys(record["variant"] for record in self.records)
        self.rows = [name for name in TABLE_1 if name in present]
        given = [record["variant"] for record in self.records if record.get("method") == GIVEN]
        self.methods = [name for name in dict.fromkeys([*METHOD_VARIANTS, *given]) if name in present]
        self.ablations = [name for name in present if name not in self.methods and name not in self.rows]
        self.variants = [*self.methods, *self.rows, *self.ablations]
        self.full = "f" if "f" in present else OURS  # row (f) has the paper's weights, ours the model's own
        found = {name for record in self.records for picture in record["measures"] for name in picture}
        self.measures = [measure for measure in MEASURES if measure.name in found and self.any(measure)]

    def any(self, measure: Measure) -> bool:
        return any(_number(picture.get(measure.name)) for record in self.records for picture in record["measures"])

    def first_of_each_kind(self) -> list[str]:
        return [next(edit for edit in self.edits if self.kind[edit] == kind) for kind in self.kinds]

    def any_record(self, edit: str) -> dict[str, Any]:
        """One of the edit's records, for what is the same in all of them."""
        return next(record for record in self.records if record["edit"] == edit)

    def source(self, edit: str, name: str) -> str | None:
        """The file of the edit's "photo", "reference" or "layers", beside its results; None where it has no results."""
        pictures = self.any_record(edit)["pictures"]
        return f"{pictures[0].rpartition('/')[0]}/{name}.png" if pictures else None

    def of(self, variant: str) -> list[dict[str, Any]]:
        """The variant's records."""
        return [record for record in self.records if record["variant"] == variant]

    def description(self, variant: str) -> str:
        """What the variant is, in one line; "" for one that is unknown and undescribed."""
        recorded = (record.get("description", "") for record in self.of(variant))
        known = METHOD_VARIANTS | ROWS
        return next(filter(None, recorded), known[variant].description if variant in known else "")

    def record(self, edit: str, variant: str) -> dict[str, Any] | None:
        return self.by_name.get((edit, variant))

    def values(self, variant: str, measure: Measure, kinds: Sequence[str] = ()) -> dict[str, dict[int, float]]:
        """Edit → seed → value; what was not measured, or isn't finite, is left out."""
        found: dict[str, dict[int, float]] = {}
        for edit in self.edits:
            record = self.record(edit, variant)
            if record is not None and (not kinds or record["kind"] in kinds):
                pictures = {
                    picture["seed"]: float(picture[measure.name])
                    for picture in record["measures"]
                    if _number(picture.get(measure.name))
                }
                if pictures:
                    found[edit] = pictures
        return found

    def interval(self, variant: str, measure: Measure, kinds: Sequence[str] = ()) -> Interval | None:
        """Mean and 95 % interval over edits; None where nothing was measured."""
        key = variant, measure, tuple(kinds)
        if key not in self._intervals:
            values = [list(seeds.values()) for seeds in self.values(variant, measure, kinds).values()]
            self._intervals[key] = bootstrap(values) if values else None
        return self._intervals[key]

    def test(self, better: str, worse: str, measure: Measure, kinds: Sequence[str] = ()) -> Test:
        """The difference of two variants, edit by edit and seed by seed."""
        first, second = self.values(better, measure, kinds), self.values(worse, measure, kinds)
        pairs = [
            [value - second[edit][seed] for seed, value in seeds.items() if seed in second[edit]]
            for edit, seeds in first.items()
            if edit in second
        ]
        pairs = [pair for pair in pairs if pair]
        return Test(measure, better, worse, bootstrap(pairs) if pairs else None, len(pairs))

    @property
    def main(self) -> Measure:
        """What an edit is for, where there is a judge: asked for and kept; else the paper's CLIP score."""
        return WANTED if WANTED in self.measures else CLIP

    def claims(self) -> list[Claim]:
        """The paper's claims, tested on these records."""
        both = (BOTH,) if BOTH in self.kinds else ()
        ahead = [m for m in (WANTED, SATISFIED, CLIP) if m in self.measures] or [self.main]
        measured = [*ahead, *(m for m in (BACKGROUND, LIKENESS) if m in self.measures)]
        words = "on edits that change pose and background" if both else "on these edits"
        full = self.full
        layered = [name for name in self.methods if name.endswith("-layered")]

        def leads(title: str, paper: str, of: str, over: Sequence[str], kinds: tuple[str, ...]) -> Claim:
            tests = (self.test(of, baseline, m, kinds) for m in measured for baseline in over)
            return Claim(title, paper, self.main, tuple(tests), kinds)

        title = f"Ours is ahead of the compared methods {words}"
        found = [leads(title, "ours leads in CLIP score and in both ratings of the user study", OURS, BASELINES, both)]
        if OFFERED in self.methods:
            title = "In the settings that the page offers, ours is ahead of them on all kinds of edits"
            found.append(leads(title, "not tested", OFFERED, BASELINES, ()))
        found += [
            Claim(
                "Each part earns its place: row (f) is ahead of (a), (b), (g), (h) and (i)",
                "CLIP .35 against .28, .32, .33, .32 and .29",
                self.main,
                tuple(self.test(full, row, m) for m in ahead for row in "abghi"),
            ),
            Claim(
                "Stage 3 lifts the share of results that satisfy the text",
                "from 43 % without it to 81 %",
                SATISFIED,
                (self.test(full, "i", SATISFIED),),
            ),
            Claim(
                "Stage 1 makes the background more similar",
                "claimed of row (g), without a figure",
                BACKGROUND,
                (self.test(full, "g", BACKGROUND),),
            ),
        ]
        if layered:
            title = f"Ours is still ahead {words} when the baselines are given the layered picture as well"
            found.append(leads(title, "not tested", OURS, layered, both))
        return found

    def seconds(self, variant: str) -> dict[str, float]:
        """Mean seconds of an edit in each stage, and in all."""
        timings = [record["timings"] for record in self.of(variant)]
        stages = dict.fromkeys(stage for timing in timings for stage in timing)
        return {stage: sum(timing.get(stage, 0.0) for timing in timings) / len(timings) for stage in stages}


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


def _number(value: object) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value)
