"""What the page and the Markdown of a report both say: the rows of its tables, and which pictures it shows."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any

from layerdiffusion.evaluation.claims import CLIP, PAPER_CLIP, UNMEASURED, Bench, Claim, Measure, Test, label
from layerdiffusion.evaluation.report.album import Album

RULE = "The first edit of each kind and its first two seeds: the rule chose them, nobody did."
SEEDS_SHOWN = 2  # pictures a method in the first figure, as in the paper's Figure 4
MARKS = {"holds": "✓", "does not hold": "✗", "undecided": "?", UNMEASURED: "–"}

Rows = tuple[list[str], list[list[Any]]]  # of a table: its head, and the rest


def size_of(bench: Bench) -> str:
    """ "60 edits, 4 columns, 4 seeds: 960 pictures"."""
    pictures = sum(len(record["pictures"]) for record in bench.records)
    text = f"{len(bench.edits)} edits, {len(bench.columns)} columns, {len(bench.seeds)} seeds: {pictures} pictures"
    missing = len(bench.edits) * len(bench.columns) - len(bench.records)
    return text + (f"; not there yet: {missing} of the records" if missing else "")


def plain_methods(bench: Bench) -> list[str]:
    """The methods as their authors run them."""
    return [name for name in bench.methods if not name.endswith("-layered")] or bench.columns[:1]


def shots(bench: Bench, edit: str, column: str) -> list[dict[str, Any]]:
    """A record's pictures with their seeds and what was found of them; none where there is no record."""
    record = bench.record(edit, column)
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
    return f"CLIP {CLIP.told(score)}" if score is not None and math.isfinite(score) else ""


def method_rows(bench: Bench, measures: Sequence[Measure], kinds: tuple[str, ...] = ()) -> Rows:
    """Methods × measures."""
    rows = [[label(c), *(interval(bench, c, m, kinds) for m in measures)] for c in bench.methods]
    return ["", *(m.label for m in measures)], rows


def kind_rows(bench: Bench, measure: Measure) -> list[list[str]]:
    """Methods × kinds of edit, in one measure."""
    return [[label(c), *(interval(bench, c, measure, (kind,)) for kind in bench.kinds)] for c in bench.methods]


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


def setting(bench: Bench, column: str) -> str:
    """What the column is, and on how many edits where they are not all: its figures are then of those alone."""
    count = sum(record["column"] == column for record in bench.records)
    return bench.says(column) + (f" ({count} of {len(bench.edits)} edits)" if count < len(bench.edits) else "")


def beside_head(bench: Bench) -> list[str]:
    """The head of what `beside` says."""
    return [f"{bench.main.label}, beside {label(bench.full)}"] if bench.full in bench.columns else []


def beside(bench: Bench, column: str) -> list[str]:
    """How much more the column has of the main measure than the full method, on the edits that both have."""
    if bench.full not in bench.columns:
        return []
    return ["–" if column == bench.full else difference(bench.test(column, bench.full, bench.main))]


def reading_rows(bench: Bench, measures: Sequence[Measure]) -> Rows:
    """The open readings, beneath what they are other readings of."""
    columns = [*([bench.full] if bench.full in bench.columns else []), *bench.readings]
    rows = [
        [label(c), setting(bench, c), *(interval(bench, c, m) for m in measures), *beside(bench, c)] for c in columns
    ]
    return ["reading", "what it is", *(m.label for m in measures), *beside_head(bench)], rows


def claim_rows(bench: Bench, claim: Claim, tests: Sequence[Test]) -> Rows:
    """A test a row; its last cell is the verdict, in plain words."""
    rows = []
    for test in tests:
        sides = [interval(bench, column, test.measure, claim.kinds) for column in (test.better, test.worse)]
        rows.append([pair(test), test.measure.label, *sides, difference(test), test.edits or "–", test.verdict])
    return ["test", "measure", "first", "second", "difference", "edits", "verdict"], rows


def pair(test: Test) -> str:
    return f"{label(test.better)} − {label(test.worse)}"


def difference(test: Test) -> str:
    return test.measure.interval(test.difference) if test.difference else "–"


def interval(bench: Bench, column: str, measure: Measure, kinds: tuple[str, ...] = ()) -> str:
    point = bench.point(column, measure, kinds)
    return measure.interval(point) if point else "–"


def run_rows(bench: Bench) -> list[list[str]]:
    versions = list(dict.fromkeys(told(record["versions"]) for record in bench.records))
    said = "; and, for some records, ".join(versions)
    models = ", ".join(dict.fromkeys(record["model"] for record in bench.records))
    seeds = ", ".join(map(str, bench.seeds))
    return [["model", models], ["seeds", seeds], ["records", size_of(bench)], ["versions", said]]


def told(values: dict[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in values.items())


def recipe(bench: Bench, column: str) -> list[str]:
    """Method, settings and options of a column's records; more than one where they differ."""
    records = [record for record in bench.records if record["column"] == column]
    return [
        " / ".join(dict.fromkeys(as_text(record[part]) for record in records))
        for part in ("method", "settings", "options")
    ]


def as_text(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {json.dumps(one, ensure_ascii=False)}" for key, one in value.items()) or "–"
    return str(value)


def timings(bench: Bench) -> tuple[list[str], list[list[str]]]:
    seconds = {column: bench.seconds(column) for column in bench.columns}
    stages = list(dict.fromkeys(stage for found in seconds.values() for stage in found))
    rows = [[label(c), *(f"{found[s]:.1f}" if s in found else "–" for s in stages)] for c, found in seconds.items()]
    return ["", *stages], rows


def pictures(bench: Bench, album: Album, edit: str, columns: list[str], seeds: int) -> list[Any]:
    """Photo, reference, and the first pictures of each column; None for what is missing."""
    found = [album.picture(bench.source(edit, name)) for name in ("photo", "reference")]
    for column in columns:
        names = [shot["name"] for shot in shots(bench, edit, column)][:seeds]
        found += [album.picture(name) for name in [*names, *[None] * (seeds - len(names))]]
    return found
