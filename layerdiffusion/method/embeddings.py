"""§3.2.1, layered controlled optimisation: two text embeddings fitted to a masked picture, and Eq. 2."""

from __future__ import annotations

import torch
from torch import Tensor

from layerdiffusion.method.objective import draws, masked_loss, prediction_target
from layerdiffusion.method.types import NoiseScheduler
from layerdiffusion.models.denoiser import Denoiser
from layerdiffusion.models.family import Condition
from layerdiffusion.models.optimizer import OptimizerStep
from layerdiffusion.progress import OnStep


def embedding_loss(
    denoiser: Denoiser,
    scheduler: NoiseScheduler,
    latents: Tensor,
    mask: Tensor,
    embeddings: Condition,
    noise: Tensor,
    timestep: Tensor,
) -> Tensor:
    """Eq. 1 as stage 1 minimises it, for each embedding: ‖M · (ε − f(x_t, t, e))‖², shape (B,).

    `latents` (1, C, h, w) and the draws `noise` (N, C, h, w) and `timestep` (N,), over which the loss is the mean, are
    shared by all B `embeddings`; `mask` (1, 1, h, w) is 1 on what they are fitted to, the paper's M.
    """
    count, each = len(embeddings), len(noise)
    latents = latents.expand(each, -1, -1, -1)
    noisy = scheduler.add_noise(latents, noise, timestep).repeat(count, 1, 1, 1)
    target = prediction_target(scheduler, latents, noise, timestep).repeat(count, 1, 1, 1)
    embeddings = embeddings.map(lambda tensor: tensor.repeat_interleave(each, 0))
    prediction = denoiser(noisy, timestep.repeat(count), embeddings)
    return masked_loss(prediction, target, mask).view(count, each).mean(1)


def optimize_embeddings(
    denoiser: Denoiser,
    scheduler: NoiseScheduler,
    latents: Tensor,
    mask: Tensor,
    embeddings: Condition,
    *,
    steps: int,
    lr: float,
    generator: torch.Generator,
    noise_offset: float = 0.0,
    draws_a_step: int = 1,
    on_step: OnStep | None = None,
) -> Condition:
    """§3.2.1: [ê_a, ê_b], the `embeddings` [e_a, e_b] after `steps` of Adam with the model frozen.

    All are optimised, in the parts that `unfrozen` gives, as one batch on the same noisy latents, timestep and noise,
    without classifier-free guidance. Their losses are added, so that each walks as it would alone. `noise_offset`, 0 in
    the paper, is that of `draw_noise_and_timestep`; a step goes by the mean of `draws_a_step` draws, 1 in the paper.
    Returns float32; with no steps, a copy.
    """
    embeddings = embeddings.map(lambda tensor: tensor.detach().float().clone())
    if not steps:
        return embeddings
    parameters, fitted = embeddings.unfrozen()
    optimizer_step = OptimizerStep(parameters, lr, denoiser.precision, steps=steps, on_step=on_step)
    drawn = draws(
        latents.shape, scheduler, generator, latents.device, steps=steps, each=draws_a_step, noise_offset=noise_offset
    )
    for noise, timestep in drawn:
        losses = embedding_loss(denoiser, scheduler, latents, mask, fitted(), noise, timestep)
        optimizer_step(losses.sum(), reported=losses.mean())
    return fitted().map(torch.Tensor.detach)


def edit_embedding(object_embedding: Condition, background_embedding: Condition, alpha: float) -> Condition:
    """Eq. 2: e_opt = α·ê_a + (1 − α)·ê_b."""
    return object_embedding.map(lambda own, other: alpha * own + (1 - alpha) * other, background_embedding)
