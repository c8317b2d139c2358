"""Flow matching: how a flow's noise is mixed in, and Euler's steps along its σ.

A flow goes straight from a picture x to noise ε, x_t = (1 − σ) x + σ ε with σ = t / T, and its network predicts the
velocity ε − x. Lipman et al. 2022, arXiv:2210.02747; Esser et al. 2024, arXiv:2403.03206.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class FlowConfig:
    """What the method reads of a scheduler's config."""

    num_train_timesteps: int
    prediction_type: str = "flow_prediction"


class FlowMatching:
    """A flow's noise schedule; `scheduler` is the model's `FlowMatchEulerDiscreteScheduler`, which is not stepped.

    `shift` gives the µ by which sampling spends more of its steps on noisy latents, from the number of latent cells
    and that of steps.
    """

    def __init__(self, scheduler: Any, shift: Callable[[int, int], float]) -> None:
        self.scheduler, self._shift = scheduler, shift
        self.config = FlowConfig(scheduler.config.num_train_timesteps)

    def add_noise(self, original_samples: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """x_t of clean `original_samples` (B, C, h, w) at `timesteps` (B or 1,), from 0 to T."""
        sigma = (timesteps.to(original_samples) / self.config.num_train_timesteps).view(-1, 1, 1, 1)
        return (1 - sigma) * original_samples + sigma * noise

    def euler(self, steps: int, grid: Sequence[int]) -> Euler:
        """The solver of `steps` steps for latents of `grid` (h, w) cells."""
        return Euler(self.scheduler, steps, self._shift(grid[0] * grid[1], steps))


class EulerStep(NamedTuple):
    """What one step gives: both (B, C, h, w)."""

    prev_sample: Tensor
    pred_original_sample: Tensor


class Euler:
    """Euler's steps along a flow, over the σ that diffusers' pipelines take; for a flow they are DDIM's with η = 0."""

    init_noise_sigma = 1.0

    def __init__(self, scheduler: Any, steps: int, mu: float) -> None:
        self._solver = type(scheduler).from_config(scheduler.config)
        self._solver.set_timesteps(sigmas=np.linspace(1.0, 1 / steps, steps), mu=mu)
        self.timesteps: Tensor = self._solver.timesteps

    def step(self, model_output: Tensor, timestep: Tensor, sample: Tensor, *, eta: float) -> EulerStep:
        """One step from `sample` (B, C, h, w) at the next of `timesteps`; deterministic whatever `eta` is."""
        sigma = float(timestep) / self._solver.config.num_train_timesteps
        with torch.no_grad():
            clean = sample - sigma * model_output
            return EulerStep(self._solver.step(model_output, timestep, sample).prev_sample, clean)
