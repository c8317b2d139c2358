"""A job's button and Cancel, and its bar over the stages, with the time left, the picture as it forms, and the loss."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import gradio as gr

from layerdiffusion.ui.widgets.drawing import duration, escape, loss_curve, picture_url

STAGE_LABELS = {
    "background": "Background",
    "inversion": "Inversion",
    "embeddings": "Words",
    "finetune": "Layers",
    "sampling": "Sampling",
}
DOING = {
    "background": "Generating the background",
    "inversion": "Inverting the photo to noise",
    "embeddings": "Fitting the words to the place",
    "finetune": "Learning both layers",
    "sampling": "Sampling the pictures",
}


@dataclass(frozen=True)
class JobControls:
    """The button that starts a job, its Cancel in the button's place while it runs, and the line on how far it is."""

    start: gr.Button
    cancel: gr.Button
    line: gr.HTML

    @property
    def components(self) -> list[Any]:
        return [self.start, self.cancel, self.line]


class ProgressView:
    """Takes in an edit's progress, and shows it as HTML."""

    def __init__(self, stages: dict[str, str], title: str = "") -> None:
        self.statuses, self.title = dict(stages), title
        self.stage = ""
        self.step = self.steps = 0
        self.left: float | None = None
        self.began = time.perf_counter()
        self.preview = self.note = ""
        self.losses: list[float] = []
        self.share = 0.0

    def take(self, events: Sequence) -> None:
        for event in events:
            if event.reused:
                self.statuses[event.stage] = "reuse"
                continue
            if event.stage != self.stage or event.step == 1:
                self.stage, self.losses = event.stage, []
            self.step, self.steps, self.left, self.note = event.step, event.steps, event.seconds_left, event.note
            if event.loss is not None:
                self.losses.append(event.loss)
            if event.preview is not None:
                self.preview = picture_url(event.preview)
        if self.left is not None:
            spent = time.perf_counter() - self.began
            self.share = max(self.share, spent / (spent + self.left) if spent + self.left else 0.0)

    def html(self) -> str:
        doing = DOING.get(self.stage, "Getting ready")
        doing = f"{escape(self.title)}: {doing[0].lower()}{doing[1:]}" if self.title else doing
        left = "" if self.left is None else f"about {duration(self.left)} left"
        count = f"step {self.step} of {self.steps}" if self.steps else ""
        count = f"{count} · {escape(self.note)}" if self.note else count
        side = ""
        if self.preview:
            side = f'<img class="ld-preview" src="{self.preview}" alt="The first picture as it forms">'
        elif self.losses:
            curve = loss_curve(self.losses, self.steps)
            side = f'<figure class="ld-loss">{curve}<figcaption>loss</figcaption></figure>'
        return (
            f'<div class="ld-progress" data-stage="{self.stage}"><div class="ld-progress-main">'
            f'<p class="ld-doing"><b>{doing}</b><span>{left}</span></p>'
            f'{bar_html(self.share)}<ol class="ld-stages">{self._chips()}</ol>'
            f'<p class="ld-count">{count}</p></div>{side}</div>'
        )

    def _chips(self) -> str:
        chips = []
        order = [stage for stage in STAGE_LABELS if stage in self.statuses]
        for stage in order:
            state = {"reuse": "reused", "skip": "left out"}.get(self.statuses[stage], "")
            if not state and self.stage in order:
                now, own = order.index(self.stage), order.index(stage)
                state = "done" if own < now else "now" if own == now else ""
            kind = state.split()[0] if state else "later"
            chips.append(f'<li class="ld-{kind}">{STAGE_LABELS[stage]}<em>{state}</em></li>')
        return "".join(chips)


class DownloadView(ProgressView):
    """Takes in how many bytes of a download have come."""

    def __init__(self) -> None:
        super().__init__({})

    def take(self, events: Sequence) -> None:
        self.step, self.steps = events[-1]
        self.share = self.step / self.steps

    def html(self) -> str:
        megabytes = f"{self.step / 1e6:,.0f} of {self.steps / 1e6:,.0f} MB"
        doing = f"Downloading: {megabytes}" if self.share < 1 else "Loading the model …"
        return f'<div class="ld-progress"><p class="ld-doing"><b>{doing}</b></p>{bar_html(self.share)}</div>'


def bar_html(share: float) -> str:
    """A bar of which this share, 0 to 1, is done."""
    return (
        '<div class="ld-bar" role="progressbar" aria-label="Progress" aria-valuemin="0" aria-valuemax="100" '
        f'aria-valuenow="{round(100 * share)}"><i style="width:{100 * share:.1f}%"></i></div>'
    )


def waiting_html(words: str) -> str:
    return f'<div class="ld-progress"><p class="ld-doing"><b>{escape(words)}</b></p></div>'
