"""The report of a folder of records: one page that needs nothing else, and every picture's measures as CSV."""

from __future__ import annotations

import base64
import csv
import io
import itertools
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from PIL import Image, ImageOps

from layerdiffusion.errors import EditError
from layerdiffusion.evaluation.claims import BenchResults, Measure, kind_label, label
from layerdiffusion.evaluation.records import Records
from layerdiffusion.evaluation.variants import METHOD_VARIANTS, ROWS
from layerdiffusion.files import saving, write_files
from layerdiffusion.result import captioned

PAGE, MEASURED, FIGURE = "report.html", "measures.csv", "report.webp"
RECORD = ("edit", "kind", "variant")
SEEDS_SHOWN = 2  # pictures of each variant, as in the paper's Figure 4
FIGURE_SIDE, THUMBNAIL_SIDE, QUALITY = 128, 112, 72
RULE = "The first edit of each kind and its first two seeds: a rule chose them, nobody did."
# The CLIP scores of the paper's Table 1: by another model and on other edits than any measured here.
PAPER_CLIP = {
    "a": 0.28, "b": 0.32, "c": 0.29, "d": 0.32, "e": 0.28, "f": 0.35,
    "g": 0.33, "h": 0.32, "i": 0.29, "j": 0.32, "k": 0.29,
}  # fmt: skip


class Section(NamedTuple):
    """One table of the report; the first cell of a row names it."""

    title: str
    note: str
    head: list[str]
    rows: list[list[str]]


def write_report(folder: str | Path, command: str) -> Path:
    """Write `report.html`, its picture `report.webp` and `measures.csv` into `folder`; return the page's path.

    Only the folder is read: what is missing there is missing in the report. `command` is the line that made the
    records. Raises `EditError` where there are no records, or the report can't be written.
    """
    folder = Path(folder)
    records = Records(folder)
    bench = BenchResults(records.read())
    if not bench.records:
        raise EditError(f"There are no finished records in {folder}; run the evaluation first.")
    commands = [*dict.fromkeys([*(records.manifest() or {}).get("commands", []), command])]
    figure, found = _figure(folder, bench), [*sections(bench), *_how_it_ran(bench)]
    templates = Environment(loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined)
    page = templates.get_template("report.html.j2").render(
        size=_size(bench), rule=RULE, figure=_data_url(figure), sections=found, commands=commands,
        edits=[_edit(folder, bench, edit) for edit in bench.kind],
    )  # fmt: skip
    with saving("The report", folder):
        write_files({
            folder / PAGE: page.encode(),
            folder / MEASURED: measures_csv(bench).encode(),
            folder / FIGURE: _webp(figure, 88),
        })  # fmt: skip
    return folder / PAGE


def sections(bench: BenchResults) -> Iterator[Section]:
    """What the measures show, in tables: claims, methods, kinds of edit, Table 1, ablations."""
    rows = []
    for claim in bench.claims():
        for at, one in enumerate(claim.comparisons):
            difference = f"{label(one.better)} − {label(one.worse)}: {claim.measure.format_interval(one.difference)}"
            title = [claim.title, claim.paper] if not at else ["", ""]
            rows.append([*title, claim.measure.label, difference, str(one.edits), one.verdict])
    note = (
        "Paired differences (same edit, same seed) with their 95 % interval, by bootstrap over edits. A comparison "
        "holds where the interval lies above zero, fails where it lies at or below zero, else it is undecided."
    )
    yield Section("The paper's claims", note, ["claim", "the paper", "measure", "difference", "edits", "verdict"], rows)
    measures = [measure for measure in bench.measures if measure.name != "clipscore"]
    head = [measure.label for measure in measures]
    note = "; ".join(f"{measure.label}: {measure.description}" for measure in measures)
    if bench.methods:
        rows = [[label(v) + _coverage(bench, v), *_intervals(bench, v, measures)] for v in bench.methods]
        yield Section("The methods", f"Means and 95 % intervals over edits. {note}.", ["", *head], rows)
        main = bench.main
        rows = [
            [label(v), *(main.format_interval(bench.interval(v, main, (kind,))) for kind in bench.kinds)]
            for v in bench.methods
        ]
        yield Section(f"By kind of edit: {main.label}", "", ["", *map(kind_label, bench.kinds)], rows)
    beside = f"{bench.main.label}, less {label(bench.full)}"
    if bench.rows:
        rows = [[*_described(bench, v), f"{PAPER_CLIP[v]:.2f}", *_row(bench, v, measures)] for v in bench.rows]
        note = "The paper's CLIP scores are of another model and other edits: only their order compares."
        yield Section("Table 1", note, ["row", "setting", "the paper's CLIP", *head, beside], rows)
    if bench.ablations:
        variants = [*([bench.full] if bench.full in bench.variants else []), *bench.ablations]
        rows = [[*_described(bench, v), *_row(bench, v, measures)] for v in variants]
        yield Section("Ablations", "What the paper leaves open.", ["variant", "what it is", *head, beside], rows)


def _how_it_ran(bench: BenchResults) -> Iterator[Section]:
    """Seconds, and the settings of each variant."""
    yield _seconds(bench)
    rows = [
        [v, *(" / ".join(dict.fromkeys(json.dumps(r[part]) for r in bench.of(v))) for part in ("settings", "options"))]
        for v in bench.variants
    ]
    versions = dict.fromkeys(", ".join(f"{k} {v}" for k, v in r["versions"].items()) for r in bench.records)
    yield Section("How each variant was run", "; ".join(versions), ["variant", "settings", "options"], rows)


def _seconds(bench: BenchResults) -> Section:
    timings = {variant: [record["timings"] for record in bench.of(variant)] for variant in bench.variants}
    stages = list(dict.fromkeys(stage for found in timings.values() for one in found for stage in one))
    rows = [
        [label(v), *(f"{sum(one.get(stage, 0.0) for one in found) / len(found):.1f}" for stage in stages)]
        for v, found in timings.items()
    ]
    return Section("Seconds", "An edit, all its seeds together; cached stages count nothing.", ["", *stages], rows)


def _size(bench: BenchResults) -> str:
    """ "60 edits, 4 variants, 4 seeds: 960 pictures, by the model miniature"."""
    pictures = sum(len(record["pictures"]) for record in bench.records)
    models = ", ".join(sorted({record["model"] for record in bench.records}))
    text = f"{len(bench.kind)} edits, {len(bench.variants)} variants, {len(bench.seeds)} seeds: {pictures} pictures"
    missing = len(bench.kind) * len(bench.variants) - len(bench.records)
    return f"{text}, by the model {models}" + (f"; not there yet: {missing} of the records" if missing else "")


def _coverage(bench: BenchResults, variant: str) -> str:
    """On how many edits the variant was run, where not on all of them."""
    count = len(bench.of(variant))
    return f" ({count} of {len(bench.kind)} edits)" if count < len(bench.kind) else ""


def _described(bench: BenchResults, variant: str) -> list[str]:
    known = (METHOD_VARIANTS | ROWS).get(variant)
    return [label(variant), ("" if known is None else known.description) + _coverage(bench, variant)]


def _intervals(bench: BenchResults, variant: str, measures: Sequence[Measure]) -> list[str]:
    return [measure.format_interval(bench.interval(variant, measure)) for measure in measures]


def _row(bench: BenchResults, variant: str, measures: Sequence[Measure]) -> list[str]:
    """The variant's means, and how much more of the main measure it has than the full method."""
    less = None if variant == bench.full else bench.compare(variant, bench.full, bench.main).difference
    return [*_intervals(bench, variant, measures), bench.main.format_interval(less)]


def _edit(folder: Path, bench: BenchResults, edit: str) -> dict[str, Any]:
    """What the page shows of an edit: its words and, in rows, its pictures with their captions."""
    records = [bench.by_name[edit, v] for v in bench.variants if (edit, v) in bench.by_name]
    rows = [("", [(name, _thumbnail(folder, _source(records[0], name))) for name in ("photo", "reference", "layers")])]
    for record in records:
        shown = zip(record["seeds"], record["pictures"], record["measures"], strict=True)
        cells = [(f"seed {seed}{_verdict(found)}", _thumbnail(folder, name)) for seed, name, found in shown]
        rows.append((label(record["variant"]), cells[:SEEDS_SHOWN]))
    kind = kind_label(records[0]["kind"])
    return {"id": edit, "kind": kind, "prompt": records[0]["prompt"], "wanted": records[0]["wanted"], "rows": rows}


def _verdict(measured: dict[str, Any]) -> str:
    if "satisfied" not in measured:
        return ""
    return ", as wanted" if measured["as_wanted"] else ", as asked" if measured["satisfied"] else ", not as asked"


def _source(record: dict[str, Any], name: str) -> str:
    """The file of an edit's "photo", "reference" or "layers", beside its results."""
    return f"{record['pictures'][0].rpartition('/')[0]}/{name}.png"


def _picture(folder: Path, name: str | None, side: int) -> Image.Image | None:
    """The picture, RGB, at most `side` pixels long; None where it is missing or outside the folder."""
    path = (folder / (name or "")).resolve()
    if not path.is_relative_to(folder.resolve()):
        return None
    try:
        with Image.open(path) as picture:
            return ImageOps.contain(picture.convert("RGB"), (side, side), Image.Resampling.LANCZOS)
    except (OSError, Image.DecompressionBombError):
        return None


def _thumbnail(folder: Path, name: str) -> str | None:
    picture = _picture(folder, name, THUMBNAIL_SIDE)
    return None if picture is None else _data_url(picture)


def _data_url(picture: Image.Image) -> str:
    return f"data:image/webp;base64,{base64.b64encode(_webp(picture, QUALITY)).decode()}"


def _webp(picture: Image.Image, quality: int) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, "WEBP", quality=quality, method=6)
    return buffer.getvalue()


def _figure(folder: Path, bench: BenchResults) -> Image.Image:
    """Photo, reference and the first pictures of each method, a row for the first edit of each kind."""
    variants = [name for name in bench.methods if not name.endswith("-layered")] or bench.variants[:1]
    rows = []
    for kind in bench.kinds:
        edit = next(edit for edit in bench.kind if bench.kind[edit] == kind)
        records = {v: bench.by_name[edit, v] for v in bench.variants if (edit, v) in bench.by_name}
        first = next(iter(records.values()))
        cells: list[tuple[str, str | None]] = [(name, _source(first, name)) for name in ("photo", "reference")]
        for variant in variants:
            names = records[variant]["pictures"] if variant in records else []
            cells += [(label(variant), name) for name in [*names, *[None] * SEEDS_SHOWN][:SEEDS_SHOWN]]
        rows.append([(caption, _square(_picture(folder, name, FIGURE_SIDE))) for caption, name in cells])
    return captioned(rows)


def _square(picture: Image.Image | None) -> Image.Image:
    """The picture on a square of grey; grey alone where it is missing."""
    square = Image.new("RGB", (FIGURE_SIDE, FIGURE_SIDE), "gainsboro")
    if picture is not None:
        square.paste(picture, ((FIGURE_SIDE - picture.width) // 2, (FIGURE_SIDE - picture.height) // 2))
    return square


def measures_csv(bench: BenchResults) -> str:
    """A line for each picture: edit, kind, variant, seed and what was measured; empty what could not be."""
    pictures = [
        {name: record[name] for name in RECORD} | measured
        for record in bench.records
        for measured in record["measures"]
    ]
    text = io.StringIO()
    columns = dict.fromkeys([*RECORD, "seed", *itertools.chain(*pictures)])
    sheet = csv.DictWriter(text, columns, lineterminator="\n")
    sheet.writeheader()
    for picture in pictures:
        sheet.writerow({name: int(value) if isinstance(value, bool) else value for name, value in picture.items()})
    return text.getvalue()


def read_measures(path: Path) -> BenchResults:
    """The bench whose measures `measures_csv` wrote. Raises `EditError` for any other file."""
    try:
        with path.open(encoding="utf-8", newline="") as file:
            pictures = [*csv.DictReader(file, strict=True)]
        records: list[dict[str, Any]] = []
        for names, group in itertools.groupby(pictures, lambda row: tuple(row.pop(name) for name in RECORD)):
            measured: list[dict[str, Any]] = [{k: float(v) for k, v in row.items() if v} for row in group]
            seeds = [int(row["seed"]) for row in measured]
            measured = [row | {"seed": seed} for row, seed in zip(measured, seeds, strict=True)]
            records.append({**dict(zip(RECORD, names, strict=True)), "seeds": seeds, "measures": measured})
        if not records:
            raise ValueError("no line but the first")
        return BenchResults(records)
    except (OSError, UnicodeDecodeError, csv.Error, KeyError, TypeError, ValueError) as error:
        raise EditError(f"{path} has no measures of a bench; give the {MEASURED} that one wrote.") from error


def markdown(bench: BenchResults) -> str:
    """The tables of `sections`, for a README."""
    return "\n\n".join(map(_markdown, sections(bench)))


def _markdown(section: Section) -> str:
    rows = [section.head, *section.rows]
    lines = [f"| {' | '.join(map(_markdown_text, row))} |" for row in rows]
    lines.insert(1, f"|{' --- |' * len(section.head)}")
    return "\n\n".join(filter(None, (f"**{section.title}**", _markdown_text(section.note), "\n".join(lines))))


def _markdown_text(text: str) -> str:
    """Words that Markdown shows as they are, on one line."""
    text = " ".join(text.split())
    for character in "\\`*_[]|<>":
        text = text.replace(character, "\\" + character)
    return text
