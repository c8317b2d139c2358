"""FLUX.2 klein's own editing (https://bfl.ai/blog/flux2-klein-towards-interactive-visual-intelligence): the photo is
given to the network as a second picture beside the noisy one, and the prompt describes the result.

It is what `Flux2KleinPipeline(image=...)` does, and what a user of that model would take in place of ours: no training.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from PIL import Image
from torch import Tensor

from layerdiffusion import engine
from layerdiffusion.baselines import BaselineOptions
from layerdiffusion.cache import Run, Stage, Work, stage
from layerdiffusion.engine import Task
from layerdiffusion.method.sampling import sample
from layerdiffusion.models.klein import Klein, KleinCondition
from layerdiffusion.progress import OnStep, Reporter
from layerdiffusion.settings import SAMPLING

if TYPE_CHECKING:
    from layerdiffusion.models.models import Models


@dataclass(frozen=True)
class KleinPictureOptions(BaselineOptions):
    """It has no dials of its own."""


Options = KleinPictureOptions


def unsuited(models: Models) -> str | None:
    """Why the method doesn't apply to these models; None where it does."""
    if isinstance(models.family, Klein):
        return None
    return f"{models.family.label} takes no picture beside the noisy one; this is FLUX.2 klein's own editing"


def edit(task: Task, run: Run) -> Stage[list[Image.Image]]:
    """One stage: the sampling."""
    options, settings = task.options, task.settings
    assert isinstance(options, KleinPictureOptions)
    return run(
        SAMPLING,
        sample_pictures,
        picture=task.picture(options.source),
        prompt=task.edit.prompt,
        seeds=settings.seeds,
        steps=settings.sampling_steps,
        guidance_scale=settings.guidance_scale,
    )


@stage(lambda steps, seeds, **_: Work(steps, 4 * len(seeds)))
def sample_pictures(
    models: Models,
    report: Reporter,
    picture: Image.Image,
    prompt: str,
    seeds: tuple[int, ...],
    steps: int,
    guidance_scale: float,
) -> list[Image.Image]:
    """A picture for each seed, from noise, with the photo beside it, with the words and without."""
    words = models.embed([prompt, None])
    assert isinstance(words, KleinCondition)
    words = replace(words, picture=models.encode(picture).expand(2, -1, -1, -1))
    denoiser = engine.sampling_denoiser(models, {})

    def latents_of(noise: Tensor, on_step: OnStep) -> Tensor:
        return sample(
            denoiser,
            models.scheduler,
            noise,
            words[:1],
            words[:1],
            words[1:],
            steps=steps,
            guidance_scale=guidance_scale,
            on_step=on_step,
        )

    return engine.sampled_pictures(models, report, seeds, picture.size, latents_of)
