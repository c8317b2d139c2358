"""Networks that are tuned: copies in training, LoRA adapters, and networks that share memory with the original."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from layerdiffusion.models.denoiser import Denoiser, enable_checkpointing
from layerdiffusion.models.family import LORA_TARGETS, LoraTargets
from layerdiffusion.models.optimizer import OptimizerFactory, OptimizerStep
from layerdiffusion.progress import OnStep

LORA_RANK = 16
LORA_LR_FACTOR = 50  # the paper's 2e-6 becomes 1e-4, what diffusers' LoRA training scripts use

Weights = dict[str, Tensor]


class TunedNetwork(Denoiser):
    """A copy of `unet` in training, on `device`: all of its weights, or with `lora` adapters beside `targets`.

    Weights in training are float32 whatever `unet` is: steps of 2e-6 are below the rounding of a bfloat16 or float16
    weight. With `rounded` the network computes without autocast, by weights that are rounded to `precision` after each
    step. It goes on from the weights `start`, an earlier result; `seed` is that of new adapters.
    """

    def __init__(
        self,
        unet: nn.Module,
        device: torch.device,
        precision: torch.dtype = torch.float32,
        *,
        lora: bool = False,
        targets: LoraTargets = LORA_TARGETS,
        seed: int = 0,
        rounded: bool = False,
        start: Weights | None = None,
        optimizer: OptimizerFactory | None = None,
        checkpointing: bool = False,
        compile: bool = False,
    ) -> None:
        tuned = _with_new_adapters(unet, device, seed, targets) if lora else _float32_copy(unet, device)
        self.checkpointing = checkpointing
        if checkpointing:
            enable_checkpointing(tuned)
        super().__init__(tuned.train(), precision, compile)
        named = {name: parameter for name, parameter in tuned.named_parameters() if parameter.requires_grad}
        self.weights: Weights = {name: parameter.detach() for name, parameter in named.items()}
        for name, weight in (start or {}).items():
            self.weights[name].copy_(weight)
        self._half = _halve(tuned, precision) if rounded else []
        self._trained = (self.weights if self._half else named).values()
        self._optimizer, self._lr_factor = optimizer, LORA_LR_FACTOR if lora else 1

    def optimizer_step(self, lr: float, steps: int, on_step: OnStep | None = None) -> OptimizerStep:
        """Adam on the weights in training, for LoRA at `LORA_LR_FACTOR` times `lr`."""
        rate = lr * self._lr_factor
        return OptimizerStep(
            self._trained, rate, self.precision, self._optimizer, half=self._half, steps=steps, on_step=on_step
        )


def with_weights(unet: nn.Module, weights: Weights) -> nn.Module:
    """A network of `unet`'s structure with the `weights` of a `TunedNetwork`, in evaluation mode, without gradients.

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


def with_adapters(unet: nn.Module, weights: Weights, targets: LoraTargets) -> nn.Module:
    """As `with_weights`, but with adapters beside their layers, in the network's own type.

    All of the network's own memory is shared, where merged layers would be a second copy, and what training moved is
    not rounded to bfloat16's few digits of the weights it would be added to.
    """
    tuned = _copy(unet, lambda parameter: parameter)
    _add_adapters(tuned, targets)
    for name, parameter in tuned.named_parameters():
        if name in weights:
            parameter.data = weights[name].to(parameter.device, parameter.dtype)
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


def _with_new_adapters(unet: nn.Module, device: torch.device, seed: int, targets: LoraTargets) -> nn.Module:
    generator, tuned = torch.Generator().manual_seed(seed), _copy(unet, lambda tensor: tensor.to(device))
    _add_adapters(tuned, targets)
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


def _add_adapters(unet: nn.Module, targets: LoraTargets) -> None:
    from peft import LoraConfig, inject_adapter_in_model

    names = targets if isinstance(targets, str) else list(targets)
    config = LoraConfig(r=LORA_RANK, lora_alpha=LORA_RANK, target_modules=names)
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
