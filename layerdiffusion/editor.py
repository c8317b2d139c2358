"""`Editor`: runs the three stages of an edit, caches each by content, reports every step and can be cancelled."""

from __future__ import annotations

import contextlib
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from layerdiffusion import method
from layerdiffusion.edit import Edit
from layerdiffusion.errors import EditError
from layerdiffusion.images.layers import Layers, lay_out
from layerdiffusion.images.masks import mask_to_latents
from layerdiffusion.models.load import Models
from layerdiffusion.models.profile import GIB
from layerdiffusion.progress import STAGES, Cancelled, OnProgress, Progress, Reporter
from layerdiffusion.result import Result
from layerdiffusion.runtime import StageCache, digest
from layerdiffusion.settings import Settings

__all__ = ["STAGES", "Cancelled", "Editor", "OutOfMemory", "Progress", "finite", "training_generator"]


class OutOfMemory(EditError):
    """The device's memory doesn't hold the edit."""


@dataclass(frozen=True)
class _Plan:
    """One edit made ready: settings without gaps, pictures at the model's size, and each stage's key."""

    edit: Edit
    settings: Settings
    layers: Layers | None  # None: the background has yet to be generated
    keys: dict[str, str | None]  # of each stage the edit has; None: not known before the background is there


class Editor:
    """Edits pictures with one set of models; safe to share between threads, which then take turns.

    `cache_limit` bounds the finished stages that are kept, in bytes of main memory; by default one GiB, or
    room for two tuned networks if that is more. The models are never changed: stage 2 tunes a copy, which
    lives in this cache.
    """

    def __init__(self, models: Models, cache_limit: int | None = None) -> None:
        self.models = models
        if cache_limit is None:
            parameters = sum(parameter.numel() for parameter in models.master.parameters())
            cache_limit = max(GIB, int(2.5 * parameters * models.profile.weights.itemsize))
        # Apart, so that one large tuned network does not push out the small results it was made from.
        shares = dict.fromkeys(("background", "inversion"), 1 / 64)
        shares |= {"embeddings": 1 / 16, "finetune": 27 / 32, "sampling": 1 / 16}
        self._caches = {stage: StageCache(int(cache_limit * share)) for stage, share in shares.items()}
        self._lock = threading.Lock()
        self._seconds_per_unit: dict[str, float] = {}
        self._last_layers: tuple[Edit, Layers] | None = None

    def run(
        self,
        edit: Edit,
        settings: Settings | None = None,
        on_progress: OnProgress | None = None,
        cancel: threading.Event | None = None,
    ) -> Result:
        """Run the edit, taking from the cache every stage whose inputs are the same as before.

        Fields that `settings` leaves open are the model's own defaults. `on_progress` gets a `Progress` for
        each step; once `cancel` is set the edit ends within a step. Raises an `EditError`: `Cancelled`,
        `OutOfMemory`, or one that says what is wrong with the edit. Whatever is raised, finished stages are
        kept.
        """
        with self.turn(cancel):
            began = time.perf_counter()
            timings: dict[str, float] = {}
            plan = self._prepare(edit, settings)
            stages = self._fates(plan)
            report = self.reporter(self._work(plan, stages), on_progress, cancel)

            def stage(name: str, make: Callable[[], Any]) -> Any:
                started = time.perf_counter()
                value = self.stage(name, plan.keys[name], stages[name], report, make)
                timings[name] = time.perf_counter() - started
                return value

            if plan.layers is None:
                picture = stage("background", lambda: self._paint_background(plan, report))
                plan = self._prepare(edit, settings, picture)
                stages |= {name: fate for name, fate in self._fates(plan).items() if name != "background"}
            elif "background" in plan.keys:
                report.reused("background")
            embeddings, embedding_losses = stage("embeddings", lambda: self._optimise(plan, report))
            weights, losses = stage("finetune", lambda: self._finetune(plan, embeddings, report))
            images = stage("sampling", lambda: self._sample(plan, embeddings, weights, report))
            timings["total"] = time.perf_counter() - began
            return Result(
                images=[image.copy() for image in images],
                seeds=plan.settings.seeds,
                timings=timings,
                losses={"embeddings": list(embedding_losses), "finetune": list(losses)},
                edit_id=digest(self.models.name, plan.keys["sampling"])[:12],
                stages=stages,
                edit=edit,
                settings=plan.settings,
                model=self.models.name,
                layers=plan.layers,
                warnings=tuple(self.models.prompt_warnings([edit.object_prompt, edit.background_prompt])),
            )

    def plan(self, edit: Edit, settings: Settings | None = None) -> dict[str, str]:
        """What `run` would do now with each stage: "run", "reuse" (from the cache) or "skip" (no steps)."""
        return self._fates(self._prepare(edit, settings))

    def estimate(self, edit: Edit, settings: Settings | None = None) -> float | None:
        """The seconds that `run` would take now, by the speeds seen so far; None before any was."""
        plan = self._prepare(edit, settings)
        known = dict(self._seconds_per_unit)
        if not known:
            return None
        usual = sum(known.values()) / len(known)
        work = self._work(plan, self._fates(plan))
        return sum(steps * cost * known.get(stage, usual) for stage, (steps, cost) in work.items())

    def measure(self) -> None:
        """Take a few steps of stage 3, so that the first `estimate` has a speed to go by."""
        with self.turn(None):
            words = self.models.embed([""])
            for steps in (1, 3):  # the first one pays for what is set up once
                settings = replace(self.models.defaults, sampling_steps=steps)
                report = self.reporter({"sampling": (steps, 2)}, None, None)
                report.begin("sampling")
                self._pictures(self.models.unet, (0,), words, words, settings, "edit", report.part(0, 1))

    def assume(self, seconds: float) -> None:
        """Go by so many seconds for one forward pass of one picture, until a run has shown better."""
        self._seconds_per_unit = dict.fromkeys(STAGES, seconds)

    def generate_backgrounds(
        self,
        prompt: str,
        seeds: Iterable[int] = (0, 1, 2, 3),
        settings: Settings | None = None,
        on_progress: OnProgress | None = None,
        cancel: threading.Event | None = None,
    ) -> list[Image.Image]:
        """A picture of `prompt` for each seed, painted by the untouched model: backgrounds to choose from.

        The one of seed s is what `Edit(background="generate", background_seed=s)` uses. Cached and raised as
        in `run`.
        """
        if not prompt.strip():
            raise EditError("There are no words to generate a background from; describe the place.")
        settings = (settings or Settings()).resolve(self.models.defaults)
        seeds, cache = tuple(seeds), self._caches["background"]
        with self.turn(cancel):
            keys = {seed: _background_key(prompt, seed, settings) for seed in seeds}
            missing = [seed for seed in seeds if keys[seed] not in cache]
            work = {"background": (len(missing) * settings.sampling_steps, 2)}
            report = self.reporter(work, on_progress, cancel)
            painted = {seed: cache.get(key) for seed, key in keys.items() if key in cache}
            for index, seed in enumerate(missing):
                with _in_stage("background"):
                    painted[seed] = self._paint(prompt, seed, settings, report, index, len(missing))
                cache.put(keys[seed], painted[seed])
            return [painted[seed].copy() for seed in seeds]

    def layers(self, edit: Edit) -> Layers | None:
        """The edit's pictures as the stages will look at them; None while its background is not generated yet."""
        return self._prepare(edit, None).layers

    def clear_cache(self) -> None:
        """Forget every finished stage."""
        with self.turn(None):
            for cache in self._caches.values():
                cache.clear()

    @property
    def cache_size(self) -> int:
        """Bytes held by the finished stages."""
        return sum(cache.size for cache in self._caches.values())

    # For other methods on the same models (`compare`): they take turns with edits, and share the caches.

    @contextlib.contextmanager
    def turn(self, cancel: threading.Event | None) -> Iterator[None]:
        """One edit at a time; whoever waits can still cancel."""
        while not self._lock.acquire(timeout=0.1):
            if cancel is not None and cancel.is_set():
                raise Cancelled("The edit was cancelled while it waited for its turn.")
        try:
            with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True):
                yield
        finally:
            self._lock.release()

    def reporter(
        self, work: dict[str, tuple[int, float]], on_progress: OnProgress | None, cancel: threading.Event | None
    ) -> Reporter:
        """A `Reporter` that knows the speeds seen so far; `work` is each stage's steps and the cost of a step.

        The cost is in passes of one picture through the network.
        """
        return Reporter(self._seconds_per_unit, work, on_progress, cancel)

    def cached(self, stage: str, key: str) -> bool:
        """Whether the value of this key is in the stage's cache."""
        return key in self._caches[stage]

    def stage(
        self,
        name: str,
        key: str,
        fate: str,
        report: Reporter,
        make: Callable[[], Any],
    ) -> Any:
        """The value of `progress.STAGES`' stage `name` from its cache, or made, and kept there.

        To be called in a `turn`. `fate` is what was foreseen for it: "run", "reuse" or "skip".
        """
        cache = self._caches[name]
        if key in cache:
            if fate == "reuse":
                report.reused(name)
            return cache.get(key)
        report.check()
        with _in_stage(name):
            value = make()
        cache.put(key, value)
        return value

    def parts(self, settings: Settings) -> list[tuple[int, ...]]:
        """The seeds in batches that the device holds at once."""
        batch, seeds = self.models.profile.batch, settings.seeds
        return [seeds[start : start + batch] for start in range(0, len(seeds), batch)]

    def kept(self, weights: method.finetune.Weights, settings: Settings) -> method.finetune.Weights:
        """Tuned `weights` as a "finetune" stage keeps them: in main memory, in the profile's type, LoRA's in float32.

        Raises `FloatingPointError` where one is not finite.
        """
        dtype = torch.float32 if settings.tune == "lora" else self.models.profile.weights
        return {name: finite(weight).to("cpu", dtype) for name, weight in weights.items()}

    def network(self, weights: method.finetune.Weights) -> nn.Module:
        """The network with `weights` from a "finetune" stage in it; the model's own if there are none."""
        if not weights:
            return self.models.unet
        unet = method.with_weights(self.models.unet, weights)
        if self.models.profile.compile:
            unet.compile()
        return unet

    def _prepare(self, edit: Edit, settings: Settings | None, picture: Image.Image | None = None) -> _Plan:
        settings = (settings or Settings()).resolve(self.models.defaults)
        keys: dict[str, str | None] = {}
        if edit.background == "generate":
            key = keys["background"] = _background_key(edit.background_prompt, edit.background_seed, settings)
            picture = picture or self._caches["background"].get(key)
            if picture is None:
                return _Plan(edit, settings, None, keys | dict.fromkeys(("embeddings", "finetune", "sampling")))
            layers = lay_out(edit, self.models.size, picture)
        else:
            layers = self._lay_out(edit)
        keys["embeddings"] = self._embeddings_key(edit, settings, layers)
        keys["finetune"] = self._finetune_key(settings, layers, keys["embeddings"])
        alpha = None if settings.schedule == "object" else settings.alpha
        sampling = (settings.sampling_steps, settings.guidance_scale, settings.schedule, settings.seeds)
        keys["sampling"] = digest("sampling", keys["embeddings"], keys["finetune"], alpha, sampling)
        return _Plan(edit, settings, layers, keys)

    def _lay_out(self, edit: Edit) -> Layers:
        last = self._last_layers
        if last is None or last[0] is not edit:
            last = self._last_layers = edit, lay_out(edit, self.models.size)
        return last[1]

    def _embeddings_key(self, edit: Edit, settings: Settings, layers: Layers) -> str:
        prompts = edit.object_prompt, edit.background_prompt
        if not settings.embedding_steps:
            return digest("embeddings", prompts)
        image, mask = _embedding_picture(settings, layers)
        dials = settings.embedding_steps, settings.embedding_lr
        noise = settings.training_seed, settings.noise_offset
        return digest("embeddings", prompts, image, mask, dials, noise)

    def _finetune_key(self, settings: Settings, layers: Layers, embeddings_key: str) -> str:
        if not _finetunes(settings):
            return digest("untouched")
        pictures = [layers.object_mask]
        if settings.layers == "composite":
            pictures += [layers.composite]
        elif settings.layers == "overlay":
            pictures += [layers.overlay, layers.background_mask]
        else:
            pictures += [layers.object_image, layers.background_image, layers.background_mask]
        weights = settings.object_weight, settings.background_weight
        noise = settings.training_seed, settings.noise_offset
        dials = settings.finetune_steps, settings.finetune_lr, settings.tune
        return digest("finetune", embeddings_key, settings.alpha, settings.layers, *pictures, weights, dials, noise)

    def _fates(self, plan: _Plan) -> dict[str, str]:
        skipped = {
            "embeddings": not plan.settings.embedding_steps,
            "finetune": not _finetunes(plan.settings),
        }
        return {
            stage: "skip" if skipped.get(stage) else "reuse" if key in self._caches[stage] else "run"
            for stage, key in plan.keys.items()
        }

    def _work(self, plan: _Plan, stages: dict[str, str]) -> dict[str, tuple[int, float]]:
        """Steps and the cost of a step of each stage yet to run, in passes of one picture through the network."""
        settings = plan.settings
        parts = len(self.parts(settings))
        work = {
            "background": (settings.sampling_steps, 2),
            "embeddings": (settings.embedding_steps, 2 * 2),
            "finetune": (settings.finetune_steps, 3 * (2 if settings.layers == "separate" else 1)),
            "sampling": (settings.sampling_steps * parts, 2 * len(settings.seeds) / parts),
        }
        return {stage: work[stage] for stage in plan.keys if stages[stage] == "run"}

    def _optimise(self, plan: _Plan, report: Reporter) -> tuple[Tensor, list[float]]:
        """Stage 1: [ê_a, ê_b] (2, L, D) in main memory."""
        settings, profile = plan.settings, self.models.profile
        start = self.models.embed([plan.edit.object_prompt, plan.edit.background_prompt])
        if not settings.embedding_steps:
            return start.cpu(), []
        image, mask = _embedding_picture(settings, plan.layers)
        report.begin("embeddings")
        embeddings = method.optimise_embeddings(
            self.models.unet,
            self.models.scheduler,
            self.models.encode(image),
            self._latent_mask(mask, *_looked_at(settings, plan.edit)),
            start,
            steps=settings.embedding_steps,
            lr=settings.embedding_lr,
            generator=training_generator("embeddings", settings.training_seed),
            noise_offset=settings.noise_offset,
            precision=profile.training_precision,
            on_step=report.step,
        )
        return finite(embeddings).cpu(), report.losses

    def _finetune(
        self, plan: _Plan, embeddings: Tensor, report: Reporter
    ) -> tuple[method.finetune.Weights, list[float]]:
        """Stage 2: the tuned parameters in main memory, as `with_weights` takes them."""
        settings, profile, layers = plan.settings, self.models.profile, plan.layers
        if not _finetunes(settings):
            return {}, []
        object_mask = self._latent_mask(layers.object_mask, "object_mask")
        if settings.layers == "composite":
            trained = method.composite_layers(self.models.encode(layers.composite), object_mask)
        elif settings.layers == "overlay":
            trained = method.overlay_layers(
                self.models.encode(layers.overlay),
                object_mask,
                self._latent_mask(~layers.background_mask, *_left_by(plan.edit)),
            )
        else:
            trained = method.separate_layers(
                self.models.encode(layers.object_image),
                object_mask,
                self.models.encode(layers.background_image),
                self._latent_mask(~layers.background_mask, *_left_by(plan.edit)),
            )
        lora = settings.tune == "lora"
        report.begin("finetune")
        weights = method.finetune(
            self.models.unet if lora else self.models.master,
            self.models.scheduler,
            trained,
            self._edit_embedding(settings, embeddings),
            object_weight=settings.object_weight,
            background_weight=settings.background_weight,
            steps=settings.finetune_steps,
            lr=settings.finetune_lr,
            generator=training_generator("finetune", settings.training_seed),
            noise_offset=settings.noise_offset,
            tune=settings.tune,
            precision=profile.training_precision,
            optimiser=profile.optimiser(),
            checkpointing=profile.checkpointing,
            on_step=report.step,
        )
        return self.kept(weights, settings), report.losses

    def _sample(
        self, plan: _Plan, embeddings: Tensor, weights: method.finetune.Weights, report: Reporter
    ) -> list[Image.Image]:
        """Stage 3: a picture for each seed."""
        settings = plan.settings
        unet = self.network(weights)
        object_embedding = embeddings[:1].to(self.models.device)
        edit_embedding = self._edit_embedding(settings, embeddings)
        report.begin("sampling")
        images: list[Image.Image] = []
        parts = self.parts(settings)
        for index, seeds in enumerate(parts):
            on_step = report.part(index, len(parts), self.models.decode)
            images += self._pictures(
                unet, seeds, object_embedding, edit_embedding, settings, settings.schedule, on_step
            )
        return images

    def _paint_background(self, plan: _Plan, report: Reporter) -> Image.Image:
        edit = plan.edit
        return self._paint(edit.background_prompt, edit.background_seed, plan.settings, report)

    def _paint(
        self, prompt: str, seed: int, settings: Settings, report: Reporter, index: int = 0, parts: int = 1
    ) -> Image.Image:
        """What the untouched model paints; always alone, so that it is the same among others and in a replay."""
        embedding = self.models.embed([prompt])
        report.begin("background")
        on_step = report.part(index, parts)
        return self._pictures(self.models.unet, (seed,), embedding, embedding, settings, "edit", on_step)[0]

    def _pictures(
        self,
        unet: nn.Module,
        seeds: tuple[int, ...],
        object_embedding: Tensor,
        edit_embedding: Tensor,
        settings: Settings,
        schedule: str,
        on_step: Callable[[method.Step], None],
    ) -> list[Image.Image]:
        latents = method.sample(
            unet,
            self.models.scheduler,
            method.initial_latents(seeds, self.models.latent_shape).to(self.models.device),
            object_embedding,
            edit_embedding,
            self.models.embed([""]),
            steps=settings.sampling_steps,
            guidance_scale=settings.guidance_scale,
            schedule=schedule,
            precision=self.models.profile.precision,
            on_step=on_step,
        )
        return self.models.decode(finite(latents))

    def _edit_embedding(self, settings: Settings, embeddings: Tensor) -> Tensor:
        return method.edit_embedding(embeddings[:1], embeddings[1:], settings.alpha).to(self.models.device)

    def _latent_mask(self, mask: np.ndarray, *words: str) -> Tensor:
        _, height, width = self.models.latent_shape
        latent_mask = mask_to_latents(mask, (width, height), *words)
        return torch.from_numpy(latent_mask)[None, None].to(self.models.device)


def _embedding_picture(settings: Settings, layers: Layers) -> tuple[Image.Image, np.ndarray]:
    """What stage 1 fits the embeddings to, and where it looks.

    "background" and "everything": the background, with and without regard to its own subject; "object": the
    subject; "around": the background, the subject laid over it but not looked at, so that the words needn't stand for
    a place without one. Under `composite` these are the layers of the composite, so the background has its own
    subject painted out; under `separate` there is no layered picture, and "around" leaves both subjects out.
    """
    if settings.layers == "composite":
        background, subject, around = layers.inpainted_background, layers.composite, layers.composite
        off_subjects = ~layers.object_mask
    else:
        overlay = settings.layers == "overlay"
        background = layers.background_image
        subject = layers.overlay if overlay else layers.object_image
        around = layers.overlay if overlay else background
        off_subjects = ~(layers.background_mask | layers.object_mask)
    return {
        "background": (background, ~layers.background_mask),
        "around": (around, off_subjects),
        "object": (subject, layers.object_mask),
        "everything": (background, np.ones_like(layers.background_mask)),
    }[settings.embedding_mask]


def _looked_at(settings: Settings, edit: Edit) -> tuple[str, ...]:
    """What to call the mask of `_embedding_picture` where it is too small, and what to do about it."""
    if settings.embedding_mask == "object":
        return ("object_mask",)
    if settings.embedding_mask == "around":
        return "what object_mask leaves of the layered picture", "mark less of it as the subject, or make it smaller"
    return _left_by(edit)


def _left_by(edit: Edit) -> tuple[str, str]:
    """What the background is left by, and what to do where that is too little."""
    if edit.background == "reference":
        return "what background_mask leaves of the reference", "mark less of it as its own subject"
    return "what object_mask leaves of the photo", "mark less of it as the subject"


def _finetunes(settings: Settings) -> bool:
    return bool(settings.finetune_steps and (settings.object_weight or settings.background_weight))


def _background_key(prompt: str, seed: int, settings: Settings) -> str:
    return digest("background", prompt, seed, settings.sampling_steps, settings.guidance_scale)


def finite(values: Tensor) -> Tensor:
    """The `values`, of any shape. Raises `FloatingPointError` where one of them is not finite."""
    if not values.isfinite().all():
        raise FloatingPointError
    return values


def training_generator(stage: str, seed: int) -> torch.Generator:
    """Each stage's own noise: no stage trains on the very noise that another starts from."""
    return torch.Generator().manual_seed(int(digest(stage, seed)[:14], 16))


@contextlib.contextmanager
def _in_stage(stage: str) -> Iterator[None]:
    """What can go wrong in a stage, as one sentence to the user."""
    dials = {"embeddings": "embedding_lr", "finetune": "finetune_lr"}
    try:
        yield
    except Cancelled as error:
        traceback.clear_frames(error.__traceback__)  # the copy in training goes now, not with the exception
        raise
    except FloatingPointError as error:
        mend = f"lower {dials[stage]}" if stage in dials else "lower guidance_scale, embedding_lr or finetune_lr"
        raise EditError(f"The {stage} stage went astray: its numbers grew beyond all bounds; {mend}.") from error
    except (MemoryError, RuntimeError) as error:
        if not _is_out_of_memory(error):
            raise
        traceback.clear_frames(error.__traceback__)
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        raise OutOfMemory(
            f"The {stage} stage needs more memory than there is; choose fewer seeds, tune “lora” or a smaller model."
        ) from error


def _is_out_of_memory(error: Exception) -> bool:
    words = str(error).lower()
    return (
        isinstance(error, MemoryError | torch.OutOfMemoryError)
        or "out of memory" in words
        or "can't allocate memory" in words
        or "not enough memory" in words
    )
