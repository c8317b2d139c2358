"""What an edit reports while it runs, and how it is stopped."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from PIL import Image
from torch import Tensor

from layerdiffusion.errors import EditError

STAGES = ("background", "inversion", "embeddings", "finetune", "sampling")  # "inversion" is Plug-and-Play's
PREVIEWS = 6  # how many previews stage 3 gives


@dataclass(frozen=True)
class Step:
    """What a stage hands to its `on_step` callback after each step; `index` counts from 1 to `steps`."""

    index: int
    steps: int
    loss: float | None = None  # stages 1 and 2: what was minimised, before this step's update
    x0: Tensor | None = None  # stage 3: (B, C, h, w), the clean latents predicted at this step


OnStep = Callable[[Step], None]


class Cancelled(EditError):
    """The edit was cancelled; what it had finished stays in the cache."""


@dataclass(frozen=True)
class Progress:
    """One step of an edit, or, with `reused`, a stage that came from the cache."""

    stage: str  # one of STAGES
    step: int
    steps: int
    loss: float | None = None  # in "embeddings" and "finetune"
    seconds_left: float | None = None  # of the whole edit
    preview: Image.Image | None = None  # now and then: the first seed's picture as it forms
    reused: bool = False
    note: str = ""  # a sentence: why the stage runs otherwise than it was asked to


OnProgress = Callable[[Progress], None]


class Reporter:
    """Turns a stage's steps into `Progress`, guesses the time left, and raises `Cancelled`.

    `work` is each stage's steps and the cost of a step, in forward passes of one picture; several stages of one name
    share one count. `seconds_per_pass` are the speeds seen so far, by stage; the ones seen now are put in.
    """

    def __init__(
        self,
        seconds_per_pass: dict[str, float],
        work: dict[str, tuple[int, float]],
        on_progress: OnProgress | None,
        cancel: threading.Event | None,
    ) -> None:
        self.seconds_per_pass, self.work = seconds_per_pass, work
        self._on_progress, self._cancel = on_progress, cancel
        self.stage = ""
        self.losses: list[float] = []  # of the stage that runs
        self.seconds: dict[str, float] = {}  # that each stage has taken, by name
        self._note = ""
        self._before = 0  # steps of stages of this name that are finished

    def check(self) -> None:
        if self._cancel is not None and self._cancel.is_set():
            raise Cancelled("The edit was cancelled; the stages it had finished are kept.")

    def forward(self, event: Progress) -> None:
        """Pass on what another reporter of the same edit has reported."""
        self.check()
        if self._on_progress:
            self._on_progress(event)

    def reused(self, stage: str) -> None:
        if self._on_progress:
            self._on_progress(Progress(stage, 1, 1, reused=True))

    def begin(self, stage: str) -> None:
        if stage != self.stage:
            self.stage, self._before = stage, 0
        self.again("")

    def again(self, note: str) -> None:
        """The stage takes its steps from the first; `note` is one sentence on why it does."""
        self.losses, self._note, self._began = [], note, time.perf_counter()

    def step(self, step: Step, preview: Callable[[], Image.Image] | None = None) -> None:
        self.check()
        if step.loss is not None:
            self.losses.append(step.loss)
        done, steps = self._before + step.index, max(self.work.get(self.stage, (0,))[0], self._before + step.steps)
        left = self._seconds_left(done, steps)
        if self._on_progress:
            picture = preview() if preview else None
            self._on_progress(Progress(self.stage, done, steps, step.loss, left, picture, note=self._note))

    def finish(self, stage: str, steps: int, seconds: float) -> None:
        """A stage is done after so many steps and seconds; the next of the same name counts on from there."""
        self._before += steps
        self.seconds[stage] = self.seconds.get(stage, 0.0) + seconds

    def part(
        self, index: int, parts: int, decode: Callable[[Tensor], list[Image.Image]] | None = None
    ) -> Callable[[Step], None]:
        """The callback of one of `parts` sampling loops; with `decode`, the first of them shows previews."""

        def on_step(step: Step) -> None:
            every = max(1, step.steps // PREVIEWS)
            shown = index == 0 and step.index % every == 0 and step.index < step.steps
            latents = step.x0[:1] if shown and step.x0 is not None else None
            whole = replace(step, index=index * step.steps + step.index, steps=step.steps * parts)
            self.step(whole, (lambda: decode(latents)[0]) if decode and latents is not None else None)

        return on_step

    def _seconds_left(self, done: int, steps: int) -> float:
        per_step = (time.perf_counter() - self._began) / done
        expected, cost = self.work.get(self.stage, (steps, 1.0))
        cost *= expected / steps  # a batch in parts takes more steps, each of fewer pictures
        self.seconds_per_pass[self.stage] = per_step / cost
        left = per_step * (steps - done)
        for stage in STAGES[STAGES.index(self.stage) + 1 :]:
            later_steps, later_cost = self.work.get(stage, (0, 0))
            left += later_steps * later_cost * self.seconds_per_pass.get(stage, per_step / cost)
        return left
