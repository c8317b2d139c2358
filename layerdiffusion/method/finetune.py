"""§3.2.2, layered diffusion training: the network tuned to subject and background at once, Eqs. 3–5."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from layerdiffusion.method.objective import draws, masked_loss, off_subject, prediction_target
from layerdiffusion.method.types import NoiseScheduler
from layerdiffusion.models.family import Condition
from layerdiffusion.models.tuning import TunedNetwork, Weights
from layerdiffusion.progress import OnStep


@dataclass(frozen=True)
class TrainingLayers:
    """What stage 2 trains on: `latents` (B, C, h, w), and masks (B, 1, h, w) of where each term looks."""

    latents: Tensor
    object_mask: Tensor  # M_t: 1 on the subject
    background_mask: Tensor  # 1 − M_r: 1 on the background


def composite_layers(latents: Tensor, object_mask: Tensor) -> TrainingLayers:
    """One picture (1, C, h, w) for both terms, the subject laid over the background; they share it out."""
    return TrainingLayers(latents, object_mask, off_subject(object_mask))


def separate_layers(
    object_latents: Tensor, object_mask: Tensor, background_latents: Tensor, background_mask: Tensor
) -> TrainingLayers:
    """Each term noises its own picture under its own mask: a batch of two.

    `background_mask`, M_r, is 1 on the background picture's own subject.
    """
    nothing = torch.zeros_like(object_mask)
    return TrainingLayers(
        torch.cat([object_latents, background_latents]),
        torch.cat([object_mask, nothing]),
        torch.cat([nothing, off_subject(background_mask)]),
    )


def object_loss(prediction: Tensor, target: Tensor, layers: TrainingLayers) -> Tensor:
    """Eq. 3: L_obj = mean(M_t² · (ε − f(x_t))²), a scalar."""
    return masked_loss(prediction, target, layers.object_mask).sum()


def background_loss(prediction: Tensor, target: Tensor, layers: TrainingLayers) -> Tensor:
    """Eq. 4: L_bg = mean((1 − M_r)² · (ε − f(x_t))²), a scalar."""
    return masked_loss(prediction, target, layers.background_mask).sum()


def total_loss(
    prediction: Tensor, target: Tensor, layers: TrainingLayers, object_weight: float, background_weight: float
) -> Tensor:
    """Eq. 5: L_total = λ1 · L_obj + λ2 · L_bg; a weight of 0 takes its term out altogether."""
    loss = prediction.new_zeros(())
    if object_weight:
        loss = loss + object_weight * object_loss(prediction, target, layers)
    if background_weight:
        loss = loss + background_weight * background_loss(prediction, target, layers)
    return loss


def _without_idle_pictures(layers: TrainingLayers, object_weight: float, background_weight: float) -> TrainingLayers:
    """The pictures that some term looks at; with a weight of 0, `separate` has one that none does."""
    looked_at = layers.object_mask * bool(object_weight) + layers.background_mask * bool(background_weight)
    used = looked_at.flatten(1).any(1)
    if used.all() or not used.any():
        return layers
    return TrainingLayers(layers.latents[used], layers.object_mask[used], layers.background_mask[used])


def finetune(
    network: TunedNetwork,
    scheduler: NoiseScheduler,
    layers: TrainingLayers,
    edit_embedding: Condition,
    *,
    object_weight: float,
    background_weight: float,
    steps: int,
    lr: float,
    generator: torch.Generator,
    noise_offset: float = 0.0,
    draws_a_step: int = 1,
    on_step: OnStep | None = None,
) -> Weights:
    """§3.2.2: the weights that `steps` of Adam on Eq. 5 lead to, conditioned on `edit_embedding`, e_opt.

    `network` is trained, a copy of the model's own; its float32 weights by name come back, for `with_weights`. Both
    terms share t and ε. `noise_offset`, 0 in the paper, is that of `draw_noise_and_timestep`; a step goes by the mean
    of `draws_a_step` draws, 1 in the paper.
    """
    condition = edit_embedding.map(torch.Tensor.detach).float()
    layers = _without_idle_pictures(layers, object_weight, background_weight)
    shape, device, pictures = (1, *layers.latents.shape[1:]), layers.latents.device, len(layers.latents)
    layers = TrainingLayers(*(part.repeat(draws_a_step, 1, 1, 1) for part in vars(layers).values()))
    drawn = draws(shape, scheduler, generator, device, steps=steps, each=draws_a_step, noise_offset=noise_offset)
    optimizer_step = network.optimizer_step(lr, steps, on_step)
    for noise, timesteps in drawn:
        noise, timesteps = noise.repeat_interleave(pictures, 0), timesteps.repeat_interleave(pictures)
        noisy = scheduler.add_noise(layers.latents, noise, timesteps)
        target = prediction_target(scheduler, layers.latents, noise, timesteps)
        prediction = network(noisy, timesteps, condition.expand(len(noisy)))
        optimizer_step(total_loss(prediction, target, layers, object_weight, background_weight) / draws_a_step)
    return network.weights
