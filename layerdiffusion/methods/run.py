"""`run_method`: one edit by any of the methods, in the editor's turns, with its caches, progress and result."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from PIL import Image
from torch import Tensor

from layerdiffusion import method
from layerdiffusion.edit import Edit
from layerdiffusion.editor import Editor, finite, training_generator
from layerdiffusion.errors import SettingsError
from layerdiffusion.images.geometry import fit_square
from layerdiffusion.images.layers import Layers, lay_out
from layerdiffusion.method import Step
from layerdiffusion.method.finetune import Weights
from layerdiffusion.method.sampling import ddim_scheduler
from layerdiffusion.methods.imagic import fit_embedding, fit_network, interpolated
from layerdiffusion.methods.options import METHODS, OPTIONS
from layerdiffusion.methods.pnp import inversion_timesteps, invert, mixed, plug_and_play
from layerdiffusion.methods.sdedit import sdedit, taken_steps
from layerdiffusion.models.load import Models
from layerdiffusion.progress import OnProgress, Reporter
from layerdiffusion.result import Result
from layerdiffusion.runtime import digest
from layerdiffusion.settings import Settings, check_choice


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
    def models(self) -> Models:
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
            images += self.models.decode(finite(latents))
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


def _imagic(task: Task) -> list[Stage]:
    settings, options, models = task.settings, task.options, task.models
    profile = models.profile
    dials = options.embedding_steps, options.embedding_lr, settings.training_seed
    embeddings_key = digest("imagic embeddings", task.prompt, task.picture, dials)
    dials = options.finetune_steps, options.finetune_lr, settings.tune, settings.training_seed
    finetune_key = digest("imagic finetune", embeddings_key, task.picture, dials)

    def embeddings(values: dict[str, Any], report: Reporter) -> tuple[Tensor, list[float]]:
        report.begin("embeddings")
        embedding = fit_embedding(
            models.unet,
            models.scheduler,
            models.encode(task.picture),
            models.embed([task.prompt]),
            steps=options.embedding_steps,
            lr=options.embedding_lr,
            generator=training_generator("embeddings", settings.training_seed),
            precision=profile.training_precision,
            on_step=report.step,
        )
        return finite(embedding).cpu(), report.losses

    def finetune(values: dict[str, Any], report: Reporter) -> tuple[Weights, list[float]]:
        lora = settings.tune == "lora"
        report.begin("finetune")
        weights = fit_network(
            models.unet if lora else models.master,
            models.scheduler,
            models.encode(task.picture),
            values["embeddings"][0].to(models.device),
            steps=options.finetune_steps,
            lr=options.finetune_lr,
            generator=training_generator("finetune", settings.training_seed),
            tune=settings.tune,
            precision=profile.training_precision,
            optimiser=profile.optimiser(),
            checkpointing=profile.checkpointing,
            on_step=report.step,
        )
        return task.editor.kept(weights, settings), report.losses

    def sampling(values: dict[str, Any], report: Reporter) -> list[Image.Image]:
        words = models.embed([task.prompt, ""])
        optimised = values["embeddings"][0].to(models.device)
        embedding = interpolated(words[:1], optimised, options.alpha)
        unet = task.editor.network(values["finetune"][0])
        return task.paint(
            report,
            lambda noise, on_step: method.sample(
                unet,
                models.scheduler,
                noise,
                embedding,
                embedding,
                words[1:],
                steps=settings.sampling_steps,
                guidance_scale=settings.guidance_scale,
                schedule="edit",
                precision=profile.precision,
                on_step=on_step,
            ),
        )

    cost = 2 * len(settings.seeds) / task.batches
    sampling_key = task.sampling_key(embeddings_key, finetune_key)
    return [
        Stage("embeddings", embeddings_key, options.embedding_steps, 2, embeddings),
        Stage("finetune", finetune_key, options.finetune_steps, 3, finetune),
        Stage("sampling", sampling_key, settings.sampling_steps * task.batches, cost, sampling),
    ]


def _pnp(task: Task) -> list[Stage]:
    settings, options, models = task.settings, task.options, task.models
    steps = settings.sampling_steps
    kept = ddim_scheduler(models.scheduler, steps).timesteps.tolist()
    ladder = inversion_timesteps(kept, options.inversion_steps)
    inversion_key = digest("pnp inversion", task.picture, kept, ladder)

    def inversion(values: dict[str, Any], report: Reporter) -> Tensor:
        report.begin("inversion")
        inverted = invert(
            models.unet,
            models.scheduler,
            models.encode(task.picture),
            models.embed([""]),
            sampling_steps=steps,
            inversion_steps=options.inversion_steps,
            precision=models.profile.training_precision,  # its steps are small, and their errors add up
            on_step=report.step,
        )
        return finite(inverted).cpu()

    def sampling(values: dict[str, Any], report: Reporter) -> list[Image.Image]:
        source, words = values["inversion"].to(models.device), models.embed([task.prompt, ""])
        # Modules of their own around the model's weights: nobody else's pass can meet an injection, nor a compiled
        # network miss it.
        unet = method.with_weights(models.unet, {})

        def latents_of(noise: Tensor, on_step: Callable[[Step], None]) -> Tensor:
            start = mixed(source[:1], noise, options.noise_share) if options.noise_share else source[:1]
            latents = plug_and_play(
                unet,
                models.scheduler,
                source,
                start,
                words[:1],
                words[1:],
                words[1:],
                feature_share=options.feature_share,
                attention_share=options.attention_share,
                guidance_scale=settings.guidance_scale,
                precision=models.profile.precision,
                on_step=on_step,
            )
            return latents.expand_as(noise)

        return task.paint(report, latents_of)

    cost = 2 * len(settings.seeds) / task.batches + max(options.feature_share, options.attention_share)
    return [
        Stage("inversion", inversion_key, len(ladder), 1, inversion),
        Stage("sampling", task.sampling_key(inversion_key), steps * task.batches, cost, sampling),
    ]


STAGES_OF: dict[str, Callable[[Task], list[Stage]]] = {"sdedit": _sdedit, "imagic": _imagic, "pnp": _pnp}
