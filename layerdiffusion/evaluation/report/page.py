"""The report's page: everything in one file, drawn for wide and narrow, light and dark."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from layerdiffusion.evaluation.claims import (
    ATTRIBUTES,
    BACKGROUND,
    LIKENESS,
    OURS,
    SATISFIED,
    Bench,
    Claim,
    Test,
    kind_label,
    label,
)
from layerdiffusion.evaluation.report import plots
from layerdiffusion.evaluation.report.album import Album, sheet
from layerdiffusion.evaluation.report.markup import Html, table, tag
from layerdiffusion.evaluation.report.rows import (
    MARKS,
    RULE,
    SEEDS_SHOWN,
    claim_rows,
    kind_rows,
    method_rows,
    pair,
    pictures,
    plain_methods,
    reading_rows,
    recipe,
    run_rows,
    shots,
    size_of,
    table_1_rows,
    timings,
)

LEAD_SIDE, LEAD_QUALITY, SHEET_SIDE = 192, 88, 76


def report_page(bench: Bench, manifest: dict[str, Any], album: Album, command: str) -> str:
    style = Path(__file__).with_name("report.css").read_text(encoding="utf-8")
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


def _opening(bench: Bench) -> Html:
    models = ", ".join(sorted({record["model"] for record in bench.records}))
    return tag("p", f"{size_of(bench)}, all by one model, {models}, from the same noise.", class_="opening")


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
            for shot in shots(bench, edit, column)[:SEEDS_SHOWN]:
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
            [(pair(test), [test.difference]) for test in claim.tests_in(claim.main)],
            [claim.main.label],
            claim.main.told,
            zero=True,
        )
        tests = claim.tests_in(claim.main)
        shown = _tests(f"In “{claim.main.label}”", bench, claim, tests)
        parts = [tag("div", shown, plot, class_="beside")]
        if others := [test for test in claim.tests if test.measure != claim.main]:
            rows = _tests("In the other measures", bench, claim, others)
            parts += [_elsewhere(claim), tag("details", tag("summary", f"Those {len(others)} tests"), rows)]
        yield tag(
            "article",
            tag("h3", _badge(claim.verdict), " ", claim.title),
            _note(f"The paper: {claim.paper}. The verdict is that in “{claim.main.label}”: {claim.main.says}."),
            *parts,
            class_="claim",
        )


def _elsewhere(claim: Claim) -> Html:
    """The verdicts in the measures that are not the main one."""
    others = [tag("span", f"{m.label}: ", _badge(claim.verdict_in(m)), " ") for m in claim.measures if m != claim.main]
    return tag("p", "In the other measures: ", *others)


def _tests(caption: str, bench: Bench, claim: Claim, tests: Sequence[Test]) -> Html:
    head, rows = claim_rows(bench, claim, tests)
    return table(caption, head, [[*cells, _badge(verdict)] for *cells, verdict in rows])


def _badge(verdict: str) -> Html:
    return tag("span", f"{MARKS[verdict]} {verdict}", class_="badge " + verdict.replace(" ", "-"))


# --- tables ---------------------------------------------------------------------------------------------------------


def _methods(bench: Bench) -> Iterator[Html]:
    if not bench.methods:
        return
    yield table("All edits: mean and 95 % interval over edits", *method_rows(bench, bench.measures))
    yield tag("dl", *(part for m in bench.measures for part in (tag("dt", m.label), tag("dd", m.says))))
    for measure in bench.measures if len(bench.kinds) > 1 else ():
        head = ["", *map(kind_label, bench.kinds)]
        shown = table(f"{measure.label}, by kind of edit", head, kind_rows(bench, measure))
        yield tag("details", tag("summary", f"By kind: {measure.label}"), shown, open=measure == bench.main)


def _table_1(bench: Bench) -> Iterator[Html]:
    if not bench.rows:
        return
    yield _note(
        "Rows as the paper names them. Its CLIP scores are of Stable Diffusion v1.4, OpenAI's CLIP and 300 pictures a "
        "row; they can't be compared with ours in height, only in order."
    )
    yield table("Rows of Table 1: mean and 95 % interval over edits", *table_1_rows(bench, bench.measures))
    measured = [(f"({row})", [bench.point(row, bench.main)]) for row in bench.rows]
    yield plots.interval_plot(f"Table 1: {bench.main.label}", measured, [bench.main.label], bench.main.told)


def _readings(bench: Bench) -> Iterator[Html]:
    if not bench.readings:
        return
    head, rows = reading_rows(bench, bench.measures)
    yield _note("Where the paper is silent or contradicts itself, both readings are named settings.")
    yield table("Open readings: mean and 95 % interval over edits", head, rows)


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
    drawn.append(plots.interval_plot("What the judge finds right", rows, names, SATISFIED.told) if judged else Html(""))
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
        rows = [("", pictures(bench, album, edit, columns, 1)) for edit in edits]
        picture = sheet(rows, ["photo", "reference", *map(label, columns)], SHEET_SIDE)
        alt = f"{title}; photo, reference and results of {len(edits)} edits"
        shown = tag("div", album.embed(picture, alt), class_="scroll", role="region", tabindex=0, aria_label=title)
        yield tag("details", tag("summary", title), shown, open=kind == bench.kinds[0] and columns is methods)


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
        shown = shots(bench, edit, column)
        # Four methods with all their seeds fit in the page; eleven rows of a table do not.
        shown = shown if column in bench.methods else shown[:SEEDS_SHOWN]
        cells = [
            _cell(
                album.image(shot["name"], f"{label(column)}, seed {shot['seed']}: “{prompt}”; {shot['verdict']}"),
                f"seed {shot['seed']}",
                shot["verdict"],
            )
            for shot in shown
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
    yield table("Run", ["", ""], run_rows(bench), numbers=False)
    yield table(
        "Columns",
        ["column", "what it is", "method", "settings", "options"],
        [[column, bench.says(column), *recipe(bench, column)] for column in bench.columns],
        numbers=False,
    )
    yield table("Seconds an edit, all its seeds together; stages that the cache had count nothing", *timings(bench))
