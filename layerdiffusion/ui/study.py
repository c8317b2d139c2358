"""The user study's page, at /study: results without names to rate, and what everybody thought of them afterwards."""

import base64
import secrets
import string
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import gradio as gr
from PIL import Image

from layerdiffusion.errors import EditError
from layerdiffusion.evaluation.claims import label
from layerdiffusion.evaluation.report.plots import histogram
from layerdiffusion.evaluation.report.template import table
from layerdiffusion.evaluation.study import REVEAL_AFTER, SCALES, SCORES, Study, Trial, summaries
from layerdiffusion.ui.errors import friendly
from layerdiffusion.ui.widgets.drawing import escape, picture_url
from layerdiffusion.ui.widgets.static import static_text

NAME, ADDRESS = "User study", "/study"
KEY = "layerdiffusion-rater"  # of the browser's own storage, which keeps who is rating
ASKED = {"background": "Background: is it the wanted place?", "action": "Action: does it do what is asked?"}
HEAD = """<h1>User study</h1><p>Each picture below is another method's answer to the same photo and the same words,
in an order of chance. Score every one from 1 (not at all) to 5 (completely). You can stop and come back in this
browser; nobody is asked who they are.</p>"""
DONE = "<h2>Thank you!</h2><p>You have rated all there is. The results are below.</p>"
SHOW, LATER = "Show the results", f"Results, with the methods’ names, after {REVEAL_AFTER} sets of pictures"
QUIET = {"show_progress": "hidden", "api_visibility": "private"}


def add_study(blocks: gr.Blocks, study: Study) -> None:
    """Give the app a second page; to be called outside the first one's `with`."""
    with blocks.route(NAME, ADDRESS):
        gr.HTML(f"<style>{static_text('study.css')}</style>{HEAD}", elem_classes=["ld-study-head"])
        rater = gr.BrowserState("", storage_key=KEY, secret=KEY)
        current = gr.State(None)
        with gr.Column(elem_classes=["ld-card"]):
            asked = gr.HTML("", elem_id="study-asked")
        pictures, scores = [], []
        with gr.Row(elem_id="study-trial", visible=False) as row:
            for at in range(len(study.variants)):
                with gr.Column(elem_classes=["ld-card"], min_width=230):
                    pictures.append(gr.HTML("", elem_classes=["ld-study"]))
                    for scale in SCALES:  # the letter is for those who hear a score without seeing where it stands
                        named = {"label": f"{letter(at)} · {ASKED[scale]}", "elem_id": f"study-{scale}-{at}"}
                        scores.append(gr.Radio(list(SCORES), value=None, **named))
        save = gr.Button("Save and go on", variant="primary", elem_id="study-save", visible=False)
        with gr.Column(elem_classes=["ld-card"]):
            show = gr.Button(LATER, size="sm", elem_id="study-show", interactive=False)
            found = gr.HTML("", elem_id="study-found", elem_classes=["ld-study-found"])
        shown = [current, asked, row, save, show, *pictures, *scores]
        blocks.load(friendly(opener(study)), rater, [rater, *shown], **QUIET)
        save.click(friendly(saver(study)), [rater, current, *scores], shown, **QUIET)
        show.click(friendly(reporter(study)), rater, found, **QUIET)


def letter(at: int) -> str:
    return string.ascii_uppercase[at]


def opener(study: Study) -> Callable[[Any], tuple[Any, ...]]:
    def open_(rater: Any) -> tuple[Any, ...]:
        """The rater of this browser, a new one where there was none, and what is next for them."""
        rater = known(rater) or secrets.token_hex(16)
        return rater, *view(study, rater)

    return open_


def saver(study: Study) -> Callable[..., tuple[Any, ...]]:
    def save(rater: Any, current: Any, *scores: Any) -> tuple[Any, ...]:
        rater = known(rater)
        if rater is None or current is None:
            raise EditError("This page has forgotten what it showed; reload it, and go on where you were.")
        edit, seed = current
        study.save(rater, edit, seed, list(zip(scores[::2], scores[1::2], strict=True)))
        return view(study, rater)

    return save


def reporter(study: Study) -> Callable[[Any], str]:
    def report(rater: Any) -> str:
        if not study.revealed(known(rater) or ""):
            raise EditError(f"The names would give the methods away; rate {REVEAL_AFTER} sets of pictures first.")
        return results(study)

    return report


def known(rater: Any) -> str | None:
    """A rater's id as the browser sent it back; None for anything that can't be one."""
    fits = isinstance(rater, str) and len(rater) == 32 and set(rater) <= set("0123456789abcdef")
    return rater if fits else None


def view(study: Study, rater: str) -> tuple[Any, ...]:
    """What the page shows this rater now: a trial with no scores given yet, or thanks."""
    trial, count = study.next(rater), len(study.variants)
    open_ = study.revealed(rater)
    show = gr.update(interactive=open_, value=SHOW if open_ else LATER)
    if trial is None:
        nothing = [""] * count + [None] * (count * len(SCALES))
        return None, DONE, gr.update(visible=False), gr.update(visible=False), show, *nothing
    visible = gr.update(visible=True)
    pictures = [_figure(path, f"Picture {letter(at)}") for at, path in enumerate(trial.pictures)]
    scores = [None] * (count * len(SCALES))
    asked = _asked(trial, study.done(rater) + 1, len(study))
    return (trial.edit, trial.seed), asked, visible, visible, show, *pictures, *scores


def _asked(trial: Trial, number: int, of: int) -> str:
    reference = trial.reference
    place = (
        _figure(reference, "Reference: the wanted background")
        if reference
        else "<p>The photo’s own background is wanted.</p>"
    )
    return (
        f'<div class="ld-study-asked">{_figure(trial.photo, "Photo: the subject")}{place}'
        f"<div><h2>“{escape(trial.prompt)}”</h2><p>{number} of {of}</p></div></div>"
    )


def _figure(path: Path, caption: str) -> str:
    """The picture inside the page: its address would tell the method's name, and so might its metadata."""
    try:
        with Image.open(path) as image:
            url = picture_url(image.convert("RGB"))
    except OSError as error:
        raise EditError("A picture of this study is missing; tell whoever runs it.") from error
    return f'<figure><img src="{url}" alt="{escape(caption)}"><figcaption>{escape(caption)}</figcaption></figure>'


def results(study: Study) -> str:
    """Histograms and means with the methods' names, how sure they are, and everything as a file."""
    ratings = study.ratings()
    found = summaries(ratings, study.variants)
    count = len({rating.rater for rating in ratings})
    parts = [
        f"<p>{count} {'rater' if count == 1 else 'raters'}, {len(ratings)} pictures rated. Bars: the share of each "
        "score; lines and brackets: 95 % intervals over raters and edits.</p>"
    ]
    for scale in SCALES:
        here = [summary for summary in found if summary.scale == scale]
        drawn = "".join(
            f"<figure><figcaption><b>{escape(label(s.variant))}</b> {format_interval(s.mean)}</figcaption>"
            f"{histogram(f'{label(s.variant)}, {scale}: share of each score', s.shares, at)}</figure>"
            for at, s in enumerate(here)
        )
        rows = [[label(s.variant), s.count, format_interval(s.mean), format_interval(s.behind_first)] for s in here]
        head = ["method", "ratings", "mean", f"{label(study.variants[0])} is higher by"]
        parts.append(f'<h2>{scale.capitalize()} similarity</h2><div class="ld-histograms">{drawn}</div>')
        parts.append(table(f"{scale.capitalize()}: means and differences", head, rows))
    data = base64.b64encode(study.csv().encode()).decode()
    parts.append(f'<p><a download="ratings.csv" href="data:text/csv;base64,{data}">All ratings as CSV</a></p>')
    return "".join(parts)


def format_interval(point: Sequence[float] | None) -> str:
    return "–" if point is None else "{:.2f} [{:.2f}, {:.2f}]".format(*point).replace("-", "−")
