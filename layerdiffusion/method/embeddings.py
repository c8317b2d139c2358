"""§3.2.1, layered controlled optimisation: two text embeddings fitted to a masked picture, and Eq. 2."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from layerdiffusion.method.objective import (
    OnStep,
    OptimizerStep,
    Step,
    draw_noise_and_timestep,
    frozen,
    masked_loss,
    predict,
    prediction_target,
)
from layerdiffusion.method.types import NoiseScheduler
from layerdiffusion.models.family import Condition


def embedding_loss(
    unet: nn.Module,
    scheduler: NoiseScheduler,
    latents: Tensor,
    mask: Tensor,
    embeddings: Condition,
    noise: Tensor,
    timestep: Tensor,
    precision: torch.dtype = torch.float32,
) -> Tensor:
    """Eq. 1 as stage 1 minimises it, for each embedding: ‖M · (ε − f(x_t, t, e))‖², shape (B,).

    `latents` (1, C, h, w), `noise` (1, C, h, w) and `timestep` (1,) are shared by all B `embeddings`;
    `mask` (1, 1, h, w) is 1 on what they are fitted to, the paper's M.
    """
    noisy = scheduler.add_noise(latents, noise, timestep)
    target = prediction_target(scheduler, latents, noise, timestep)
    count = len(embeddings)
    prediction = predict(unet, noisy.expand(count, -1, -1, -1), timestep.expand(count), embeddings, precision)
    return masked_loss(prediction, target, mask)


def optimize_embeddings(
    unet: nn.Module,
    scheduler: NoiseScheduler,
    latents: Tensor,
    mask: Tensor,
    embeddings: Condition,
    *,
    steps: int,
    lr: float,
    generator: torch.Generator,
    noise_offset: float = 0.0,
    precision: torch.dtype = torch.float32,
    on_step: OnStep | None = None,
) -> Condition:
    """§3.2.1: [ê_a, ê_b], the `embeddings` [e_a, e_b] after `steps` of Adam with the model frozen.

    All are optimised, in all their parts, as one batch on the same noisy latents, timestep and noise, without
    classifier-free guidance. Their losses are added, so that each walks as it would alone. `noise_offset`, 0 in the
    paper, is that of `draw_noise_and_timestep`. Returns float32; with no steps, a copy.
    """
    embeddings = embeddings.map(lambda tensor: tensor.detach().float().clone())
    if not steps:
        return embeddings
    parameters = [tensor.requires_grad_(True) for tensor in embeddings.tensors.values()]
    optimizer_step = OptimizerStep(parameters, lr, precision)
    with frozen(unet):
        for index in range(1, steps + 1):
            noise, timestep = draw_noise_and_timestep(latents.shape, scheduler, generator, noise_offset)
            noise, timestep = noise.to(latents), timestep.to(latents.device)
            losses = embedding_loss(unet, scheduler, latents, mask, embeddings, noise, timestep, precision)
            loss = optimizer_step(losses.sum()) / len(embeddings)
            if on_step:
                on_step(Step(index, steps, loss=loss))
    return embeddings.map(torch.Tensor.detach)


def edit_embedding(object_embedding: Condition, background_embedding: Condition, alpha: float) -> Condition:
    """Eq. 2: e_opt = α·ê_a + (1 − α)·ê_b."""
    return object_embedding.map(lambda own, other: alpha * own + (1 - alpha) * other, background_embedding)
