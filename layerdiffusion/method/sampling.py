"""§3.2.3, iterative guidance: DDIM from noise, its condition alternating between ê_a and e_opt, Eqs. 6–7."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from layerdiffusion.method.objective import OnStep, Step, frozen, predict
from layerdiffusion.method.types import NoiseScheduler
from layerdiffusion.models.family import Condition

PredictNoise = Callable[[int, Tensor, Tensor], Tensor]  # (index, latents, timestep) → model output, guided


def conditions(steps: int, schedule: str = "alternate") -> list[str]:
    """Eq. 7: what each of `steps` sampling steps is conditioned on, "object" (ê_a) or "edit" (e_opt).

    By step index counted down from N to 1: even → ê_a, odd → e_opt. Never by timestep: with SD's
    `steps_offset=1` all fifty are odd. `schedule` "object" is always ê_a, "edit" always e_opt (ablation (i)).
    """
    if schedule == "alternate":
        return ["object" if index % 2 == 0 else "edit" for index in range(steps, 0, -1)]
    if schedule in ("object", "edit"):
        return [schedule] * steps
    raise ValueError(f"unknown schedule {schedule!r}")


def initial_latents(seeds: Iterable[int], shape: tuple[int, int, int]) -> Tensor:
    """x_T for each seed: (len(seeds), C, h, w) of standard normal noise, float32 on the CPU.

    Each is drawn alone, as diffusers' pipelines draw it, so that a seed means the same picture on every
    device and whatever else is in the batch.
    """
    draws = [torch.randn((1, *shape), generator=torch.Generator().manual_seed(seed)) for seed in seeds]
    return torch.cat(draws)


def guided_noise_pred(
    unet: nn.Module,
    latents: Tensor,
    timestep: Tensor,
    embedding: Condition,
    negative_prompt_embeds: Condition,
    guidance_scale: float,
    precision: torch.dtype = torch.float32,
) -> Tensor:
    """Classifier-free guidance: f(x_t, t, "") + g · (f(x_t, t, e) − f(x_t, t, "")), (B, C, h, w).

    `embedding` is the condition, `negative_prompt_embeds` the frozen one of no prompt; of each there is one.
    """
    count = len(latents)
    condition = embedding.expand(count)
    if guidance_scale == 1:
        return predict(unet, latents, timestep, condition, precision)
    both = negative_prompt_embeds.expand(count).join(condition)
    without, with_condition = predict(unet, torch.cat([latents] * 2), timestep, both, precision).chunk(2)
    return without + guidance_scale * (with_condition - without)


def ddim_scheduler(scheduler: NoiseScheduler, steps: int) -> NoiseScheduler:
    """A fresh DDIM of `steps` steps with the noise schedule of the model's own scheduler."""
    ddim = type(scheduler).from_config(scheduler.config)
    ddim.set_timesteps(steps)
    # With SD's steps_offset of 1, a thousand steps would begin one past the schedule's end.
    ddim.timesteps = ddim.timesteps.clamp(max=scheduler.config.num_train_timesteps - 1)
    return ddim


@torch.no_grad()
def denoise(
    scheduler: NoiseScheduler,
    latents: Tensor,
    timesteps: Tensor,
    predict_noise: PredictNoise,
    on_step: OnStep | None = None,
) -> Tensor:
    """DDIM, η = 0: the latents (B, C, h, w), float32, that `latents` come to along `timesteps` (N,), noisiest first.

    `scheduler` is a `ddim_scheduler` of which these are the timesteps, or the last of them. `predict_noise` is asked
    once a step for the model's output under guidance, with the step's index from 0. Each step reports the x0 it
    predicts. This is the one sampling loop: every method differs only in what it starts from and what it predicts.
    """
    for index, timestep in enumerate(timesteps):
        noise_pred = predict_noise(index, latents, timestep)
        step = scheduler.step(noise_pred, timestep, latents, eta=0.0)
        latents = step.prev_sample
        if on_step:
            on_step(Step(index + 1, len(timesteps), x0=step.pred_original_sample))
    return latents


def sample(
    unet: nn.Module,
    scheduler: NoiseScheduler,
    latents: Tensor,
    object_embedding: Condition,
    edit_embedding: Condition,
    negative_prompt_embeds: Condition,
    *,
    steps: int,
    guidance_scale: float,
    schedule: str = "alternate",
    precision: torch.dtype = torch.float32,
    on_step: OnStep | None = None,
) -> Tensor:
    """§3.2.3, Eqs. 6–7: clean latents (B, C, h, w) from pure noise `latents`, by DDIM, η = 0.

    `unet` is the tuned network, `scheduler` the model's `DDIMScheduler`; of each embedding there is one.
    """
    ddim = ddim_scheduler(scheduler, steps)
    embeddings = {"object": object_embedding.float(), "edit": edit_embedding.float()}
    condition = conditions(steps, schedule)
    negative = negative_prompt_embeds.float()
    timesteps = ddim.timesteps.to(latents.device)  # together: an upload waits for all that is queued

    def predict_noise(index: int, latents: Tensor, timestep: Tensor) -> Tensor:
        embedding = embeddings[condition[index]]
        return guided_noise_pred(unet, latents, timesteps[index], embedding, negative, guidance_scale, precision)

    with frozen(unet):
        return denoise(ddim, latents.float() * ddim.init_noise_sigma, ddim.timesteps, predict_noise, on_step)
