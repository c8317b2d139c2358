"""§3.2.3, iterative guidance: DDIM from noise, its condition alternating between ê_a and e_opt, Eqs. 6–7."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from diffusers import DPMSolverMultistepScheduler
from torch import Tensor

from layerdiffusion.method.objective import FLOW
from layerdiffusion.method.types import NoiseScheduler, Solver
from layerdiffusion.models.denoiser import Denoiser
from layerdiffusion.models.family import Condition
from layerdiffusion.progress import OnStep, Step

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


def taken_steps(steps: int, strength: float) -> int:
    """How many of `steps` sampling steps are taken at `strength`, as diffusers' image-to-image counts them."""
    return min(int(steps * strength), steps)


def guided_noise_pred(
    denoiser: Callable[[Tensor, Tensor, Condition], Tensor],
    latents: Tensor,
    timestep: Tensor,
    embedding: Condition,
    negative_prompt_embeds: Condition,
    guidance_scale: float,
) -> Tensor:
    """Classifier-free guidance: f(x_t, t, "") + g · (f(x_t, t, e) − f(x_t, t, "")), (B, C, h, w).

    `embedding` is the condition, `negative_prompt_embeds` the frozen one of no prompt; of each there is one.
    """
    count = len(latents)
    condition = embedding.expand(count)
    if guidance_scale == 1:
        return denoiser(latents, timestep, condition)
    both = negative_prompt_embeds.expand(count).join(condition)
    without, with_condition = denoiser(torch.cat([latents] * 2), timestep, both).chunk(2)
    return without + guidance_scale * (with_condition - without)


def ddim_scheduler(scheduler: NoiseScheduler, steps: int) -> NoiseScheduler:
    """A fresh DDIM of `steps` steps with the noise schedule of the model's own scheduler."""
    ddim = type(scheduler).from_config(scheduler.config)
    ddim.set_timesteps(steps)
    # With SD's steps_offset of 1, a thousand steps would begin one past the schedule's end.
    ddim.timesteps = ddim.timesteps.clamp(max=scheduler.config.num_train_timesteps - 1)
    return ddim


class DPMSolver:
    """diffusers' DPM-Solver++, multistep and of second order, with the model's own noise schedule.

    Lu et al. 2022, https://arxiv.org/abs/2211.01095, Algorithm 2. A step goes by the clean latents that the last two
    predict; under Eq. 7 these follow different words.
    """

    def __init__(self, scheduler: NoiseScheduler, steps: int) -> None:
        self._solver = DPMSolverMultistepScheduler.from_config(scheduler.config)
        self._solver.set_timesteps(min(steps, scheduler.config.num_train_timesteps - 1))
        self.timesteps: Tensor = self._solver.timesteps
        self.init_noise_sigma: float = self._solver.init_noise_sigma

    def step(self, model_output: Tensor, timestep: Tensor, sample: Tensor, *, eta: float) -> Stepped:
        """One step from `sample` (B, C, h, w) at the next of `timesteps`; deterministic whatever `eta` is."""
        previous = self._solver.step(model_output, timestep, sample).prev_sample
        return Stepped(previous, self._solver.model_outputs[-1])


@dataclass
class Stepped:
    """A `SchedulerStep`: both (B, C, h, w)."""

    prev_sample: Tensor
    pred_original_sample: Tensor


def solver_of(scheduler: NoiseScheduler, steps: int, solver: str, latents: Tensor) -> Solver:
    """What takes the `steps` from `latents` (B, C, h, w): Euler in a flow, else DDIM, or for "dpmpp" DPM-Solver++."""
    if scheduler.config.prediction_type == FLOW:
        return scheduler.euler(steps, latents.shape[-2:])
    return DPMSolver(scheduler, steps) if solver == "dpmpp" else ddim_scheduler(scheduler, steps)


@torch.no_grad()
def denoise(
    scheduler: Solver,
    latents: Tensor,
    timesteps: Tensor,
    predict_noise: PredictNoise,
    on_step: OnStep | None = None,
) -> Tensor:
    """The latents (B, C, h, w), float32, that `latents` come to along `timesteps` (N,), noisiest first; DDIM's η is 0.

    `scheduler` is a `ddim_scheduler` or a `DPMSolver`, of which these are the last timesteps. `predict_noise` is asked
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
    denoiser: Denoiser,
    scheduler: NoiseScheduler,
    latents: Tensor,
    object_embedding: Condition,
    edit_embedding: Condition,
    negative_prompt_embeds: Condition,
    *,
    steps: int,
    guidance_scale: float,
    schedule: str = "alternate",
    solver: str = "ddim",
    start: Tensor | None = None,
    strength: float = 1.0,
    on_step: OnStep | None = None,
) -> Tensor:
    """§3.2.3, Eqs. 6–7: clean latents (B, C, h, w) from pure noise `latents`, by the steps of `solver_of`, η = 0.

    `denoiser` is the tuned network, `scheduler` the model's noise schedule; of each embedding there is one. With a
    `start`, clean latents (1, C, h, w), it begins as SDEdit does: with these under that noise, at the first of the
    last `taken_steps` at `strength`, 0 to 1, the only ones that are then taken; without any, the start comes back.
    """
    sampler = solver_of(scheduler, steps, solver, latents)
    embeddings = {"object": object_embedding.float(), "edit": edit_embedding.float()}
    steps = len(sampler.timesteps)
    first = 0 if start is None else steps - taken_steps(steps, strength)
    condition = conditions(steps, schedule)[first:]
    negative = negative_prompt_embeds.float()
    timesteps = sampler.timesteps[first:].to(latents.device)  # together: an upload waits for all that is queued

    def predict_noise(index: int, latents: Tensor, timestep: Tensor) -> Tensor:
        embedding = embeddings[condition[index]]
        return guided_noise_pred(denoiser, latents, timesteps[index], embedding, negative, guidance_scale)

    latents = latents.float() * sampler.init_noise_sigma
    if start is not None:
        clean = start.float().expand_as(latents)
        latents = scheduler.add_noise(clean, latents, timesteps[:1]) if len(timesteps) else clean
    return denoise(sampler, latents, sampler.timesteps[first:], predict_noise, on_step)
