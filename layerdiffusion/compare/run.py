"""`run_method`: one edit by any of the methods, in the editor's turns, with its caches, progress and result."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from PIL import Image
from torch import Tensor

from layerdiffusion import method
from layerdiffusion.cache import digest
from layerdiffusion.compare.options import METHODS, OPTIONS
from layerdiffusion.compare.sdedit import sdedit, taken_steps
from layerdiffusion.edit import Edit, Settings, check_choice
from layerdiffusion.errors import SettingsError
from layerdiffusion.images import fit_square
from layerdiffusion.layering import Layers, lay_out
from layerdiffusion.method import Step
from layerdiffusion.progress import OnProgress, Reporter
from layerdiffusion.result import Result

if TYPE_CHECKING:
    from layerdiffusion.editor import Editor


@dataclass(frozen=True)
class Stage:
    """A part of a method that is cached by itself; `make` gets the values of the stages before it, by name."""

    name: str  # one of progress.STAGES
    key: str
    steps: int  # 0: there is nothing to do, and `make` does it
    cost: float  # of a step, in passes of one picture through the network
    make: Callable[[dict[str, Any], Reporter], Any]


@dataclass(frozen=True)
class Task:
    """One edit as the compared methods see it: a picture and a sentence."""

    editor: Editor
    picture: Image.Image  # square, of the model's size
    prompt: str
    settings: Settings  # every field set
    options: Any  # every field set

    @property
    def models(self) -> Any:
        return self.editor.models

    @property
    def batches(self) -> int:
        return len(self.editor.parts(self.settings))

    def sampling_key(self, *parts: Any) -> str:
        settings = self.settings.sampling_steps, self.settings.guidance_scale, self.settings.seeds
        return digest("compare sampling", type(self.options).__name__, self.prompt, self.options, settings, *parts)

    def paint(self, report: Reporter, latents_of: Callable[[Tensor, Callable[[Step], None]], Tensor]) -> list:
        """A picture for each seed; `latents_of(noise, on_step)` makes the clean latents of one batch."""
        report.begin("sampling")
        images: list[Image.Image] = []
        parts = self.editor.parts(self.settings)
        for index, seeds in enumerate(parts):
            noise = method.initial_latents(seeds, self.models.latent_shape).to(self.models.device)
            latents = latents_of(noise, report.part(index, len(parts), self.models.decode))
            if not latents.isfinite().all():
                raise FloatingPointError
            images += self.models.decode(latents)
        return images


def run_method(
    editor: Editor,
    name: str,
    edit: Edit,
    settings: Settings | None = None,
    options: Any = None,
    on_progress: OnProgress | None = None,
    cancel: threading.Event | None = None,
) -> Result:
    """Run one edit by the method `name` of `METHODS`, with the same pictures, words and seeds as `Editor.run`.

    `options` are the method's own (`options_for`); None: its defaults on these models, and for "ours" there are no
    others. The compared methods see the whole prompt and one picture, `options.source`: "photo", as it was given,
    cropped to the model's square, or "composite". Stages are cached in the editor, so that new seeds, or another
    dial of the sampling, train nothing; the models are left as they are. `Result.losses` and `Result.stages` have
    what the method has. Raises as `Editor.run` does.
    """
    check_choice("method", name, METHODS)
    if not isinstance(options, OPTIONS.get(name, type(None)) | None):
        raise SettingsError(f"The options of {name} are not {type(options).__name__}; make them by options_for.")
    if name == "ours":
        return editor.run(edit, settings, on_progress, cancel)
    began = time.perf_counter()
    models = editor.models
    settings = (settings or Settings()).resolve(models.defaults)
    layers = _layers(editor, edit, settings, on_progress, cancel)
    options = (options or OPTIONS[name]()).resolve(models.defaults)
    picture = layers.composite if options.source == "composite" else _photo(edit, models.size)
    with editor.turn(cancel):
        stages = STAGES_OF[name](Task(editor, picture, edit.prompt, settings, options))
        fates = {stage.name: _fate(editor, stage) for stage in stages}
        work = {stage.name: (stage.steps, stage.cost) for stage in stages if fates[stage.name] == "run"}
        report = editor.reporter(work, on_progress, cancel)
        values: dict[str, Any] = {}
        timings: dict[str, float] = {}
        for stage in stages:
            started = time.perf_counter()
            make = lambda stage=stage: stage.make(values, report)  # noqa: E731
            values[stage.name] = editor.stage(stage.name, stage.key, fates[stage.name], report, make)
            timings[stage.name] = time.perf_counter() - started
    timings["total"] = time.perf_counter() - began
    return Result(
        images=[image.copy() for image in values["sampling"]],
        seeds=settings.seeds,
        timings=timings,
        losses={stage: list(values[stage][1]) for stage in ("embeddings", "finetune") if stage in values},
        edit_id=digest(models.name, stages[-1].key)[:12],
        stages=fates,
        edit=edit,
        settings=settings,
        model=models.name,
        layers=layers,
        warnings=tuple(models.prompt_warnings([edit.prompt])),
    )


def _layers(
    editor: Editor, edit: Edit, settings: Settings, on_progress: OnProgress | None, cancel: threading.Event | None
) -> Layers:
    """The edit's layers as ours has them; a background that is to be generated is, once for all methods."""
    if edit.background != "generate":
        return editor.layers(edit)
    painted = editor.generate_backgrounds(
        edit.background_prompt, (edit.background_seed,), settings, on_progress, cancel
    )
    return lay_out(edit, editor.models.size, painted[0])


def _photo(edit: Edit, size: int) -> Image.Image:
    """The photo as it was given, cropped to a square with its subject inside; no placement moves anything."""
    return fit_square(edit.object_image.size, size, edit.object_mask).image(edit.object_image)


def _fate(editor: Editor, stage: Stage) -> str:
    if not stage.steps:
        return "skip"
    return "reuse" if editor.cached(stage.name, stage.key) else "run"


def _sdedit(task: Task) -> list[Stage]:
    settings, models = task.settings, task.models
    taken = taken_steps(settings.sampling_steps, task.options.strength)

    def sampling(values: dict[str, Any], report: Reporter) -> list[Image.Image]:
        latents, words = models.encode(task.picture), models.embed([task.prompt, ""])
        return task.paint(
            report,
            lambda noise, on_step: sdedit(
                models.unet,
                models.scheduler,
                latents,
                noise,
                words[:1],
                words[1:],
                strength=task.options.strength,
                steps=settings.sampling_steps,
                guidance_scale=settings.guidance_scale,
                precision=models.profile.precision,
                on_step=on_step,
            ),
        )

    cost = 2 * len(settings.seeds) / task.batches
    return [Stage("sampling", task.sampling_key(task.picture), taken * task.batches, cost, sampling)]


STAGES_OF: dict[str, Callable[[Task], list[Stage]]] = {"sdedit": _sdedit}
