"""What the page and the Markdown of a report share: the rows of their tables, and which pictures they show."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any

from layerdiffusion.evaluation.claims import (
    CLIP,
    PAPER_CLIP,
    UNMEASURED,
    Bench,
    Claim,
    Measure,
    Test,
    kind_label,
    label,
)
from layerdiffusion.evaluation.report.album import Album

RULE = "The first edit of each kind and its first two seeds: the rule chose them, nobody did."
SEEDS_SHOWN = 2  # pictures a method in the first figure, as in the paper's Figure 4
MARKS = {"holds": "✓", "does not hold": "✗", "undecided": "?", UNMEASURED: "–"}

RECIPE = ("method", "settings", "options")  # of a record

Rows = tuple[list[str], list[list[Any]]]  # of a table: its head, and the rest


def size_of(bench: Bench) -> str:
    """ "60 edits, 4 variants, 4 seeds: 960 pictures"."""
    pictures = sum(len(record["pictures"]) for record in bench.records)
    text = f"{len(bench.edits)} edits, {len(bench.variants)} variants, {len(bench.seeds)} seeds: {pictures} pictures"
    missing = len(bench.edits) * len(bench.variants) - len(bench.records)
    return text + (f"; not there yet: {missing} of the records" if missing else "")


def plain_methods(bench: Bench) -> list[str]:
    """The methods as their authors run them."""
    return [name for name in bench.methods if not name.endswith("-layered")] or bench.variants[:1]


def shots(bench: Bench, edit: str, variant: str) -> list[dict[str, Any]]:
    """A record's pictures with their seeds and what was found of them; none where there is no record."""
    record = bench.record(edit, variant)
    if record is None:
        return []
    found = {measured["seed"]: measured for measured in record["measures"]}
    return [
        {"seed": seed, "name": name, "verdict": verdict(record, found.get(seed, {}))}
        for seed, name in zip(record["seeds"], record["pictures"], strict=True)
    ]


def verdict(record: dict[str, Any], measured: dict[str, Any]) -> str:
    if "satisfied" in measured:
        wrong = [name for name in record["wanted"] if measured.get(name) is False]
        return (
            "✓ as wanted" if not wrong else ("✓ as asked, not " if measured["satisfied"] else "✗ ") + ", ".join(wrong)
        )
    score = measured.get("clip_score")
    return f"CLIP {CLIP.format_value(score)}" if score is not None and math.isfinite(score) else ""


def method_rows(bench: Bench, measures: Sequence[Measure], kinds: tuple[str, ...] = ()) -> Rows:
    """Methods × measures."""
    rows = [[label(v) + coverage(bench, v), *(interval(bench, v, m, kinds) for m in measures)] for v in bench.methods]
    return ["", *(m.label for m in measures)], rows


def kind_rows(bench: Bench, measure: Measure) -> Rows:
    """Methods × kinds of edit, in one measure."""
    rows = [[label(v), *(interval(bench, v, measure, (kind,)) for kind in bench.kinds)] for v in bench.methods]
    return ["", *map(kind_label, bench.kinds)], rows


def table_1_rows(bench: Bench, measures: Sequence[Measure]) -> Rows:
    """The rows of the paper's Table 1, with what it reports."""
    rows = [
        [
            label(row),
            setting(bench, row),
            f"{PAPER_CLIP[row]:.2f}",
            *(interval(bench, row, m) for m in measures),
            *beside(bench, row),
        ]
        for row in bench.rows
    ]
    return ["row", "setting", "the paper's CLIP", *(m.label for m in measures), *beside_head(bench)], rows


def setting(bench: Bench, variant: str) -> str:
    """What the variant is, with its `coverage`."""
    return bench.description(variant) + coverage(bench, variant)


def coverage(bench: Bench, variant: str) -> str:
    """On how many edits the variant was run, where they are not all: its figures are then of those alone."""
    count = len(bench.of(variant))
    return f" ({count} of {len(bench.edits)} edits)" if count < len(bench.edits) else ""


def beside_head(bench: Bench) -> list[str]:
    """The head of what `beside` says."""
    return [f"{bench.main.label}, beside {label(bench.full)}"] if bench.full in bench.variants else []


def beside(bench: Bench, variant: str) -> list[str]:
    """How much more the variant has of the main measure than the full method, on the edits that both have."""
    if bench.full not in bench.variants:
        return []
    return ["–" if variant == bench.full else difference(bench.test(variant, bench.full, bench.main))]


def ablation_rows(bench: Bench, measures: Sequence[Measure]) -> Rows:
    """The ablations, beneath what they change."""
    variants = [*([bench.full] if bench.full in bench.variants else []), *bench.ablations]
    rows = [
        [label(v), setting(bench, v), *(interval(bench, v, m) for m in measures), *beside(bench, v)] for v in variants
    ]
    return ["ablation", "what it is", *(m.label for m in measures), *beside_head(bench)], rows


def claim_rows(bench: Bench, claim: Claim, tests: Sequence[Test]) -> Rows:
    """A test a row; its last cell is the verdict, in plain words."""
    rows = []
    for test in tests:
        sides = [interval(bench, variant, test.measure, claim.kinds) for variant in (test.better, test.worse)]
        rows.append([pair(test), test.measure.label, *sides, difference(test), test.edits or "–", test.verdict])
    return ["test", "measure", "first", "second", "difference", "edits", "verdict"], rows


def claims_in_short(bench: Bench) -> Rows:
    """A claim a row, in its main measure."""
    rows = [
        [
            claim.title,
            claim.main.label,
            "; ".join(f"{pair(test)}: {difference(test)}" for test in claim.tests_in(claim.main)),
            f"{MARKS[claim.verdict]} {claim.verdict}",
        ]
        for claim in bench.claims()
    ]
    return ["claim", "measure", "difference", "verdict"], rows


def pair(test: Test) -> str:
    return f"{label(test.better)} − {label(test.worse)}"


def difference(test: Test) -> str:
    return test.measure.format_interval(test.difference) if test.difference else "–"


def interval(bench: Bench, variant: str, measure: Measure, kinds: tuple[str, ...] = ()) -> str:
    found = bench.interval(variant, measure, kinds)
    return measure.format_interval(found) if found else "–"


def run_rows(bench: Bench) -> list[list[str]]:
    versions = "; and, for some records, ".join(dict.fromkeys(format_pairs(r["versions"]) for r in bench.records))
    models = ", ".join(dict.fromkeys(record["model"] for record in bench.records))
    seeds = ", ".join(map(str, bench.seeds))
    return [["model", models], ["seeds", seeds], ["records", size_of(bench)], ["versions", versions]]


def format_pairs(values: dict[str, Any], between: str = " ") -> str:
    return ", ".join(f"{name}{between}{value}" for name, value in values.items())


def recipe_rows(bench: Bench) -> Rows:
    """Description, method, settings and options of each variant; more than one where its records differ."""
    rows = []
    for variant in bench.variants:
        parts = (dict.fromkeys(as_text(one[part]) for one in bench.of(variant)) for part in RECIPE)
        rows.append([variant, bench.description(variant), *map(" / ".join, parts)])
    return ["variant", "what it is", *RECIPE], rows


def as_text(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {json.dumps(one, ensure_ascii=False)}" for key, one in value.items()) or "–"
    return str(value)


def timing_rows(bench: Bench) -> Rows:
    seconds = {variant: bench.seconds(variant) for variant in bench.variants}
    stages = list(dict.fromkeys(stage for found in seconds.values() for stage in found))
    rows = [[label(v), *(f"{found[s]:.1f}" if s in found else "–" for s in stages)] for v, found in seconds.items()]
    return ["", *stages], rows


def pictures(bench: Bench, album: Album, edit: str, variants: list[str], seeds: int) -> list[Any]:
    """Photo, reference, and the first pictures of each variant; None for what is missing."""
    found = [album.picture(bench.source(edit, name)) for name in ("photo", "reference")]
    for variant in variants:
        names = [shot["name"] for shot in shots(bench, edit, variant)][:seeds]
        found += [album.picture(name) for name in [*names, *[None] * (seeds - len(names))]]
    return found
