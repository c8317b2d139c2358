"""Eq. 1, the denoising objective under a mask, and what all three stages share around it.

Shapes: B pictures, C latent channels, latent grid h × w, L tokens of width D. Noise schedule and prediction
type are the model's own, read from its `DDIMScheduler`, or a flow's from its `FlowMatching`. Words
come as a `Condition`, whatever a model's family makes of them.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from layerdiffusion.method.types import NoiseScheduler

FLOW = "flow_prediction"
UPLOADED = 100  # draws that go to a device together: an upload waits for all that is queued there


def draw_noise_and_timestep(
    shape: tuple[int, ...], scheduler: NoiseScheduler, generator: torch.Generator, noise_offset: float = 0.0
) -> tuple[Tensor, Tensor]:
    """One ε of `shape` (1, C, h, w), then one t (1,), uniform over the whole schedule: 0 to T − 1, in a flow 1 to T.

    Drawn in float32 by the generator's device (the CPU, as the editor does it), so that a training seed means
    the same noise on every device.

    With a `noise_offset`, each channel of ε is moved as a whole by a draw from N(0, `noise_offset`²), as
    diffusers' training scripts do it. Stable Diffusion's schedule leaves 7 % of the picture in x_T, and so its
    mean colours, which are what plain noise covers least: a network that can read them off x_t need not learn
    them from the condition, and has nothing to go by when sampling starts from noise alone. Moved noise hides
    them. See https://www.crosslabs.org/blog/diffusion-with-offset-noise and Lin et al. 2023, arXiv:2305.08891.
    """
    noise = torch.randn(shape, generator=generator, device=generator.device)
    steps = scheduler.config.num_train_timesteps
    first = int(scheduler.config.prediction_type == FLOW)
    timestep = torch.randint(first, first + steps, (1,), generator=generator, device=generator.device)
    if noise_offset:
        noise += noise_offset * torch.randn((*shape[:2], 1, 1), generator=generator, device=generator.device)
    return noise, timestep


def draws(
    shape: tuple[int, ...],
    scheduler: NoiseScheduler,
    generator: torch.Generator,
    device: torch.device,
    *,
    steps: int,
    each: int = 1,
    noise_offset: float = 0.0,
) -> Iterator[tuple[Tensor, Tensor]]:
    """For each step, `each` draws of `draw_noise_and_timestep` on the device: ε (each, C, h, w) and t (each,)."""
    for start in range(0, steps, UPLOADED):
        count = min(UPLOADED, steps - start) * each
        drawn = [draw_noise_and_timestep(shape, scheduler, generator, noise_offset) for _ in range(count)]
        noise, timesteps = (torch.cat(parts).to(device).split(each) for parts in zip(*drawn, strict=True))
        yield from zip(noise, timesteps, strict=True)


def prediction_target(scheduler: NoiseScheduler, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
    """What f is compared with: ε for an epsilon model, and the model's own target for any other.

    A v-prediction model outputs v = √ᾱ·ε − √(1−ᾱ)·x0, and given x_t, v − v̂ = (ε − ε̂) / √ᾱ: the same error,
    weighted as in that model's own training. Dividing it back would train the noisiest steps by next to
    nothing. A flow's network predicts the velocity ε − x0.
    """
    kind = scheduler.config.prediction_type
    if kind == FLOW:
        return noise - latents
    if kind == "epsilon":
        return noise
    if kind == "v_prediction":
        return scheduler.get_velocity(latents, noise, timesteps)
    if kind == "sample":
        return latents
    raise ValueError(f"unknown prediction_type {kind!r}")


def masked_loss(prediction: Tensor, target: Tensor, mask: Tensor) -> Tensor:
    """Eq. 1 under a mask, for each picture: mean(mask² · (target − prediction)²), shape (B,), float32.

    `mask` is (B or 1, 1, h, w), 1 where the error counts. The mean runs over all latent pixels, not over the
    mask's area: only so does a larger weight make up for a smaller subject, as the paper has it.
    """
    error = mask.float() * (target.float() - prediction.float())
    return error.square().flatten(1).mean(1)


def off_subject(mask: Tensor) -> Tensor:
    """1 − M_r of Eqs. 1 and 4: where the background counts, from a mask that is 1 on its picture's own subject."""
    return 1 - mask
