"""`Editor`: edits pictures with one set of models, whatever the method."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import cast

from PIL import Image

from layerdiffusion.edit import Edit
from layerdiffusion.errors import EditError
from layerdiffusion.images.layers import Layers, seen
from layerdiffusion.images.masks import Mask, cut_out
from layerdiffusion.methods.options import OWN, Options
from layerdiffusion.methods.pictures import SubjectFinder
from layerdiffusion.methods.plan import Planner
from layerdiffusion.methods.stages import FittedEmbeddings, Trained, TunedWeights, background_stage, generate_background
from layerdiffusion.methods.subject import OF_A_SUBJECT, Subject, trained_subject
from layerdiffusion.models.load import Models
from layerdiffusion.models.memory import Need, predicted_need
from layerdiffusion.progress import OnProgress, Reporter
from layerdiffusion.prompts import prompt_notes
from layerdiffusion.recipe import Recipe
from layerdiffusion.result import Result
from layerdiffusion.runtime import RUN, Runtime, Stage
from layerdiffusion.settings import Settings


class Editor:
    """Edits pictures with one set of models; safe to share between threads, which then take turns.

    `cache_limit` bounds the finished stages that are kept, in bytes of main memory; see `Runtime`. `sam` is which
    Segment Anything finds subjects in results, as in `Models.segmenter`. The models are never changed: stage 2 tunes a
    copy, which lives in this cache.
    """

    def __init__(self, models: Models, cache_limit: int | None = None, sam: str | Path | None = None) -> None:
        self.models, self.sam = models, sam
        self.runtime = Runtime(models, cache_limit)
        self._planner, self._subjects = Planner(models, self.runtime), SubjectFinder(models, sam)

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
        place of stages 1 and 2. The baselines see the whole prompt and one picture. Raises an `EditError`: `Cancelled`,
        `OutOfMemory`, or one that names what is wrong with the edit. Whatever is raised, finished stages are kept.
        """
        began = time.perf_counter()
        plan = self._planner.plan(edit, settings, method, options, subject)
        with self.runtime.turn(cancel):
            background = plan.background
            if background is not None and plan.waits and (picture := self.runtime.cached(background)):
                plan = plan.with_background(picture)  # made while this waited for its turn
            status = self.runtime.plan(plan.whole)
            report = self.runtime.reporter(plan.whole, on_progress, cancel)
            seconds: dict[str, float] = {}
            if background is not None and plan.waits:
                made = self.runtime.run_stages([background], report)
                seconds |= made.seconds
                plan = plan.with_background(made[background])
                status |= self.runtime.plan(plan.stages)
            elif background is not None:
                report.reused(background.name)
            task, stages = plan.task, plan.stages
            finished = self.runtime.run_stages(stages, report)
            seconds |= finished.seconds
            images = [image.copy() for image in cast("list[Image.Image]", finished[stages[-1]])]
        assert task.layers is not None
        trained = {stage.name: value for stage in stages if isinstance(value := finished[stage], Trained)}
        return Result(
            images=images,
            seeds=task.settings.seeds,
            timings=seconds | {"total": time.perf_counter() - began},
            losses={name: list(value.losses) for name, value in trained.items()},
            edit_id=plan.identity,
            stages=status,
            edit=edit,
            settings=task.settings,
            model=self.models.name,
            layers=task.layers,
            warnings=(
                *self.warnings(edit, method),
                *(value.note for value in trained.values() if isinstance(value, TunedWeights) and value.note),
                *([] if subject is None else [OF_A_SUBJECT]),
            ),
            find_subjects=partial(self._find_subjects, edit=edit, layers=task.layers),
        )

    def plan(
        self, edit: Edit, settings: Settings | None = None, method: str = OWN, subject: Subject | None = None
    ) -> dict[str, str]:
        """What `run` would do now with each stage: "run", "reuse" (from the cache) or "skip" (no steps)."""
        return self.runtime.plan(self._planner.plan(edit, settings, method, subject=subject).whole)

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
        return self.runtime.estimate(self._planner.plan(edit, settings, method, subject=subject).whole)

    def left(self, edit: Edit, settings: Settings | None = None, method: str = OWN) -> list[Stage[object]]:
        """The stages that `run` would have to run now."""
        return [each for each in self._planner.plan(edit, settings, method).whole if self.runtime.status(each) == RUN]

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
        return self._planner.plan(edit, settings).task.layers

    def subject(self, edit: Edit, settings: Settings | None = None, subject: Subject | None = None) -> Subject:
        """What the edit's training came to, to be kept: from the cache, or else trained now; see `run`."""
        plan = self._planner.plan(edit, settings, subject=subject)
        task, training = plan.task, plan.stages[:2]
        if task.layers is None:
            raise EditError("The background is not generated yet; run the edit first.")
        with self.runtime.turn():
            finished = self.runtime.run_stages(training, self.runtime.reporter(training, None, None))
        fitted, tuned = (cast("Trained", finished[stage]) for stage in training)
        assert isinstance(fitted, FittedEmbeddings) and isinstance(tuned, TunedWeights)
        before = 0 if subject is None else subject.recipe.settings.finetune_steps or 0
        settings = replace(task.settings, finetune_steps=before + task.settings.finetune_steps)
        return trained_subject(
            Recipe(seen(edit, task.size), settings, self.models.name), fitted.embeddings, tuned.weights
        )

    def cut_out(self, result: Result) -> list[Image.Image]:
        """The subject of each of the result's pictures, found again by SAM and the words: RGBA. Raises `ModelError`."""
        masks = self._find_subjects(result.images, result.edit, result.layers)
        return [cut_out(image, mask) for image, mask in zip(result.images, masks, strict=True)]

    def _find_subjects(self, images: Sequence[Image.Image], edit: Edit, layers: Layers) -> list[Mask]:
        with self.runtime.turn():
            return self._subjects.subjects_of(images, edit, layers)

    def clear_cache(self) -> None:
        """Forget every finished stage."""
        with self.runtime.turn():
            self.runtime.clear_cache()

    @property
    def cache_size(self) -> int:
        """Bytes held by the finished stages."""
        return self.runtime.cache_size
