"""What the templates of the report are filled in with."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from markupsafe import Markup

from layerdiffusion.evaluation.claims import (
    ATTRIBUTES,
    BACKGROUND,
    BOTH,
    LIKENESS,
    OURS,
    SATISFIED,
    Bench,
    Claim,
    kind_label,
    label,
)
from layerdiffusion.evaluation.report import plots, tables
from layerdiffusion.evaluation.report.album import Album, Embedded, sheet
from layerdiffusion.evaluation.report.template import render

LEAD_SIDE, LEAD_QUALITY, SHEET_SIDE = 192, 88, 76
SHARED = {name: value for name, value in vars(tables).items() if not name.startswith("_")} | {
    "BOTH": BOTH,
    "OURS": OURS,
    "kind_label": kind_label,
    "label": label,
}


def report_page(bench: Bench, manifest: dict[str, Any], album: Album, command: str) -> str:
    """The report as one page that needs nothing else, drawn for wide and narrow, light and dark."""
    return render(
        "report.html.j2",
        **_shared(bench, manifest, command),
        style=Markup(Path(__file__).with_name("report.css").read_text(encoding="utf-8")),
        album=album,
        large=Album(album.folder, LEAD_SIDE, min(LEAD_QUALITY, album.quality + 8)),
        claim_plot=claim_plot,
        method_plots=method_plots,
        table_1_plot=table_1_plot,
        sheets=list(_sheets(bench, album)),
    )


def report_text(bench: Bench, manifest: dict[str, Any], figure: str, command: str) -> str:
    """The report in short, as Markdown beside the picture `figure`."""
    measures = [m for m in bench.measures if m not in ATTRIBUTES and m.name != "clipscore"]
    return render("report.md.j2", **_shared(bench, manifest, command), measures=measures, FIGURE=figure)


def _shared(bench: Bench, manifest: dict[str, Any], command: str) -> dict[str, Any]:
    earlier = [line for line in manifest.get("commands", []) if line != command]
    models = ", ".join(sorted({record["model"] for record in bench.records}))
    return SHARED | {"bench": bench, "command": command, "earlier": earlier, "models": models}


def claim_plot(claim: Claim) -> Markup:
    rows = [(tables.pair(test), [test.difference]) for test in claim.tests_in(claim.main)]
    title = f"Differences: {claim.title}"
    return plots.interval_plot(title, rows, [claim.main.label], claim.main.format_value, zero=True)


def table_1_plot(bench: Bench) -> Markup:
    rows = [(label(row), [bench.interval(row, bench.main)]) for row in bench.rows]
    title = f"Table 1: {bench.main.label}"
    return plots.interval_plot(title, rows, [bench.main.label], bench.main.format_value)


def method_plots(bench: Bench) -> Iterator[tuple[str, Markup]]:
    """Title and plot of what compares the methods."""
    names, main = [label(method) for method in bench.methods], bench.main
    rows = [("all edits", [bench.interval(method, main) for method in bench.methods])]
    if len(bench.kinds) > 1:
        short = {kind: kind_label(kind).removesuffix(" changed").removesuffix(" replaced") for kind in bench.kinds}
        rows += [(short[kind], [bench.interval(m, main, (kind,)) for m in bench.methods]) for kind in bench.kinds]
    title = f"{main.label}, by kind of edit"
    yield title, plots.interval_plot(title, rows, names, main.format_value)
    judged = [measure for measure in ATTRIBUTES if measure in bench.measures]
    if judged:
        title = "What the judge finds right"
        rows = [(measure.label, [bench.interval(m, measure) for m in bench.methods]) for measure in judged]
        yield title, plots.interval_plot(title, rows, names, SATISFIED.format_value)
    axes = (BACKGROUND, LIKENESS)
    both = [(bench.interval(method, BACKGROUND), bench.interval(method, LIKENESS)) for method in bench.methods]
    points = [(x, y) for x, y in both if x is not None and y is not None]
    if len(points) == len(both):
        title = "Place against subject: up and right is better"
        formats = (BACKGROUND.format_value, "{:.2f}".format)
        yield title, plots.scatter(title, points, names, (axes[0].label, axes[1].label), formats)


def _sheets(bench: Bench, album: Album) -> Iterator[tuple[str, int, Embedded]]:
    """Title, number of edits and picture of each contact sheet."""
    methods = tables.plain_methods(bench)
    first = bench.kinds[0]
    wanted = [
        (kind, methods, f"{kind_label(kind).capitalize()}: the first seed of each method") for kind in bench.kinds
    ]
    if bench.rows:
        wanted.append((first, bench.rows, f"Table 1 on “{kind_label(first)}”: the first seed of a row"))
    for kind, variants, title in wanted:
        edits = [edit for edit in bench.edits if bench.kind[edit] == kind]
        rows = [("", tables.pictures(bench, album, edit, variants, 1)) for edit in edits]
        picture = sheet(rows, ["photo", "reference", *map(label, variants)], SHEET_SIDE)
        yield title, len(edits), album.embed(picture)
