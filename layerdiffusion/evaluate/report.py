"""``write_report``: the folder of an evaluation as one page that needs nothing else, and as Markdown for a README."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from layerdiffusion.errors import EditError
from layerdiffusion.evaluate import plots
from layerdiffusion.evaluate.album import Album, sheet
from layerdiffusion.evaluate.findings import (
    ATTRIBUTES,
    BACKGROUND,
    BOTH,
    CLIP,
    LIKENESS,
    MEASURES,
    OURS,
    PAPER_CLIP,
    UNMEASURED,
    Bench,
    Claim,
    Measure,
    Test,
    kind_label,
    label,
)
from layerdiffusion.evaluate.markup import Html, escape, markdown_table, markdown_text, table, tag
from layerdiffusion.evaluate.records import Records

LIMIT = 14_500_000  # bytes of the page
SIZES = ((160, 84), (144, 78), (128, 74), (112, 66), (96, 58), (80, 48), (64, 40), (48, 34))  # side, quality
LEAD_SIDE, LEAD_QUALITY, SHEET_SIDE = 192, 88, 76
SEEDS_SHOWN = 2  # pictures a method in the first figure, as in the paper's Figure 4
MARKS = {"holds": "✓", "does not hold": "✗", "undecided": "?", UNMEASURED: "–"}
PAGE, TEXT, FIGURE = "report.html", "report.md", "report.webp"


def write_report(folder: str | Path, command: str) -> Path:
    """Write ``report.html``, ``report.md`` and the Markdown's ``report.webp`` into ``folder``; return the page's path.

    Only the folder is read: what is missing there is missing in the report, which says so. ``command`` is the line
    that made the records. Pictures get smaller until the page is below 14.5 MB. Raises `EditError` where there are
    no records, or the page can't be written.
    """
    folder = Path(folder)
    records = Records(folder)
    bench = Bench(records.read())
    if not bench.records:
        raise EditError(f"There are no finished records in {folder}; run the evaluation first.")
    manifest = records.manifest() or {}
    for side, quality in SIZES:
        page = _page(bench, manifest, Album(folder, side, quality), command).encode()
        if len(page) <= LIMIT:
            break
    try:
        (folder / PAGE).write_bytes(page)
        (folder / TEXT).write_text(_markdown(bench, manifest, command), encoding="utf-8")
        _figure(bench, Album(folder, LEAD_SIDE, LEAD_QUALITY)).save(folder / FIGURE, quality=LEAD_QUALITY, method=6)
    except OSError as error:
        raise EditError(f"The report can't be written to {folder} ({error.strerror or error}).") from error
    return folder / PAGE


# --- the page -------------------------------------------------------------------------------------------------------


def _page(bench: Bench, manifest: dict[str, Any], album: Album, command: str) -> str:
    style = (Path(__file__).parent / "static" / "report.css").read_text(encoding="utf-8")
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=policy),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("title", "LayerDiffusion, measured"),
        tag("style", Html(style)),
    )
    sections = [
        _section("", "", _opening(bench), _lead(bench, album)),
        _section("claims", "The paper's claims", *_claims(bench)),
        _section("methods", "The methods", *_methods(bench)),
        _section("plots", "Plots", *_plots(bench)),
        _section("table-1", "Table 1", *_table_1(bench)),
        _section("readings", "What the paper leaves open", *_readings(bench)),
        _section("sheets", "Contact sheets", *_sheets(bench, album)),
        _section("edits", "Every edit", *_edits(bench, album)),
        _section("made", "How this was made", *_made(bench, manifest, command)),
    ]
    links = [tag("a", title, href=f"#{id}") for id, title, section in sections if id and section]
    main = tag("main", *(section for *_, section in sections))
    body = tag("body", tag("header", tag("h1", "LayerDiffusion, measured"), tag("nav", *links)), main)
    return f"<!doctype html>\n{tag('html', head, body, lang='en')}\n"


def _section(id: str, title: str, *parts: Html) -> tuple[str, str, Html]:
    if not any(parts):
        return id, title, Html("")
    return id, title, tag("section", tag("h2", title) if title else Html(""), *parts, id=id or None)


def _note(words: object) -> Html:
    return tag("p", words, class_="note")


def size_of(bench: Bench) -> str:
    """ "60 edits, 4 columns, 4 seeds: 960 pictures"."""
    pictures = sum(len(record["pictures"]) for record in bench.records)
    text = f"{len(bench.edits)} edits, {len(bench.columns)} columns, {len(bench.seeds)} seeds: {pictures} pictures"
    missing = len(bench.edits) * len(bench.columns) - len(bench.records)
    return text + (f"; not there yet: {missing} of the records" if missing else "")


def _opening(bench: Bench) -> Html:
    models = ", ".join(sorted({record["model"] for record in bench.records}))
    return tag("p", f"{size_of(bench)}, all by one model, {models}, from the same noise.", class_="opening")


RULE = "The first edit of each kind and its first two seeds: the rule chose them, nobody did."


def _lead(bench: Bench, album: Album) -> Html:
    """Photo, reference and two seeds of each method, for the first edit of each kind."""
    large = Album(album.folder, LEAD_SIDE, min(LEAD_QUALITY, album.quality + 8))
    methods = plain_methods(bench)
    blocks = []
    for edit in bench.first_of_each_kind():
        record = bench.any_record(edit)
        prompt = record["prompt"]
        cells = [_cell(large.image(bench.source(edit, name), f"{name.capitalize()} of “{prompt}”"), name.capitalize())
                 for name in ("photo", "reference")]  # fmt: skip
        for column in methods:
            for shot in _shots(bench, edit, column)[:SEEDS_SHOWN]:
                alt = f"{label(column)}, seed {shot['seed']}: “{prompt}”; {shot['verdict']}"
                ours = "ours" if column == OURS else None
                cells.append(_cell(large.image(shot["name"], alt), label(column), shot["verdict"], ours))
        title = tag("p", tag("b", f"“{prompt}”"), " ", tag("span", kind_label(record["kind"])), class_="prompt")
        blocks.append(tag("div", title, tag("div", *cells, class_="cells"), class_="row"))
    style = f"--columns:{2 + SEEDS_SHOWN * len(methods)}"
    return tag("figure", *blocks, tag("figcaption", RULE), class_="lead", style=style)


def _cell(picture: Html, who: str, verdict: str = "", kind: str | None = None) -> Html:
    words = [tag("span", who, class_="who")]
    if verdict:
        words.append(tag("span", verdict, class_="verdict " + ("good" if verdict.startswith("✓") else "")))
    return tag("figure", picture, tag("figcaption", *words), class_=kind)


def plain_methods(bench: Bench) -> list[str]:
    """The methods as their authors run them."""
    return [name for name in bench.methods if not name.endswith("-layered")] or bench.columns[:1]


def _shots(bench: Bench, edit: str, column: str) -> list[dict[str, Any]]:
    """A record's pictures with their seeds and what was found of them; none where there is no record."""
    record = bench.record(edit, column)
    if record is None:
        return []
    found = {measured["seed"]: measured for measured in record["measures"]}
    return [
        {"seed": seed, "name": name, "verdict": _verdict(record, found.get(seed, {}))}
        for seed, name in zip(record["seeds"], record["pictures"], strict=True)
    ]


def _verdict(record: dict[str, Any], measured: dict[str, Any]) -> str:
    if "satisfied" in measured:
        wrong = [name for name in record["wanted"] if measured.get(name) is False]
        return (
            "✓ as wanted" if not wrong else ("✓ as asked, not " if measured["satisfied"] else "✗ ") + ", ".join(wrong)
        )
    score = measured.get("clip_score")
    return f"CLIP {CLIP.told(score)}" if score is not None and math.isfinite(score) else ""


# --- claims ---------------------------------------------------------------------------------------------------------


def _claims(bench: Bench) -> Iterator[Html]:
    yield _note(
        "A verdict is read off the 95 % interval of the paired difference (same edit, same seed; bootstrap over "
        "edits): it holds where the interval lies above zero, doesn't where it lies at or below it, and is undecided "
        "where zero is inside. A claim of several tests holds when all of them do, and fails when one does."
    )
    for claim in bench.claims():
        plot = plots.interval_plot(
            f"Differences: {claim.title}",
            [(_pair(test), [test.difference]) for test in claim.tests_in(claim.main)],
            [claim.main.label],
            claim.main.told,
            zero=True,
        )
        yield tag(
            "article",
            tag("h3", _badge(claim.verdict), " ", claim.title),
            _note(f"The paper: {claim.paper}. The verdict is that in “{claim.main.label}”: {claim.main.says}."),
            _elsewhere(claim),
            table(
                "The tests of this claim",
                ["test", "measure", "first", "second", "difference", "edits", "verdict"],
                [_test_row(bench, claim, test) for test in claim.tests],
            ),
            plot,
            class_="claim",
        )


def _elsewhere(claim: Claim) -> Html:
    """The verdicts in the measures that are not the main one."""
    others = [tag("span", f"{m.label}: ", _badge(claim.verdict_in(m)), " ") for m in claim.measures if m != claim.main]
    return tag("p", "In the others: ", *others) if others else Html("")


def _test_row(bench: Bench, claim: Claim, test: Test) -> list[object]:
    sides = [_interval(bench, column, test.measure, claim.kinds) for column in (test.better, test.worse)]
    return [_pair(test), test.measure.label, *sides, _difference(test), test.edits or "–", _badge(test.verdict)]


def _pair(test: Test) -> str:
    return f"{label(test.better)} − {label(test.worse)}"


def _difference(test: Test) -> str:
    return test.measure.interval(test.difference) if test.difference else "–"


def _interval(bench: Bench, column: str, measure: Measure, kinds: tuple[str, ...] = ()) -> str:
    point = bench.point(column, measure, kinds)
    return measure.interval(point) if point else "–"


def _badge(verdict: str) -> Html:
    return tag("span", f"{MARKS[verdict]} {verdict}", class_="badge " + verdict.replace(" ", "-"))


# --- tables ---------------------------------------------------------------------------------------------------------


def _methods(bench: Bench) -> Iterator[Html]:
    if not bench.methods:
        return
    yield table("All edits: mean and 95 % interval over edits", *_measures_table(bench, bench.methods, escape))
    yield tag("dl", *(part for m in bench.measures for part in (tag("dt", m.label), tag("dd", m.says))))
    for measure in bench.measures if len(bench.kinds) > 1 else ():
        rows = [
            [label(column), *(_interval(bench, column, measure, (kind,)) for kind in bench.kinds)]
            for column in bench.methods
        ]
        shown = table(f"{measure.label}, by kind of edit", ["", *map(kind_label, bench.kinds)], rows)
        yield tag("details", tag("summary", f"By kind: {measure.label}"), shown, open=measure == bench.main)


def _measures_table(bench: Bench, columns: list[str], told: Callable[[str], Any]) -> tuple[list[str], list[list[Any]]]:
    rows = [
        [told(label(column)), *(told(_interval(bench, column, measure)) for measure in bench.measures)]
        for column in columns
    ]
    return ["", *(measure.label for measure in bench.measures)], rows


def _table_1(bench: Bench) -> Iterator[Html]:
    if not bench.rows:
        return
    yield _note(
        "Rows as the paper names them. Its CLIP scores are of Stable Diffusion v1.4, OpenAI's CLIP and 300 pictures a "
        "row; they can't be compared with ours in height, only in order."
    )
    yield table("Rows of Table 1: mean and 95 % interval over edits", *_table_1_rows(bench))
    measured = [(f"({row})", [bench.point(row, bench.main)]) for row in bench.rows]
    yield plots.interval_plot(f"Table 1: {bench.main.label}", measured, [bench.main.label], bench.main.told)


def _table_1_rows(bench: Bench) -> tuple[list[str], list[list[str]]]:
    head = ["row", "setting", "the paper's CLIP", *(measure.label for measure in bench.measures)]
    return head, [
        [label(row), bench.says(row), f"{PAPER_CLIP[row]:.2f}", *(_interval(bench, row, m) for m in bench.measures)]
        for row in bench.rows
    ]


def _readings(bench: Bench) -> Iterator[Html]:
    if not bench.readings:
        return
    head, rows = _reading_rows(bench)
    yield _note("Where the paper is silent or contradicts itself, both readings are named settings.")
    yield table("Open readings: mean and 95 % interval over edits", head, rows)


def _reading_rows(bench: Bench) -> tuple[list[str], list[list[str]]]:
    columns = [*([bench.full] if bench.full in bench.columns else []), *bench.readings]
    head = ["reading", "what it is", *(measure.label for measure in bench.measures)]
    return head, [[label(c), bench.says(c), *(_interval(bench, c, m) for m in bench.measures)] for c in columns]


# --- plots ----------------------------------------------------------------------------------------------------------


def _plots(bench: Bench) -> Iterator[Html]:
    if not bench.methods:
        return
    names, main = [label(column) for column in bench.methods], bench.main
    rows = [("all edits", [bench.point(column, main) for column in bench.methods])]
    if len(bench.kinds) > 1:
        rows += [(_short(k), [bench.point(c, main, (k,)) for c in bench.methods]) for k in bench.kinds]
    drawn = [plots.interval_plot(f"{main.label}, by kind of edit", rows, names, main.told)]
    judged = [measure for measure in ATTRIBUTES if measure in bench.measures]
    rows = [(measure.label, [bench.point(column, measure) for column in bench.methods]) for measure in judged]
    drawn.append(
        plots.interval_plot("What the judge finds right", rows, names, MEASURES[0].told) if judged else Html("")
    )
    axes = (BACKGROUND, LIKENESS)
    both = [tuple(bench.point(column, axis) for axis in axes) for column in bench.methods]
    if all(x is not None and y is not None for x, y in both):
        told = (BACKGROUND.told, lambda value: f"{value:.2f}")
        drawn.append(plots.scatter("Place against subject: up and right is better", both, names,
                                   (BACKGROUND.label, LIKENESS.label), told))  # fmt: skip
    captioned = (tag("figure", tag("figcaption", title), plot) for plot in drawn if (title := _title(plot)))
    yield tag("div", *captioned, class_="plots")


def _short(kind: str) -> str:
    return kind_label(kind).removesuffix(" changed").removesuffix(" replaced")


def _title(plot: Html) -> Html:
    """The plot's own title, which is markup already."""
    return Html(plot.partition("<title>")[2].partition("</title>")[0])


# --- pictures -------------------------------------------------------------------------------------------------------


def _sheets(bench: Bench, album: Album) -> Iterator[Html]:
    methods = plain_methods(bench)
    sheets = [
        (kind, methods, f"{kind_label(kind).capitalize()}: the first seed of each method") for kind in bench.kinds
    ]
    if bench.rows:
        sheets.append(
            (bench.kinds[0], bench.rows, f"Table 1 on “{kind_label(bench.kinds[0])}”: the first seed of a row")
        )
    for kind, columns, title in sheets:
        edits = [edit for edit in bench.edits if bench.kind[edit] == kind]
        rows = [("", _pictures(bench, album, edit, columns, 1)) for edit in edits]
        picture = sheet(rows, ["photo", "reference", *map(label, columns)], SHEET_SIDE)
        alt = f"{title}; photo, reference and results of {len(edits)} edits"
        shown = tag("div", album.embed(picture, alt), class_="scroll", role="region", tabindex=0, aria_label=title)
        yield tag("details", tag("summary", title), shown, open=kind == bench.kinds[0] and columns is methods)


def _pictures(bench: Bench, album: Album, edit: str, columns: list[str], seeds: int) -> list[Any]:
    """Photo, reference, and the first pictures of each column; None for what is missing."""
    found = [album.picture(bench.source(edit, name)) for name in ("photo", "reference")]
    for column in columns:
        names = [shot["name"] for shot in _shots(bench, edit, column)][:seeds]
        found += [album.picture(name) for name in [*names, *[None] * (seeds - len(names))]]
    return found


def _figure(bench: Bench, album: Album) -> Any:
    """The first figure as one picture."""
    methods = plain_methods(bench)
    heads = ["photo", "reference", *(label(column) for column in methods for _ in range(SEEDS_SHOWN))]
    rows = [
        (f"“{bench.any_record(edit)['prompt']}”", _pictures(bench, album, edit, methods, SEEDS_SHOWN))
        for edit in bench.first_of_each_kind()
    ]
    return sheet(rows, heads, 128)


def _edits(bench: Bench, album: Album) -> Iterator[Html]:
    yield _note("Each with all its pictures, what it wanted, and what the judge made of them.")
    for kind in bench.kinds:
        yield tag("h3", kind_label(kind).capitalize())
        for edit in bench.edits:
            if bench.kind[edit] == kind:
                yield _edit(bench, album, edit)


def _edit(bench: Bench, album: Album, edit: str) -> Html:
    record = bench.any_record(edit)
    prompt = record["prompt"]
    summary = [tag("b", f"“{prompt}”"), " ", tag("span", edit)]
    wanted = ", ".join(f"{name}: {value}" for name, value in record["wanted"].items())
    parts = [_note(f"Wanted: {wanted}.")] if wanted else []
    sources = (("photo", "Photo"), ("reference", "Reference"), ("layers", "Layered picture"))
    cells = [_cell(album.image(bench.source(edit, name), f"{said} of {edit}"), said)
             for name, said in sources if bench.source(edit, name)]  # fmt: skip
    parts.append(tag("div", *cells, class_="strip"))
    for column in bench.columns:
        shots = _shots(bench, edit, column)
        # Four methods with all their seeds fit in the page; eleven rows of a table do not.
        shots = shots if column in bench.methods else shots[:SEEDS_SHOWN]
        cells = [
            _cell(
                album.image(shot["name"], f"{label(column)}, seed {shot['seed']}: “{prompt}”; {shot['verdict']}"),
                f"seed {shot['seed']}",
                shot["verdict"],
            )
            for shot in shots
        ]
        if cells:
            name = tag("h4", label(column), title=bench.says(column) or None)
            parts.append(tag("div", name, tag("div", *cells, class_="strip"), class_="by"))
    return tag("details", tag("summary", *summary), *parts, class_="edit", id=f"edit-{edit}")


# --- how it was made ------------------------------------------------------------------------------------------------


def _made(bench: Bench, manifest: dict[str, Any], command: str) -> Iterator[Html]:
    yield tag("pre", tag("code", command))
    earlier = [line for line in manifest.get("commands", []) if line != command]
    if earlier:
        yield _note("The records were begun by other commands, and completed by this one:")
        yield tag("pre", tag("code", "\n".join(earlier)))
    yield table("Run", ["", ""], _run_rows(bench), numbers=False)
    yield table(
        "Columns",
        ["column", "what it is", "method", "settings", "options"],
        [[column, bench.says(column), *_recipe(bench, column)] for column in bench.columns],
        numbers=False,
    )
    yield table("Seconds an edit, all its seeds together; stages that the cache had count nothing", *_timings(bench))


def _run_rows(bench: Bench) -> list[list[str]]:
    versions = list(dict.fromkeys(_told(record["versions"]) for record in bench.records))
    said = "; and, for some records, ".join(versions)
    models = ", ".join(dict.fromkeys(record["model"] for record in bench.records))
    seeds = ", ".join(map(str, bench.seeds))
    return [["model", models], ["seeds", seeds], ["records", size_of(bench)], ["versions", said]]


def _told(values: dict[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in values.items())


def _recipe(bench: Bench, column: str) -> list[str]:
    """Method, settings and options of a column's records; more than one where they differ."""
    records = [record for record in bench.records if record["column"] == column]
    return [
        " / ".join(dict.fromkeys(_json(record[part]) for record in records))
        for part in ("method", "settings", "options")
    ]


def _json(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {json.dumps(one, ensure_ascii=False)}" for key, one in value.items()) or "–"
    return str(value)


def _timings(bench: Bench) -> tuple[list[str], list[list[str]]]:
    seconds = {column: bench.seconds(column) for column in bench.columns}
    stages = list(dict.fromkeys(stage for found in seconds.values() for stage in found))
    rows = [[label(c), *(f"{found[s]:.1f}" if s in found else "–" for s in stages)] for c, found in seconds.items()]
    return ["", *stages], rows


# --- Markdown -------------------------------------------------------------------------------------------------------


def _markdown(bench: Bench, manifest: dict[str, Any], command: str) -> str:
    models = markdown_text(_run_rows(bench)[0][1])
    parts = [f"![Photo, reference and results side by side]({FIGURE})", f"*{RULE}*"]
    parts.append(f"{size_of(bench)}. Model: {models}. Brackets: 95 % intervals, bootstrap over edits.")
    if bench.methods:
        parts.append(markdown_table(*_measures_table(bench, bench.methods, str)))
    claims = [
        [claim.title, claim.main.label, "; ".join(f"{_pair(t)}: {_difference(t)}" for t in claim.tests_in(claim.main)),
         f"{MARKS[claim.verdict]} {claim.verdict}"]
        for claim in bench.claims()
    ]  # fmt: skip
    where = f" (of edits of {kind_label(BOTH)} in the first)" if BOTH in bench.kinds else ""
    parts.append(f"The paper's claims, by paired differences{where}:")
    parts.append(markdown_table(["claim", "measure", "difference", "verdict"], claims))
    if bench.rows:
        parts += ["Table 1:", markdown_table(*_table_1_rows(bench))]
    if bench.readings:
        parts += ["What the paper leaves open:", markdown_table(*_reading_rows(bench))]
    parts.append("Seconds an edit, all its seeds together:")
    parts.append(markdown_table(*_timings(bench)))
    commands = [*(line for line in manifest.get("commands", []) if line != command), command]
    fence = "```" if not any("```" in line for line in commands) else "~" * 12
    parts.append("\n".join([f"{fence}bash", *(" ".join(line.split()) for line in commands), fence]))
    return "\n\n".join(parts) + "\n"
