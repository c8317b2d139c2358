"""The network compiled by torch while it is in use: it runs as it is until that is done."""

from __future__ import annotations

import copy
import logging
import threading
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

log = logging.getLogger(__name__)
Shapes = tuple[object, ...]
TOLERANCE = 0.05  # between compiled and not, of the largest number: half precision is rounded elsewhere


class Compiler:
    """Compiles networks of one structure for the shapes that they meet, each in the background and once.

    torch finds what it has compiled by structure and shapes, not by weights: it serves every network tuned later, and
    the kernels on disk (`TORCHINDUCTOR_CACHE_DIR`) the next start. What can't be compiled, or comes to something else
    than the network as it is, leaves a line in the log, and nothing is tried again. `backend` is torch.compile's.
    """

    def __init__(self, backend: str | Callable[..., Any] = "inductor") -> None:
        self._backend = backend
        self._lock = threading.Lock()
        self._ready: set[Shapes] = set()
        self._asked: set[Shapes] = set()
        self._working: list[threading.Thread] = []
        self.failed = False

    def attach(self, network: nn.Module, training: bool = False) -> nn.Module:
        """The network, compiled where that is done for what it is called with; it shares all weights.

        Without `training` it takes no gradients.
        """
        return _Attached(self, network, self.compiled(network), training)

    def compiled(self, network: nn.Module) -> Callable[..., Any]:
        """torch's wrapper of the network, which compiles in the call that is the first of its kind."""
        return torch.compile(network.forward, backend=self._backend, dynamic=False)

    def ready(self, inputs: dict[str, Any], network: nn.Module, training: bool) -> bool:
        """Whether to call the network compiled with `inputs`; where nobody has asked before, it is begun."""
        kind = training, _shapes(inputs), _shapes(dict(network.named_parameters())) if training else ()
        with self._lock:
            if kind in self._ready:
                return True
            if self.failed or kind in self._asked:
                return False
            self._asked.add(kind)
            copies = _copied(inputs)
            if training:  # its weights are trained meanwhile
                network = copy.deepcopy(network)
            thread = threading.Thread(target=self._compile, args=(kind, copies, network, training), daemon=True)
            self._working = [*filter(threading.Thread.is_alive, self._working), thread]
        thread.start()
        return False

    def wait(self) -> None:
        """Until all that was asked for is compiled, or has failed."""
        for thread in self._working:
            thread.join()

    def _compile(self, kind: Shapes, inputs: dict[str, Any], network: nn.Module, training: bool) -> None:
        try:
            calls = network, self.compiled(network)
            for expected, found in zip(*(_outcome(call, inputs, network, training) for call in calls), strict=True):
                if not torch.allclose(found, expected, rtol=0, atol=TOLERANCE * float(expected.abs().max())):
                    raise ArithmeticError("compiled, it comes to something else")
        except Exception as error:  # torch's and a compiler's, of any kind
            self.failed = True
            reason = " ".join(str(error).split("\n")[:2])  # torch names its backend first, then what that said
            log.warning("The network runs as it is: it can't be compiled (%s).", reason or type(error).__name__)
            return
        with self._lock:
            self._ready.add(kind)


class _Attached(nn.Module):
    def __init__(self, compiler: Compiler, network: nn.Module, compiled: Callable[..., Any], training: bool) -> None:
        super().__init__()
        self.network, self._compiler, self._compiled, self._trained = network, compiler, compiled, training

    def forward(self, sample: Tensor, timestep: Tensor, **arguments: Any) -> Any:
        inputs = {"sample": sample, "timestep": timestep, **arguments}
        # torch compiles anew under autocast, and would do it here and now.
        plain = torch.is_autocast_enabled(sample.device.type)
        compiled = not plain and self._compiler.ready(inputs, self.network, self._trained)
        return (self._compiled if compiled else self.network)(**inputs)


def _outcome(call: Callable[..., Any], inputs: dict[str, Any], network: nn.Module, training: bool) -> list[Tensor]:
    """What a call comes to, and in training the gradients of its mean square, in float32."""
    with torch.set_grad_enabled(training):
        sample = call(**inputs).sample.float()
        trained = [parameter for parameter in network.parameters() if parameter.requires_grad] if training else []
        gradients = torch.autograd.grad(sample.square().mean(), trained, allow_unused=True) if trained else ()
    return [sample.detach(), *(gradient.float() for gradient in gradients if gradient is not None)]


def _shapes(value: object) -> Shapes:
    if isinstance(value, Tensor):
        return tuple(value.shape), value.dtype, value.device, value.requires_grad
    if isinstance(value, dict):
        return tuple((name, _shapes(each)) for name, each in value.items())
    return (repr(value),)


def _copied(value: Any) -> Any:
    """The same tensors with their own memory: the caller's may be overwritten meanwhile."""
    if isinstance(value, Tensor):
        return value.detach().clone().requires_grad_(value.requires_grad)
    return {name: _copied(each) for name, each in value.items()} if isinstance(value, dict) else value
