"""§3.2.3, iterative guidance: DDIM from noise, its condition alternating between ê_a and e_opt, Eqs. 6–7."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from layerdiffusion.method.objective import OnStep, Step, frozen, predict


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


def guided_prediction(
    unet: nn.Module,
    latents: Tensor,
    timestep: Tensor,
    embedding: Tensor,
    empty_embedding: Tensor,
    guidance_scale: float,
    precision: torch.dtype = torch.float32,
) -> Tensor:
    """Classifier-free guidance: f(x_t, t, "") + g · (f(x_t, t, e) − f(x_t, t, "")), (B, C, h, w).

    `embedding` (1, L, D) is the condition, `empty_embedding` (1, L, D) the frozen embedding of "".
    """
    count = len(latents)
    condition = embedding.expand(count, -1, -1)
    if guidance_scale == 1:
        return predict(unet, latents, timestep, condition, precision)
    both = torch.cat([empty_embedding.expand(count, -1, -1), condition])
    without, with_condition = predict(unet, torch.cat([latents] * 2), timestep, both, precision).chunk(2)
    return without + guidance_scale * (with_condition - without)


def ddim_scheduler(scheduler: Any, steps: int) -> Any:
    """A fresh DDIM of `steps` steps with the noise schedule of the model's own scheduler."""
    ddim = type(scheduler).from_config(scheduler.config)
    ddim.set_timesteps(steps)
    # With SD's steps_offset of 1, a thousand steps would begin one past the schedule's end.
    ddim.timesteps = ddim.timesteps.clamp(max=scheduler.config.num_train_timesteps - 1)
    return ddim


@torch.no_grad()
def sample(
    unet: nn.Module,
    scheduler: Any,
    latents: Tensor,
    object_embedding: Tensor,
    edit_embedding: Tensor,
    empty_embedding: Tensor,
    *,
    steps: int,
    guidance_scale: float,
    schedule: str = "alternate",
    precision: torch.dtype = torch.float32,
    on_step: OnStep | None = None,
) -> Tensor:
    """§3.2.3, Eqs. 6–7: clean latents (B, C, h, w) from pure noise `latents`, by DDIM, η = 0.

    `unet` is the tuned network, `scheduler` the model's `DDIMScheduler`; the embeddings are (1, L, D). Each
    step reports the x0 it predicts.
    """
    ddim = ddim_scheduler(scheduler, steps)
    embeddings = {"object": object_embedding.float(), "edit": edit_embedding.float()}
    latents = latents.float() * ddim.init_noise_sigma
    turns = zip(ddim.timesteps, conditions(steps, schedule), strict=True)
    with frozen(unet):
        for index, (timestep, condition) in enumerate(turns, 1):
            prediction = guided_prediction(
                unet,
                latents,
                timestep,
                embeddings[condition],
                empty_embedding.float(),
                guidance_scale,
                precision,
            )
            moved = ddim.step(prediction, timestep, latents, eta=0.0)
            latents = moved.prev_sample
            if on_step:
                on_step(Step(index, steps, x0=moved.pred_original_sample))
    return latents
