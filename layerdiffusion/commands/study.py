"""`python -m layerdiffusion study`: a page on which people rate results without names, and what they made of them."""

from __future__ import annotations

import argparse
import base64
import csv
import html
import io
import os
import secrets
import string
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from layerdiffusion.errors import EditError
from layerdiffusion.evaluation.study import RATING_FIELDS, SCALES, SCORES, Study, mean_scores
from layerdiffusion.files import saving, write_files
from layerdiffusion.images.io import png_bytes

if TYPE_CHECKING:
    import gradio as gr

LETTERS = string.ascii_uppercase
KEY = "layerdiffusion-rater"  # of the browser's own storage, which keeps who is rating
ASKED = {"background": "Background: is it the wanted place?", "action": "Action: does it do what is asked?"}
HEAD = """# User study
Each picture below is another method's answer to the same photo and the same words, in an order of chance. Score every
one from 1 (not at all) to 5 (completely). You can stop and come back in this browser; nobody is asked who they are."""
STYLE = "<style>.study figure { margin: 0; } .study img { width: 100%; max-width: 320px; }</style>"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of the `study` command."""
    parser.add_argument("folder", type=Path, help="what `evaluate toybench --out` made; ratings are stored in it")
    parser.add_argument(
        "--results", type=Path, metavar="FILE", help="print the mean scores and write all as CSV instead"
    )
    parser.add_argument(
        "--host", default="127.0.0.1", help="address to listen on; 0.0.0.0 for everybody on the network"
    )
    parser.add_argument("--port", type=int, help="port to listen on; else the first free one from 7860")
    parser.add_argument("--share", action="store_true", help="a public link for 72 hours")


def run(args: argparse.Namespace) -> int:
    """Serve the page until Ctrl-C, or print what was rated."""
    study = Study(args.folder)
    if args.results is not None:
        write_results(study, args.results)
        return 0
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
    study_page(study).launch(server_name=args.host, server_port=args.port, share=args.share, footer_links=[])
    return 0


def write_results(study: Study, path: Path) -> None:
    """Print each method's mean scores with their intervals, and write every rating as CSV. Raises `EditError`."""
    ratings, text = study.ratings(), io.StringIO(newline="")
    sheet = csv.DictWriter(text, RATING_FIELDS)
    sheet.writeheader()
    sheet.writerows(ratings)
    with saving("The ratings", path):
        write_files({path: text.getvalue().encode()})
    print(f"{len({rating['rater'] for rating in ratings})} raters, {len(ratings)} pictures rated")
    for method, scales in mean_scores(ratings).items():
        print(method, *(f"{name} {'{:.2f} [{:.2f}, {:.2f}]'.format(*mean)}" for name, mean in scales.items()), sep="  ")


def study_page(study: Study) -> gr.Blocks:
    """The page: one set of pictures after the other, with two scores for each picture."""
    import gradio as gr

    def load(rater: Any) -> tuple[Any, ...]:
        rater = rater if is_rater(rater) else secrets.token_hex(16)
        return rater, *_shown(study, rater)

    def save(rater: Any, current: Any, *scores: Any) -> tuple[Any, ...]:
        try:
            if not is_rater(rater) or current is None:
                raise EditError("This page has forgotten what it showed; reload it, and go on where you were.")
            edit, seed = current
            study.save(rater, edit, seed, list(zip(scores[::2], scores[1::2], strict=True)))
            return _shown(study, rater)
        except EditError as error:
            raise gr.Error(html.escape(str(error)), print_exception=False) from None

    with gr.Blocks(title="User study", analytics_enabled=False) as blocks:
        gr.HTML(STYLE)
        gr.Markdown(HEAD)
        rater = gr.BrowserState("", storage_key=KEY, secret=KEY)
        current = gr.State(None)
        asked = gr.HTML("", elem_id="study-asked", elem_classes=["study"])
        pictures, scores = [], []
        with gr.Row(elem_id="study-trial", visible=False) as row:
            for at, letter in enumerate(LETTERS[: len(study.methods)]):
                with gr.Column(min_width=230):
                    pictures.append(gr.HTML("", elem_classes=["study"]))
                    for scale in SCALES:  # the letter is for those who hear a score without seeing where it stands
                        words = f"{letter} · {ASKED[scale]}"
                        scores.append(gr.Radio(list(SCORES), value=None, label=words, elem_id=f"study-{scale}-{at}"))
        button = gr.Button("Save and go on", variant="primary", elem_id="study-save", visible=False)
        outputs = [current, asked, row, button, *pictures, *scores]
        blocks.load(load, rater, [rater, *outputs], show_progress="hidden", api_visibility="private")
        inputs = [rater, current, *scores]
        button.click(save, inputs, outputs, show_progress="hidden", api_visibility="private")
    return blocks


def _shown(study: Study, rater: str) -> tuple[Any, ...]:
    """What the page shows this rater now: a trial with no scores given yet, or thanks."""
    import gradio as gr

    count = len(study.methods)
    trial, scores = study.next(rater), [None] * (count * len(SCALES))
    if trial is None:
        hidden = gr.update(visible=False)
        return (
            None,
            "<h2>Thank you!</h2><p>You have rated all there is.</p>",
            hidden,
            hidden,
            *[""] * count,
            *scores,
        )
    place = "<p>The photo’s own background is wanted.</p>"
    if trial.reference is not None:
        place = figure(trial.reference, "Reference: the wanted background")
    asked = (
        f"<h2>“{html.escape(trial.prompt)}”</h2><p>{study.done(rater) + 1} of {len(study)}</p>"
        f"{figure(trial.photo, 'Photo: the subject')}{place}"
    )
    pictures = [figure(path, f"Picture {letter}") for letter, path in zip(LETTERS, trial.pictures, strict=False)]
    visible = gr.update(visible=True)
    return (trial.edit, trial.seed), asked, visible, visible, *pictures, *scores


def is_rater(rater: Any) -> bool:
    """Whether the browser sent back an id that this page gave it."""
    return isinstance(rater, str) and len(rater) == 32 and set(rater) <= set("0123456789abcdef")


def figure(path: Path, caption: str) -> str:
    """The picture inside the page: its address would tell the method's name, and so might its metadata."""
    try:
        with Image.open(path) as image:
            data = base64.b64encode(png_bytes(image.convert("RGB"))).decode()
    except OSError as error:
        raise EditError("A picture of this study is missing; tell whoever runs it.") from error
    return (
        f'<figure><img src="data:image/png;base64,{data}" alt="{caption}"><figcaption>{caption}</figcaption></figure>'
    )
