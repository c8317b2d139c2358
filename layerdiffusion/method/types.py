"""What the method needs of the libraries around it, whose own types are not declared."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, TypeVar

from torch import Tensor

_Self = TypeVar("_Self", bound="NoiseScheduler")


class SchedulerConfig(Protocol):
    """What is read from a scheduler's config."""

    num_train_timesteps: int
    prediction_type: str  # "epsilon", "v_prediction", "sample" or "flow_prediction"


class SchedulerStep(Protocol):
    """What one step gives: both (B, C, h, w)."""

    prev_sample: Tensor  # x_{t−1}
    pred_original_sample: Tensor  # the x0 predicted at this step


class Solver(Protocol):
    """A sampler's steps along a noise schedule."""

    timesteps: Tensor  # of the sampling steps, noisiest first, once set
    init_noise_sigma: float

    def step(self, model_output: Tensor, timestep: Tensor, sample: Tensor, *, eta: float) -> SchedulerStep: ...


class NoiseScheduler(Solver, Protocol):
    """diffusers' `DDIMScheduler`: the model's noise schedule, and DDIM's steps along it; or a `FlowMatching`.

    Of these methods a flow has `add_noise` and `euler`, the others have all but `euler`.
    """

    config: SchedulerConfig
    alphas_cumprod: Tensor  # ᾱ of every training timestep, (T,)
    final_alpha_cumprod: Tensor  # ᾱ of the step after the last

    @classmethod
    def from_config(cls: type[_Self], config: SchedulerConfig) -> _Self: ...
    def set_timesteps(self, num_inference_steps: int) -> None: ...
    def add_noise(self, original_samples: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor: ...
    def get_velocity(self, sample: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor: ...
    def euler(self, steps: int, grid: Sequence[int]) -> Solver: ...
