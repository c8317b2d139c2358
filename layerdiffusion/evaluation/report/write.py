"""`write_report`: the folder of an evaluation as one page that needs nothing else, and as Markdown for a README."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from layerdiffusion.errors import EditError
from layerdiffusion.evaluation.claims import Bench, label
from layerdiffusion.evaluation.records import Records
from layerdiffusion.evaluation.report.album import Album, sheet
from layerdiffusion.evaluation.report.page import report_page, report_text
from layerdiffusion.evaluation.report.tables import SEEDS_SHOWN, pictures, plain_methods

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
        (folder / TEXT).write_text(report_text(bench, manifest, FIGURE, command), encoding="utf-8")
        figure = _figure(bench, Album(folder, FIGURE_SIDE, FIGURE_QUALITY))
        figure.save(folder / FIGURE, quality=FIGURE_QUALITY, method=6)
    except OSError as error:
        raise EditError(f"The report can't be written to {folder} ({error.strerror or error}).") from error
    return folder / PAGE


def _figure(bench: Bench, album: Album) -> Image.Image:
    """The first figure as one picture."""
    methods = plain_methods(bench)
    heads = ["photo", "reference", *(label(method) for method in methods for _ in range(SEEDS_SHOWN))]
    rows = [
        (f"“{bench.any_record(edit)['prompt']}”", pictures(bench, album, edit, methods, SEEDS_SHOWN))
        for edit in bench.first_of_each_kind()
    ]
    return sheet(rows, heads, FIGURE_SIDE)
