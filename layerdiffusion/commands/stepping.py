"""Ours and Imagic's plain way of stepping, timed in turns on the same model and device.

The plain way is that of diffusers' community pipeline `imagic_stable_diffusion`, written out: a batch of one and a
loop of its own for every embedding, every picture, and Adam without fusing.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F

from layerdiffusion.editor import Editor
from layerdiffusion.method.objective import autocast, prediction_target
from layerdiffusion.method.sampling import ddim_scheduler
from layerdiffusion.models.memory import is_out_of_memory
from layerdiffusion.runtime import OutOfMemory

if TYPE_CHECKING:
    from layerdiffusion.edit import Edit
    from layerdiffusion.models.load import Models
    from layerdiffusion.settings import Settings


def stepping(models: Models, edit: Edit, settings: Settings) -> dict[str, tuple[float, float]]:
    """Ours and the plain way, milliseconds a step: for an embedding, for the network, and for a picture.

    Raises an `OutOfMemory` where the plain way, which tunes the whole network in float32, does not fit.
    """

    def ours() -> dict[str, float]:
        return Editor(models).run(edit, settings).timings

    def milliseconds(run: Callable[[], dict[str, float]]) -> dict[str, float]:
        return {stage: 1000 * seconds for stage, seconds in run().items()}

    plain = PlainImagic(models, edit, settings)
    milliseconds(lambda: Editor(models).run(edit, replace(settings, **few_steps(2))).timings)  # warms up
    try:
        rounds = [(milliseconds(ours), milliseconds(plain.run)) for _ in range(3)]
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        raise OutOfMemory(
            "Imagic's plain way tunes the whole network, which does not fit this device; compare on a larger one."
        ) from error
    steps = {
        "embeddings": ("stage 1, for each embedding", 2 * settings.embedding_steps, settings.embedding_steps),
        "finetune": ("stage 2", settings.finetune_steps, settings.finetune_steps),
        "sampling": (
            f"stage 3, for each of {len(settings.seeds)} pictures",
            settings.sampling_steps * len(settings.seeds),
            settings.sampling_steps,
        ),
    }
    return {
        name: (min(o[stage] for o, _ in rounds) / our_steps, min(p[stage] for _, p in rounds) / plain_steps)
        for stage, (name, our_steps, plain_steps) in steps.items()
    }


def few_steps(steps: int) -> dict[str, Any]:
    """So many of each stage."""
    return {"embedding_steps": steps, "finetune_steps": steps, "sampling_steps": steps}


class PlainImagic:
    """Imagic (Kawar et al. 2023, https://arxiv.org/abs/2210.09276) as diffusers' pipeline steps: one embedding,
    one picture, one seed. Only its stepping is of interest here; its pictures are thrown away.
    """

    def __init__(self, models: Models, edit: Edit, settings: Settings):
        self.models, self.settings = models, settings
        self.latents = models.encode(edit.object_image)
        self.embedding = models.embed([edit.prompt])

    def run(self) -> dict[str, float]:
        """Seconds that each stage took."""
        timings = {}
        for stage, work in (("embeddings", self._embedding), ("finetune", self._finetune), ("sampling", self._sample)):
            started = time.perf_counter()
            work()
            if self.models.device.type == "cuda":
                torch.cuda.synchronize()
            timings[stage] = time.perf_counter() - started
        return timings

    def _loss(self, unet: Any, embedding: Any) -> Any:
        scheduler = self.models.scheduler
        noise = torch.randn_like(self.latents)
        timesteps = torch.randint(scheduler.config.num_train_timesteps, (1,), device=self.latents.device)
        noisy = scheduler.add_noise(self.latents, noise, timesteps)
        with autocast(noisy.device, self.models.profile.training_precision):  # as ours computes
            predicted = unet(noisy, timesteps, **embedding.arguments(noisy)).sample.float()
        return F.mse_loss(predicted, prediction_target(scheduler, self.latents, noise, timesteps))

    def _embedding(self) -> None:
        embedding = self.embedding.map(lambda tensor: tensor.clone().requires_grad_(True))
        optimizer = torch.optim.Adam(embedding.tensors.values(), lr=1e-3)
        unet = self._network()
        for _ in range(self.settings.embedding_steps):
            self._loss(unet, embedding).backward()
            optimizer.step()
            optimizer.zero_grad()

    def _finetune(self) -> None:
        unet = self._network().requires_grad_(True).train()
        optimizer = torch.optim.Adam(unet.parameters(), lr=self.settings.finetune_lr)
        for _ in range(self.settings.finetune_steps):
            self._loss(unet, self.embedding).backward()
            optimizer.step()
            optimizer.zero_grad()

    def _network(self) -> Any:
        """A float32 copy on the device: `to` would move the one that every edit starts from."""
        return copy.deepcopy(self.models.master).to(self.latents.device)

    def _sample(self) -> None:
        scheduler = ddim_scheduler(self.models.scheduler, self.settings.sampling_steps)
        latents = torch.randn_like(self.latents)
        words = self.models.embed([None]).join(self.embedding).map(lambda tensor: tensor.to(self.models.unet.dtype))
        with torch.no_grad():
            for timestep in scheduler.timesteps:
                both = torch.cat([latents] * 2).to(self.models.unet.dtype)
                without, with_words = self.models.unet(both, timestep, **words.arguments(both)).sample.float().chunk(2)
                predicted = without + self.settings.guidance_scale * (with_words - without)
                latents = scheduler.step(predicted, timestep, latents, eta=0.0).prev_sample
            self.models.decode(latents)
