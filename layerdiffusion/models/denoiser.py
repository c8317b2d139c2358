"""f(x_t, t, e): a network's prediction in the precision that its device is good at."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable
from functools import partial
from typing import Any, Protocol, cast

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from layerdiffusion.models.family import Condition
from layerdiffusion.models.oom import is_out_of_memory

log = logging.getLogger(__name__)


class Checkpointed(Protocol):
    """A diffusers network that can compute its activations again instead of keeping them."""

    def enable_gradient_checkpointing(self, func: object = None, /) -> None: ...


class Denoiser:
    """The model's prediction, float32 whatever it is computed in.

    `precision` is the network's own where its weights have it already; else it computes under autocast, which costs a
    conversion of each weight. With `compile` it is compiled for CUDA graphs; see `compiled`.
    """

    def __init__(self, unet: nn.Module, precision: torch.dtype = torch.float32, compile: bool = False) -> None:
        self.unet, self.precision = unet, precision
        self._call: Callable[..., Any] = compiled(unet) if compile else unet

    def __call__(self, latents: Tensor, timesteps: Tensor, condition: Condition) -> Tensor:
        """f(x_t, t, e) for latents (B, C, h, w) at timesteps (B,) or (), of the same shape."""
        weight = next(self.unet.parameters(), None)
        if weight is not None and weight.dtype == self.precision:
            latents, condition = latents.to(self.precision), condition.map(lambda tensor: tensor.to(self.precision))
            return condition.ask(self._call, latents, timesteps).float()
        with autocast(latents.device, self.precision):
            return condition.ask(self._call, latents, timesteps).float()


def autocast(device: torch.device, precision: torch.dtype) -> contextlib.AbstractContextManager[object]:
    """Mixed precision for `precision` bfloat16 or float16; for float32, nothing."""
    if precision == torch.float32:
        return contextlib.nullcontext()
    return torch.autocast(device.type, dtype=precision)


def compiled(network: nn.Module) -> Callable[..., Any]:
    """The network's call, compiled by torch and replayed as a CUDA graph; where that fails, eager from then on."""
    call: Callable[..., Any] = torch.compile(network, mode="reduce-overhead", dynamic=False)

    def compiled_or_eager(*inputs: Tensor, **arguments: Tensor) -> Any:
        nonlocal call
        if call is network:
            return network(*inputs, **arguments)
        try:
            if inputs[0].is_cuda:  # what an earlier replay gave is no longer needed, and may be overwritten
                torch.compiler.cudagraph_mark_step_begin()
            return call(*inputs, **arguments)
        except Exception as error:  # torch's and a compiler's, of any kind
            if is_out_of_memory(error):
                raise
            reason = str(error).partition("\n")[0] or type(error).__name__
            log.warning("The network runs eager: it can't be compiled (%s).", reason)
            call = network
            return network(*inputs, **arguments)

    return compiled_or_eager


def enable_checkpointing(unet: nn.Module) -> None:
    """Compute the network's activations again in its backward pass instead of keeping them.

    It has no dropout, so there is no random state to put back.
    """
    network = cast(Checkpointed, unet)
    network.enable_gradient_checkpointing(partial(checkpoint, use_reentrant=False, preserve_rng_state=False))
