"""The network compiled by torch while it is in use: it runs as it is until that is done."""

from __future__ import annotations

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

    def attach(self, network: nn.Module) -> nn.Module:
        """The network, compiled where that is done for what it is called with; it shares all weights. No gradients."""
        return _Attached(self, network, torch.compile(network.forward, backend=self._backend, dynamic=False))

    def ready(self, inputs: dict[str, Any], network: nn.Module, compiled: Callable[..., Any]) -> bool:
        """Whether to call `compiled` with `inputs`; where nobody has asked before, it is begun."""
        shapes = _shapes(inputs)
        with self._lock:
            if shapes in self._ready:
                return True
            if self.failed or shapes in self._asked:
                return False
            self._asked.add(shapes)
            copies = _copied(inputs)
            thread = threading.Thread(target=self._compile, args=(shapes, copies, network, compiled), daemon=True)
            self._working = [*filter(threading.Thread.is_alive, self._working), thread]
        thread.start()
        return False

    def wait(self) -> None:
        """Until all that was asked for is compiled, or has failed."""
        for thread in self._working:
            thread.join()

    def _compile(
        self, shapes: Shapes, inputs: dict[str, Any], network: nn.Module, compiled: Callable[..., Any]
    ) -> None:
        try:
            with torch.no_grad():
                expected, found = (call(**inputs).sample.float() for call in (network, compiled))
            if not torch.allclose(found, expected, rtol=0, atol=TOLERANCE * float(expected.abs().max())):
                raise ArithmeticError("compiled, it comes to something else")
        except Exception as error:  # torch's and a compiler's, of any kind
            self.failed = True
            reason = " ".join(str(error).split("\n")[:2])  # torch names its backend first, then what that said
            log.warning("The network runs as it is: it can't be compiled (%s).", reason or type(error).__name__)
            return
        with self._lock:
            self._ready.add(shapes)


class _Attached(nn.Module):
    def __init__(self, compiler: Compiler, network: nn.Module, compiled: Callable[..., Any]) -> None:
        super().__init__()
        self.network, self._compiler, self._compiled = network, compiler, compiled

    def forward(self, sample: Tensor, timestep: Tensor, **arguments: Any) -> Any:
        inputs = {"sample": sample, "timestep": timestep, **arguments}
        call = self._compiled if self._compiler.ready(inputs, self.network, self._compiled) else self.network
        return call(**inputs)


def _shapes(value: object) -> Shapes:
    if isinstance(value, Tensor):
        return tuple(value.shape), value.dtype, value.device
    if isinstance(value, dict):
        return tuple((name, _shapes(each)) for name, each in value.items())
    return (repr(value),)


def _copied(value: Any) -> Any:
    """The same tensors with their own memory: the caller's may be overwritten meanwhile."""
    if isinstance(value, Tensor):
        return value.clone()
    return {name: _copied(each) for name, each in value.items()} if isinstance(value, dict) else value
