"""`Editor`: edits pictures with one set of models, whatever the method."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import cast

import numpy as np
from PIL import Image

from layerdiffusion.edit import Edit
from layerdiffusion.errors import EditError, ModelError, SegmentError
from layerdiffusion.images.detail import bring_detail
from layerdiffusion.images.layers import Layers, background_window, lay_out, seen
from layerdiffusion.images.masks import cut_out
from layerdiffusion.methods import imagic, layerdiffusion, pnp, sdedit
from layerdiffusion.methods.options import OPTIONS, OWN, Options, check_options
from layerdiffusion.methods.stages import (
    FittedEmbeddings,
    Task,
    Trained,
    TunedWeights,
    background_stage,
    generate_background,
)
from layerdiffusion.methods.subject import Subject, trained_subject
from layerdiffusion.models.find import find_again
from layerdiffusion.models.load import Models
from layerdiffusion.models.memory import Need, predicted_need
from layerdiffusion.progress import OnProgress, Reporter
from layerdiffusion.prompts import prompt_notes, subject_noun
from layerdiffusion.recipe import Recipe
from layerdiffusion.result import Result
from layerdiffusion.runtime import RUN, Runtime, Stage, digest
from layerdiffusion.settings import Settings

STAGES_OF: dict[str, Callable[[Task], list[Stage[object]]]] = {
    OWN: layerdiffusion.stages,
    "sdedit": sdedit.stages,
    "imagic": imagic.stages,
    "pnp": pnp.stages,
}

OF_A_SUBJECT = (
    "These pictures are of a kept subject: their recipe alone trains another; open the subject to make them again."
)


FOUND = 32  # masks of results' subjects that are cached


class Editor:
    """Edits pictures with one set of models; safe to share between threads, which then take turns.

    `cache_limit` bounds the finished stages that are kept, in bytes of main memory; see `Runtime`. `sam` is which
    Segment Anything finds subjects in results, as in `Models.segmenter`. The models are never changed: stage 2 tunes a
    copy, which lives in this cache.
    """

    def __init__(self, models: Models, cache_limit: int | None = None, sam: str | Path | None = None) -> None:
        self.models, self.sam = models, sam
        self.runtime = Runtime(models, cache_limit)
        self._last_layers: tuple[Edit, tuple[int, int], Layers] | None = None
        self._found: OrderedDict[str, np.ndarray] = OrderedDict()  # by result, the last `FOUND` of them

    def run(
        self,
        edit: Edit,
        settings: Settings | None = None,
        on_progress: OnProgress | None = None,
        cancel: threading.Event | None = None,
        *,
        method: str = OWN,
        options: Options | None = None,
        subject: Subject | None = None,
    ) -> Result:
        """Run the edit, taking from the cache every stage whose inputs are the same as before.

        Fields that `settings` leaves open are the model's own defaults. `on_progress` gets a `Progress` for each step;
        once `cancel` is set the edit ends within a step. `method` is one of `methods.options.METHODS`, `options` its
        own (`options_for`; None: its defaults). With a kept `subject` nothing is trained but its `train_on` steps, in
        place of stages 1 and 2. The baselines see the whole prompt and one picture. Raises an
        `EditError`: `Cancelled`, `OutOfMemory`, or one that says what is wrong with the edit. Whatever is raised,
        finished stages are kept.
        """
        began = time.perf_counter()
        prepared = self._prepare(edit, settings, method, options, subject)
        with self.runtime.turn(cancel):
            background, task, stages = prepared
            if background is not None and task.layers is None and (picture := self.runtime.cached(background)):
                task, stages = self._with_background(task, method, picture)  # made while this waited for its turn
            planned = [*([] if background is None else [background]), *stages]
            status = self.runtime.plan(planned)
            report = self.runtime.reporter(planned, on_progress, cancel)
            seconds: dict[str, float] = {}
            if background is not None and task.layers is None:
                made = self.runtime.run_stages([background], report)
                seconds |= made.seconds
                task, stages = self._with_background(task, method, made[background])
                status |= self.runtime.plan(stages)
            elif background is not None:
                report.reused(background.name)
            finished = self.runtime.run_stages(stages, report)
            seconds |= finished.seconds
            images, unfound = self._own_pictures(cast("list[Image.Image]", finished[stages[-1]]), task)
        assert task.layers is not None
        trained = {stage.name: value for stage in stages if isinstance(value := finished[stage], Trained)}
        return Result(
            images=images,
            seeds=task.settings.seeds,
            timings=seconds | {"total": time.perf_counter() - began},
            losses={name: list(value.losses) for name, value in trained.items()},
            edit_id=_identity(task, stages[-1]),
            stages=status,
            edit=edit,
            settings=task.settings,
            model=self.models.name,
            layers=task.layers,
            warnings=(
                *self.warnings(edit, method),
                *_notes(trained.values()),
                *([] if subject is None else [OF_A_SUBJECT]),
                *unfound,
            ),
        )

    def plan(
        self, edit: Edit, settings: Settings | None = None, method: str = OWN, subject: Subject | None = None
    ) -> dict[str, str]:
        """What `run` would do now with each stage: "run", "reuse" (from the cache) or "skip" (no steps)."""
        return self.runtime.plan(self._planned(edit, settings, method, subject))

    def warnings(self, edit: Edit, method: str = OWN) -> list[str]:
        """What will be made of masks and prompts otherwise than they may be meant, a sentence each."""
        prompts = [edit.object_prompt, edit.background_prompt] if method == OWN else [edit.prompt]
        return [*edit.notes, *self.models.prompt_warnings(prompts), *prompt_notes(prompts)]

    def need(self, settings: Settings | None = None) -> Need | None:
        """What an edit takes of the device's memory, where that is known. Raises `TooLarge` where it can't fit."""
        settings = (settings or Settings()).resolve(self.models.defaults)
        self.models.check(settings)
        return predicted_need(self.models, settings)

    def estimate(
        self, edit: Edit, settings: Settings | None = None, method: str = OWN, subject: Subject | None = None
    ) -> float | None:
        """The seconds that `run` would take now, by the speeds seen so far; None before any was."""
        return self.runtime.estimate(self._planned(edit, settings, method, subject))

    def left(self, edit: Edit, settings: Settings | None = None, method: str = OWN) -> list[Stage[object]]:
        """The stages that `run` would have to run now."""
        return [stage for stage in self._planned(edit, settings, method) if self.runtime.status(stage) == RUN]

    def measure(self) -> None:
        """Take a few steps of sampling, so that the first `estimate` has a speed to go by."""
        with self.runtime.turn():
            for steps in (1, 3):  # the first one pays for what is set up once
                report = Reporter(self.runtime.seconds_per_pass, {"background": (steps, 2)}, None, None)
                size = self.models.size, self.models.size
                generate_background(self.models, report, "", 0, size, steps, self.models.defaults.guidance_scale)
            self.runtime.assume(self.runtime.seconds_per_pass["background"])

    def generate_backgrounds(
        self,
        prompt: str,
        seeds: Iterable[int] = (0, 1, 2, 3),
        settings: Settings | None = None,
        on_progress: OnProgress | None = None,
        cancel: threading.Event | None = None,
        photo: tuple[int, int] = (1, 1),
    ) -> list[Image.Image]:
        """A picture of `prompt` for each seed, made by the untouched model: backgrounds to choose from.

        The one of seed s is what `Edit(background="generate", background_seed=s)` uses for an `object_image` of size
        `photo` (W, H). Cached and raised as in `run`.
        """
        if not prompt.strip():
            raise EditError("There are no words to generate a background from; describe the place.")
        settings = (settings or Settings()).resolve(self.models.defaults)
        size = self.models.window(settings.shape, photo)
        stages = [background_stage(self.models, prompt, seed, settings, size) for seed in seeds]
        with self.runtime.turn(cancel):
            finished = self.runtime.run_stages(stages, self.runtime.reporter(stages, on_progress, cancel))
            return [finished[stage].copy() for stage in stages]

    def layers(self, edit: Edit, settings: Settings | None = None) -> Layers | None:
        """The edit's pictures as the stages will look at them; None while its background is not generated yet."""
        return self._prepare(edit, settings, OWN, None)[1].layers

    def subject(self, edit: Edit, settings: Settings | None = None, subject: Subject | None = None) -> Subject:
        """What the edit's training came to, to be kept: from the cache, or else trained now; see `run`."""
        _, task, stages = self._prepare(edit, settings, OWN, None, subject)
        if task.layers is None:
            raise EditError("The background is not generated yet; run the edit first.")
        with self.runtime.turn():
            finished = self.runtime.run_stages(stages[:2], self.runtime.reporter(stages[:2], None, None))
        fitted, tuned = (cast("Trained", finished[stage]) for stage in stages[:2])
        assert isinstance(fitted, FittedEmbeddings) and isinstance(tuned, TunedWeights)
        before = 0 if subject is None else subject.recipe.settings.finetune_steps or 0
        settings = replace(task.settings, finetune_steps=before + task.settings.finetune_steps)
        return trained_subject(
            Recipe(seen(edit, task.size), settings, self.models.name), fitted.embeddings, tuned.weights
        )

    def cut_out(self, result: Result) -> list[Image.Image]:
        """The subject of each of the result's pictures, found again by SAM and the words: RGBA. Raises `ModelError`."""
        with self.runtime.turn():
            masks = [self._subject_of(image, result.edit, result.layers) for image in result.images]
        return [cut_out(image, mask) for image, mask in zip(result.images, masks, strict=True)]

    def clear_cache(self) -> None:
        """Forget every finished stage."""
        with self.runtime.turn():
            self.runtime.clear_cache()

    @property
    def cache_size(self) -> int:
        """Bytes held by the finished stages."""
        return self.runtime.cache_size

    def _planned(
        self, edit: Edit, settings: Settings | None, method: str, subject: Subject | None = None
    ) -> list[Stage[object]]:
        background, _, stages = self._prepare(edit, settings, method, None, subject)
        return stages if background is None else [background, *stages]

    def _prepare(
        self,
        edit: Edit,
        settings: Settings | None,
        method: str,
        options: Options | None,
        subject: Subject | None = None,
    ) -> tuple[Stage[Image.Image] | None, Task, list[Stage[object]]]:
        """The stage that generates the background, where one does, and the method's task and stages."""
        check_options(method, options)
        settings = (settings or Settings()).resolve(self.models.defaults)
        self.models.check(settings)
        if method in OPTIONS:
            options = (options or OPTIONS[method]()).resolve(self.models.defaults)
        if subject is not None:
            subject.check(self.models)
            settings = replace(settings, embedding_steps=0, finetune_steps=subject.train_on, tune=subject.tune)
        task = Task(self.models, edit, settings, options, None, subject)
        if edit.background != "generate":
            task = replace(task, layers=self._lay_out(edit, task.size))
            return None, task, STAGES_OF[method](task)
        background = background_stage(self.models, edit.background_prompt, edit.background_seed, settings, task.size)
        picture = self.runtime.cached(background)
        if picture is None:
            return background, task, STAGES_OF[method](task)
        return background, *self._with_background(task, method, picture)

    def _with_background(self, task: Task, method: str, picture: Image.Image) -> tuple[Task, list[Stage[object]]]:
        task = replace(task, layers=lay_out(task.edit, task.size, picture))
        return task, STAGES_OF[method](task)

    def _own_pictures(self, images: list[Image.Image], task: Task) -> tuple[list[Image.Image], list[str]]:
        """Copies of the cached pictures, with their background's own pixels where the settings say so, and notes."""
        source = background_window(task.edit, task.size) if task.settings.detail == "on" else None
        if source is None or task.layers is None:
            return [image.copy() for image in images], []
        layers, notes = task.layers, list[str]()
        found: list[np.ndarray | None] = [None] * len(images)
        try:
            self.models.clip()
            found = [self._subject_of(image, task.edit, layers) for image in images]
        except (ModelError, SegmentError) as error:
            notes = [f"Detail comes back by comparison alone, since the subject can't be looked for: {error}"]
        pairs = zip(images, found, strict=True)
        return [bring_detail(image, source, layers.subjects, mask) for image, mask in pairs], notes

    def _subject_of(self, image: Image.Image, edit: Edit, layers: Layers) -> np.ndarray:
        """The mask of the subject in a result of the edit. Raises `ModelError`."""
        words = subject_noun(edit.object_prompt) or edit.object_prompt
        key = digest(words, image, layers.object_mask)
        if key not in self._found:
            segmenter = self.models.segmenter(self.sam)
            self._found[key] = find_again(self.models, image, words, layers.object_mask, segmenter)
        self._found.move_to_end(key)
        while len(self._found) > FOUND:
            self._found.popitem(last=False)
        return self._found[key]

    def _lay_out(self, edit: Edit, size: tuple[int, int]) -> Layers:
        last = self._last_layers  # read once: another thread may put another edit's there meanwhile
        if last is None or last[0] is not edit or last[1] != size:
            last = self._last_layers = edit, size, lay_out(edit, size)
        return last[2]


def _identity(task: Task, last: Stage[object]) -> str:
    parts = [task.models.name, last.key, *(["detail"] if task.settings.detail == "on" else [])]
    return digest(*parts)[:12]


def _notes(trained: Iterable[Trained]) -> list[str]:
    """What the training stages did otherwise than they were asked to."""
    return [value.note for value in trained if isinstance(value, TunedWeights) and value.note]
