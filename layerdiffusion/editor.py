"""`Editor`: edits pictures with one set of models, whatever the method."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import cast

from PIL import Image

from layerdiffusion.baselines import OWN, BaselineOptions, check_options, edit_of, options_for
from layerdiffusion.cache import LRU, Run, Stage, StageCache, digest
from layerdiffusion.edit import Edit
from layerdiffusion.engine import FittedEmbeddings, Task, TunedWeights, Turns
from layerdiffusion.errors import EditError
from layerdiffusion.images.layers import Layers, cut_note, lay_out, seen
from layerdiffusion.images.masks import Mask, cut_out
from layerdiffusion.method.embeddings import edit_embedding
from layerdiffusion.method.layerdiffusion import generate_background
from layerdiffusion.models.find import find_again
from layerdiffusion.models.memory import Need, check_need, predicted_need
from layerdiffusion.models.models import Models
from layerdiffusion.models.profile import GIB
from layerdiffusion.progress import OnProgress, Reporter
from layerdiffusion.prompts import prompt_notes, subject_noun
from layerdiffusion.recipe import Recipe
from layerdiffusion.result import Result
from layerdiffusion.settings import SAMPLING, Settings
from layerdiffusion.subject import OF_A_SUBJECT, Subject, trained_subject

BACKGROUND = "background"
FOUND = 2**26  # bytes of the masks of results' subjects that are cached


@dataclass(frozen=True)
class EditPlan:
    """An edit's stages, the last of which gives its pictures."""

    task: Task
    stages: list[Stage[object]]
    known: bool  # False while the background is yet to be generated, for which a blank picture stands in


class Editor:
    """Edits pictures with one set of models; safe to share between threads, which then take turns.

    `cache_limit` bounds the finished stages that are kept, in bytes of main memory (None: a GiB, or two tuned networks
    if that is more). `sam` is which Segment Anything finds subjects in results, as in `Models.segmenter`. The models
    are never changed: stage 2 tunes a copy, which lives in this cache.
    """

    def __init__(self, models: Models, cache_limit: int | None = None, sam: str | Path | None = None) -> None:
        if cache_limit is None:
            tuned = models.master.parameters() if models.family.tunes_all else ()
            parameters = sum(parameter.numel() for parameter in tuned)
            cache_limit = max(GIB, int(2.5 * parameters * models.profile.weights.itemsize))
        self.models, self.sam = models, sam
        self.cache, self.turns, self._subjects = StageCache(cache_limit), Turns(), LRU(FOUND)
        self._last_layers: tuple[Edit, tuple[int, int], Layers] | None = None

    def run(
        self,
        edit: Edit,
        settings: Settings | None = None,
        on_progress: OnProgress | None = None,
        cancel: threading.Event | None = None,
        *,
        method: str = OWN,
        options: BaselineOptions | None = None,
        subject: Subject | None = None,
    ) -> Result:
        """Run the edit, taking from the cache every stage whose inputs are the same as before.

        Fields that `settings` leaves open are the model's own defaults. `on_progress` gets a `Progress` for each step;
        once `cancel` is set the edit ends within a step. `method` is one of `baselines.LABELS`, `options` its own
        (`options_for`; None: its defaults). With a kept `subject` nothing is trained but its `train_on` steps, in
        place of stages 1 and 2. The baselines see the whole prompt and one picture. Raises an `EditError`: `Cancelled`,
        `OutOfMemory`, or one that names what is wrong with the edit. Whatever is raised, finished stages are kept.
        """
        began = time.perf_counter()
        plan = self._plan(edit, settings, method, options, subject)
        with self.turn(cancel):
            status = self.cache.plan(plan.stages)
            report = self.cache.reporter(plan.stages, on_progress, cancel)
            if not plan.known:
                background = self.cache.compute(plan.stages[:1], self.models, report)[plan.stages[0]]
                plan = self._plan(edit, settings, method, options, subject, cast(Image.Image, background))
                status = self.cache.plan(plan.stages) | {BACKGROUND: status[BACKGROUND]}
            elif edit.background == "generate":
                report.reused(BACKGROUND)
            stages = [stage for stage in plan.stages if stage.name != BACKGROUND]
            values = self.cache.compute(stages, self.models, report)
        trained = {stage.name: values[stage] for stage in stages if hasattr(values[stage], "losses")}
        return Result(
            images=[image.copy() for image in values[stages[-1]]],
            seeds=plan.task.settings.seeds,
            timings=report.seconds | {"total": time.perf_counter() - began},
            losses={name: list(value.losses) for name, value in trained.items()},
            edit_id=digest(self.models.name, stages[-1].key)[:12],
            stages=status,
            edit=edit,
            settings=plan.task.settings,
            model=self.models.name,
            layers=plan.task.layers,
            warnings=(
                *self.warnings(edit, plan.task.settings, method),
                *(value.note for value in trained.values() if isinstance(value, TunedWeights) and value.note),
                *([] if subject is None else [OF_A_SUBJECT]),
            ),
            find_subjects=partial(self._find_subjects, edit=edit, layers=plan.task.layers),
        )

    def plan(
        self, edit: Edit, settings: Settings | None = None, method: str = OWN, subject: Subject | None = None
    ) -> dict[str, str]:
        """What `run` would do now with each stage: "run", "reuse" (from the cache) or "skip" (no steps)."""
        return self.cache.plan(self._plan(edit, settings, method, subject=subject).stages)

    def estimate(
        self, edit: Edit, settings: Settings | None = None, method: str = OWN, subject: Subject | None = None
    ) -> float | None:
        """The seconds that `run` would take now, by the speeds seen so far; None before any was."""
        return self.cache.estimate(self._plan(edit, settings, method, subject=subject).stages)

    def missing(self, edit: Edit, settings: Settings | None = None, method: str = OWN) -> list[Stage[object]]:
        """The stages that `run` would have to run now."""
        return self.cache.missing(self._plan(edit, settings, method).stages)

    def _plan(
        self,
        edit: Edit,
        settings: Settings | None,
        method: str = OWN,
        options: BaselineOptions | None = None,
        subject: Subject | None = None,
        generated: Image.Image | None = None,
    ) -> EditPlan:
        """The edit's stages; with the `generated` background, where it was generated just now.

        Raises an `EditError` for settings, options or masks that can't be.
        """
        models, run = self.models, Run()
        check_options(method, options, models)
        settings = (settings or Settings()).resolve(models.defaults)
        check_need(models, settings)
        if method != OWN:
            options = options_for(method, models) if options is None else options.resolve(models.defaults)
        if subject is not None:
            subject.check(models)
            settings = replace(settings, embedding_steps=0, finetune_steps=subject.train_on, tune=subject.tune)
        size = models.window(settings.shape, edit.object_image.size)
        if edit.background == "generate":
            background = self._background(run, edit.background_prompt, edit.background_seed, settings, size)
            generated = generated or self.cache.get(background)
        known = edit.background != "generate" or generated is not None
        layers = self._lay_out(edit, size, generated or Image.new("RGB", size))
        task = Task(models, edit, layers, settings, options, subject)
        edit_of(method)(task, run)
        return EditPlan(task, run.stages, known)

    def _background(
        self, run: Run, prompt: str, seed: int, settings: Settings, size: tuple[int, int]
    ) -> Stage[Image.Image]:
        """The picture that the untouched model makes of `prompt`, alone in its batch: the same wherever it is made."""
        return run(
            BACKGROUND,
            generate_background,
            prompt=prompt,
            seed=seed,
            size=size,
            steps=settings.sampling_steps,
            guidance_scale=settings.guidance_scale,
            solver=settings.solver,
        )

    def _lay_out(self, edit: Edit, size: tuple[int, int], generated: Image.Image) -> Layers:
        if edit.background == "generate":
            return lay_out(edit, size, generated)
        last = self._last_layers  # read once: another thread may put another edit's there meanwhile
        if last is None or last[0] is not edit or last[1] != size:
            last = self._last_layers = edit, size, lay_out(edit, size)
        return last[2]

    @contextlib.contextmanager
    def turn(self, cancel: threading.Event | None = None) -> Iterator[None]:
        """The device for one piece of work; see `Turns`. Where stages run elsewhere there is nothing to wait for."""
        if self.cache.remote is not None:
            yield
            return
        with self.turns(cancel):
            yield
        self.cache.settle()  # the stages that followed used what lies on the device there

    def layers(self, edit: Edit, settings: Settings | None = None) -> Layers | None:
        """The edit's pictures as the stages will look at them; None while its background is not generated yet."""
        plan = self._plan(edit, settings)
        return plan.task.layers if plan.known else None

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
        size, run = self.models.window(settings.shape, photo), Run()
        stages = [self._background(run, prompt, seed, settings, size) for seed in seeds]
        with self.turn(cancel):
            values = self.cache.compute(stages, self.models, self.cache.reporter(stages, on_progress, cancel))
        return [values[stage].copy() for stage in stages]

    def subject(self, edit: Edit, settings: Settings | None = None, subject: Subject | None = None) -> Subject:
        """What the edit's training came to, to be kept: from the cache, or else trained now; see `run`."""
        plan = self._plan(edit, settings, subject=subject)
        if not plan.known:
            raise EditError("The background is not generated yet; run the edit first.")
        task, stages = plan.task, [stage for stage in plan.stages if stage.name not in (BACKGROUND, SAMPLING)]
        with self.turn():
            values = self.cache.compute(stages, self.models, self.cache.reporter(stages, None, None))
        fitted, tuned = cast("tuple[FittedEmbeddings, TunedWeights]", [values[stage] for stage in stages])
        before = 0 if subject is None else subject.recipe.settings.finetune_steps or 0
        settings = replace(task.settings, finetune_steps=before + task.settings.finetune_steps)
        recipe = Recipe(seen(edit, task.size), settings, self.models.name)
        mixed = edit_embedding(fitted.embeddings[:1], fitted.embeddings[1:], settings.alpha)
        return trained_subject(recipe, fitted.embeddings, mixed, tuned.weights)

    def cut_out(self, result: Result) -> list[Image.Image]:
        """The subject of each of the result's pictures, found again by SAM and the words: RGBA. Raises `ModelError`."""
        masks = self._find_subjects(result.images, result.edit, result.layers)
        return [cut_out(image, mask) for image, mask in zip(result.images, masks, strict=True)]

    def _find_subjects(self, images: Sequence[Image.Image], edit: Edit, layers: Layers) -> list[Mask]:
        words = subject_noun(edit.object_prompt) or edit.object_prompt
        masks = []
        with self.turn():
            for image in images:
                key = digest(words, image, layers.object_mask)
                mask = cast("Mask | None", self._subjects.get(key))
                if mask is None:
                    self.models.clip()  # where there is none, that is known before SAM has looked at anything
                    segmenter = self.models.segmenter(self.sam)
                    mask = find_again(self.models, image, words, layers.object_mask, segmenter)
                    self._subjects.put(key, mask)
                masks.append(mask)
        return masks

    def warnings(self, edit: Edit, settings: Settings | None = None, method: str = OWN) -> list[str]:
        """What will be made of masks, windows and prompts otherwise than they may be meant, a sentence each."""
        prompts = [edit.object_prompt, edit.background_prompt] if method == OWN else [edit.prompt]
        shape = (settings or Settings()).resolve(self.models.defaults).shape
        cut = cut_note(edit, self.models.window(shape, edit.object_image.size))
        return [*edit.notes, *([cut] if cut else []), *self.models.prompt_warnings(prompts), *prompt_notes(prompts)]

    def need(self, settings: Settings | None = None) -> Need | None:
        """What an edit takes of the device's memory, where that is known. Raises `TooLarge` where it can't fit."""
        settings = (settings or Settings()).resolve(self.models.defaults)
        check_need(self.models, settings)
        return predicted_need(self.models, settings)

    def measure(self) -> None:
        """Take a few steps of sampling, so that the first `estimate` has a speed to go by."""
        settings = self.models.defaults
        size = self.models.size, self.models.size
        with self.turn():
            for steps in (1, 3):  # the first one pays for what is set up once
                stage = self._background(Run(), "", 0, replace(settings, sampling_steps=steps, solver="ddim"), size)
                stage.run(self.models, Reporter(self.cache.seconds_per_pass, {BACKGROUND: stage.work}, None, None))
            self.cache.assume(self.cache.seconds_per_pass[BACKGROUND])

    def clear_cache(self) -> None:
        """Forget every finished stage."""
        with self.turn():
            self.cache.clear()

    @property
    def cache_size(self) -> int:
        """Bytes held by the finished stages."""
        return self.cache.size
