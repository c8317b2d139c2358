"""SDEdit (Meng et al. 2022, https://arxiv.org/abs/2108.01073): noise the photo, denoise it with the prompt."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from PIL import Image
from torch import Tensor

from layerdiffusion import engine
from layerdiffusion.baselines import SHARE, BaselineOptions, option
from layerdiffusion.cache import Run, Stage, Work, stage
from layerdiffusion.engine import Task
from layerdiffusion.method.sampling import sample, taken_steps
from layerdiffusion.progress import OnStep, Reporter
from layerdiffusion.settings import SAMPLING

if TYPE_CHECKING:
    from layerdiffusion.models.models import Models


@dataclass(frozen=True)
class SDEditOptions(BaselineOptions):
    """`strength` is the share of the sampling steps that are taken: 0 gives the photo, 1 leaves little of it."""

    strength: float = option(0.8, SHARE)


Options = SDEditOptions


def edit(task: Task, run: Run) -> Stage[list[Image.Image]]:
    """One stage: the sampling."""
    options, settings = task.options, task.settings
    assert isinstance(options, SDEditOptions)
    return run(
        SAMPLING,
        sample_pictures,
        picture=task.picture(options.source),
        prompt=task.edit.prompt,
        strength=options.strength,
        seeds=settings.seeds,
        steps=settings.sampling_steps,
        guidance_scale=settings.guidance_scale,
    )


@stage(lambda steps, strength, seeds, **_: Work(taken_steps(steps, strength), 2 * len(seeds)))
def sample_pictures(
    models: Models,
    report: Reporter,
    picture: Image.Image,
    prompt: str,
    strength: float,
    seeds: tuple[int, ...],
    steps: int,
    guidance_scale: float,
) -> list[Image.Image]:
    """A picture for each seed, from the photo's latents under its noise."""
    start, words = models.encode(picture), models.embed([prompt, None])
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
            start=start,
            strength=strength,
            on_step=on_step,
        )

    return engine.sampled_pictures(models, report, seeds, picture.size, latents_of)
