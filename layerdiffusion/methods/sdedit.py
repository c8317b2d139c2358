"""SDEdit (Meng et al. 2022, https://arxiv.org/abs/2108.01073): noise the photo, denoise it with the prompt."""

from __future__ import annotations

from typing import TYPE_CHECKING

from PIL import Image

from layerdiffusion.method.sampling import taken_steps
from layerdiffusion.methods.options import SDEditOptions
from layerdiffusion.methods.stages import Task, sampled_pictures
from layerdiffusion.progress import Reporter
from layerdiffusion.runtime import Stage
from layerdiffusion.settings import SAMPLING, Settings

if TYPE_CHECKING:
    from layerdiffusion.models.load import Models


def stages(task: Task) -> list[Stage[object]]:
    """One stage: the sampling."""
    options = task.options
    assert isinstance(options, SDEditOptions)
    picture = task.picture(options.source)
    inputs = {
        "picture": picture,
        "prompt": task.edit.prompt,
        "strength": options.strength,
        "settings": task.settings.of(SAMPLING),
    }
    steps = taken_steps(task.settings.sampling_steps, options.strength)
    return [Stage(SAMPLING, None if picture is None else inputs, *task.sampling(steps), sample_pictures)]


def sample_pictures(
    models: Models, report: Reporter, picture: Image.Image, prompt: str, strength: float, settings: Settings
) -> list[Image.Image]:
    """A picture for each seed."""
    latents, words = models.encode(picture), models.embed([prompt, None])
    conditions = words[:1], words[:1], words[1:]
    return sampled_pictures(
        models, report, settings, picture.size, models.unet, conditions, start=latents, strength=strength
    )
