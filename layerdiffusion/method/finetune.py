"""§3.2.2, layered diffusion training: the network tuned to subject and background at once, Eqs. 3–5."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from layerdiffusion.method.objective import (
    OnStep,
    OptimizerStep,
    checkpointed,
    draws,
    masked_loss,
    off_subject,
    predict,
    prediction_target,
    train_mode,
)
from layerdiffusion.method.types import NoiseScheduler, OptimizerFactory
from layerdiffusion.models.family import Condition

LORA_RANK = 16
LORA_LR_FACTOR = 50  # the paper's 2e-6 becomes 1e-4, what diffusers' LoRA training scripts use
LORA_TARGETS = ("to_q", "to_k", "to_v", "to_out.0")
Weights = dict[str, Tensor]


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
    unet: nn.Module,
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
    tune: str = "full",
    precision: torch.dtype = torch.float32,
    rounded: bool = False,
    optimizer: OptimizerFactory | None = None,
    checkpointing: bool = False,
    start: Weights | None = None,
    compiled: Callable[[nn.Module], nn.Module] | None = None,
    on_step: OnStep | None = None,
) -> Weights:
    """§3.2.2: the weights that `steps` of Adam on Eq. 5 lead to, conditioned on `edit_embedding`, e_opt.

    `unet` itself is left as it is: a copy is tuned, on the latents' device. With `tune="full"` its weights are
    float32 whatever `unet` is, and so is what it returns, every parameter by name: steps of 2e-6 are below the
    rounding of a bfloat16 or float16 weight. With `tune="lora"` low-rank adapters beside the attention projections
    are tuned, at `LORA_LR_FACTOR` times `lr`, and only they are returned. `with_weights` puts either back into a
    network. With `rounded`, the network computes without autocast, by weights that are rounded to `precision` after
    each step; those returned are float32 all the same. Both terms share t and ε; `noise_offset`, 0 in the paper, is
    that of `draw_noise_and_timestep`; a step goes by the mean of `draws_a_step` draws, 1 in the paper, computed by
    what `compiled` makes of the copy. It goes on from `start`, an earlier result. Without steps it is empty.
    """
    if not steps or not (object_weight or background_weight):
        return {}
    device, lora = layers.latents.device, tune == "lora"
    # The adapters' starting values have their own generator: both ways of tuning then see the same noise.
    starts = torch.Generator().manual_seed(generator.initial_seed())
    tuned = _with_new_adapters(unet, device, starts) if lora else _float32_copy(unet, device)
    named = {name: parameter for name, parameter in tuned.named_parameters() if parameter.requires_grad}
    weights: Weights = {name: parameter.detach() for name, parameter in named.items()}
    for name, weight in (start or {}).items():
        weights[name].copy_(weight)
    half = _halve(tuned, precision) if rounded else []
    trained, rate = (weights if half else named).values(), lr * LORA_LR_FACTOR if lora else lr
    optimizer_step = OptimizerStep(trained, rate, precision, optimizer, half=half, steps=steps, on_step=on_step)
    condition = edit_embedding.map(torch.Tensor.detach).float()
    layers = _without_idle_pictures(layers, object_weight, background_weight)
    shape, pictures = (1, *layers.latents.shape[1:]), len(layers.latents)
    layers = TrainingLayers(*(part.repeat(draws_a_step, 1, 1, 1) for part in vars(layers).values()))
    drawn = draws(shape, scheduler, generator, device, steps=steps, each=draws_a_step, noise_offset=noise_offset)
    network = tuned if compiled is None else compiled(tuned)
    with checkpointed(tuned, checkpointing), train_mode(tuned):
        for noise, timesteps in drawn:
            noise, timesteps = noise.repeat_interleave(pictures, 0), timesteps.repeat_interleave(pictures)
            noisy = scheduler.add_noise(layers.latents, noise, timesteps)
            target = prediction_target(scheduler, layers.latents, noise, timesteps)
            prediction = predict(network, noisy, timesteps, condition.expand(len(noisy)), precision)
            optimizer_step(total_loss(prediction, target, layers, object_weight, background_weight) / draws_a_step)
    return weights


def with_weights(unet: nn.Module, weights: Weights) -> nn.Module:
    """A network of `unet`'s structure with `weights` from `finetune`, in evaluation mode, without gradients.

    It shares with `unet` the memory of every parameter that `weights` doesn't change, and changes none of it. Adapters
    are merged, W + B·A, computed in float32, so that they cost nothing when sampling.
    """
    tuned = _copy(unet, lambda parameter: parameter)
    parameters = dict(tuned.named_parameters())
    for name, weight in weights.items():
        if ".lora_B." in name:  # merged beside its lora_A
            continue
        if ".lora_A." in name:
            name, down, up = name.split(".lora_A.")[0] + ".weight", weight, weights[name.replace("lora_A", "lora_B")]
            old = parameters[name]
            weight = old.float() + up.to(old.device).float() @ down.to(old.device).float()
        old = parameters[name]
        parameters[name].data = weight.to(old.device, old.dtype).contiguous(memory_format=_memory_format(old))
    return tuned.requires_grad_(False).eval()


def in_precision(unet: nn.Module, precision: torch.dtype) -> nn.Module:
    """A network with the same weights, rounded to `precision`; those that have it already are shared."""
    return _copy(unet, lambda tensor: tensor.to(precision))


def _float32_copy(unet: nn.Module, device: torch.device) -> nn.Module:
    tuned = _copy(unet, lambda tensor: tensor.to(device, torch.float32, copy=True))
    return tuned.requires_grad_(True)


def _halve(unet: nn.Module, precision: torch.dtype) -> list[Tensor]:
    """Round the network's weights to `precision`, and return those in training."""
    for parameter in unet.parameters():
        parameter.data = parameter.data.to(precision)
    return [parameter for parameter in unet.parameters() if parameter.requires_grad]


def _with_new_adapters(unet: nn.Module, device: torch.device, generator: torch.Generator) -> nn.Module:
    tuned = _copy(unet, lambda tensor: tensor.to(device))
    _add_adapters(tuned)
    for name, parameter in tuned.named_parameters():
        if ".lora_" not in name:
            continue
        parameter.data = parameter.data.float()  # peft gives them the type of the weight beside them
        parameter.requires_grad_(True)
        if ".lora_A." in name:  # as peft fills them, but from our generator; the lora_B start at zero
            start = torch.empty(parameter.shape)
            nn.init.kaiming_uniform_(start, a=math.sqrt(5), generator=generator)
            parameter.data.copy_(start)
    return tuned


def _add_adapters(unet: nn.Module) -> None:
    from peft import LoraConfig, inject_adapter_in_model

    config = LoraConfig(r=LORA_RANK, lora_alpha=LORA_RANK, target_modules=list(LORA_TARGETS))
    with torch.random.fork_rng(devices=[]):  # peft draws starting values that are not used
        inject_adapter_in_model(config, unet)


def _copy(unet: nn.Module, tensor: Callable[[Tensor], Tensor]) -> nn.Module:
    """The modules copied, with new parameters that hold `tensor(old)`; buffers too."""
    memo: dict[int, Tensor] = {id(old): tensor(old) for old in unet.buffers()}
    for parameter in unet.parameters():
        memo[id(parameter)] = nn.Parameter(tensor(parameter.detach()), requires_grad=False)
    return copy.deepcopy(unet, memo)


def _memory_format(tensor: Tensor) -> torch.memory_format:
    channels_last = tensor.dim() == 4 and tensor.is_contiguous(memory_format=torch.channels_last)
    return torch.channels_last if channels_last and not tensor.is_contiguous() else torch.contiguous_format
