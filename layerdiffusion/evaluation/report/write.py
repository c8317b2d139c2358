"""`write_report`: the folder of an evaluation as one page that needs nothing else, and as Markdown for a README."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from PIL import Image

from layerdiffusion.errors import EditError
from layerdiffusion.evaluation.claims import ATTRIBUTES, BOTH, Bench, kind_label, label
from layerdiffusion.evaluation.records import Records
from layerdiffusion.evaluation.report.album import Album, sheet
from layerdiffusion.evaluation.report.markup import markdown_table, markdown_text
from layerdiffusion.evaluation.report.page import report_page
from layerdiffusion.evaluation.report.rows import (
    MARKS,
    RULE,
    SEEDS_SHOWN,
    difference,
    method_rows,
    pair,
    pictures,
    plain_methods,
    reading_rows,
    run_rows,
    size_of,
    table_1_rows,
    timings,
)

LIMIT = 14_500_000  # bytes of the page
SIZES = ((160, 84), (144, 78), (128, 74), (112, 66), (96, 58), (80, 48), (64, 40), (48, 34))  # side, quality
FIGURE_SIDE, FIGURE_QUALITY = 128, 88
PAGE, TEXT, FIGURE = "report.html", "report.md", "report.webp"


def write_report(folder: str | Path, command: str) -> Path:
    """Write `report.html`, `report.md` and the Markdown's `report.webp` into `folder`; return the page's path.

    Only the folder is read: what is missing there is missing in the report, which says so. `command` is the line
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
        page = report_page(bench, manifest, Album(folder, side, quality), command).encode()
        if len(page) <= LIMIT:
            break
    try:
        (folder / PAGE).write_bytes(page)
        (folder / TEXT).write_text(_markdown(bench, manifest, command), encoding="utf-8")
        figure = _figure(bench, Album(folder, FIGURE_SIDE, FIGURE_QUALITY))
        figure.save(folder / FIGURE, quality=FIGURE_QUALITY, method=6)
    except OSError as error:
        raise EditError(f"The report can't be written to {folder} ({error.strerror or error}).") from error
    return folder / PAGE


def _figure(bench: Bench, album: Album) -> Image.Image:
    """The first figure as one picture."""
    methods = plain_methods(bench)
    heads = ["photo", "reference", *(label(column) for column in methods for _ in range(SEEDS_SHOWN))]
    rows = [
        (f"“{bench.any_record(edit)['prompt']}”", pictures(bench, album, edit, methods, SEEDS_SHOWN))
        for edit in bench.first_of_each_kind()
    ]
    return sheet(rows, heads, FIGURE_SIDE)


def _markdown(bench: Bench, manifest: dict[str, Any], command: str) -> str:
    measures = [m for m in bench.measures if m not in ATTRIBUTES and m.name != "clipscore"]
    models = markdown_text(run_rows(bench)[0][1])
    parts = [f"![Photo, reference and results side by side]({FIGURE})", f"*{RULE}*"]
    parts.append(f"{size_of(bench)}. Model: {models}. Brackets: 95 % intervals, bootstrap over edits.")
    if bench.methods:
        parts.append(markdown_table(*method_rows(bench, measures)))
    claims = [
        [claim.title, claim.main.label, "; ".join(f"{pair(t)}: {difference(t)}" for t in claim.tests_in(claim.main)),
         f"{MARKS[claim.verdict]} {claim.verdict}"]
        for claim in bench.claims()
    ]  # fmt: skip
    where = f" (of edits of {kind_label(BOTH)} in the first)" if BOTH in bench.kinds else ""
    parts.append(f"The paper's claims, by paired differences{where}:")
    parts.append(markdown_table(["claim", "measure", "difference", "verdict"], claims))
    if bench.rows:
        parts += ["Table 1:", markdown_table(*table_1_rows(bench, measures))]
    if bench.readings:
        parts += ["What the paper leaves open:", markdown_table(*reading_rows(bench, measures))]
    parts.append("Seconds an edit, all its seeds together:")
    parts.append(markdown_table(*timings(bench)))
    commands = [*(line for line in manifest.get("commands", []) if line != command), command]
    fence = "```" if not any("```" in line for line in commands) else "~" * 12
    parts.append("\n".join([f"{fence}bash", *(" ".join(line.split()) for line in commands), fence]))
    return "\n\n".join(parts) + "\n"
