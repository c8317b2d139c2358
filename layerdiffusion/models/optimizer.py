"""Adam for training in mixed precision: float32 values beside half-precision networks, overflows, and reports."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable
from functools import partial
from typing import Protocol

import torch
from torch import Tensor

from layerdiffusion.progress import OnStep, Step

MOST_OVERFLOWS = 12  # from 65,536 the scale is then 16: what overflows still does so for another reason
MOST_WAITING, LONGEST_WAIT = 25, 0.5  # steps and seconds for which a GPU's losses are not fetched
PART = 2**27  # gradients that are float32 at once beside half-precision weights: 0.5 GiB


class OptimizerFactory(Protocol):
    """`torch.optim.Adam`, or a class or partial with its interface."""

    def __call__(self, params: Iterable[Tensor], *, lr: float) -> torch.optim.Optimizer: ...


class OptimizerStep:
    """Adam on float32 `parameters`, and the report of each of `steps` steps to `on_step`.

    `optimizer` is called as `optimizer(parameters, lr=lr)`: `torch.optim.Adam` or one with its interface; None:
    Adam, on CUDA or a CPU as one kernel. The backward pass of a network that computes in float16 is scaled up, so that
    small gradients survive it. Where a network computes with rounded copies of `parameters`, these are `half`: they get
    the gradients, and new values after each step.

    A GPU works behind the program that asks it, and to read a loss is to wait for all that is queued. There the losses
    are fetched `MOST_WAITING` at a time, or after `LONGEST_WAIT` seconds, and reported then; on a CPU each at once.
    """

    def __init__(
        self,
        parameters: Iterable[Tensor],
        lr: float,
        precision: torch.dtype = torch.float32,
        optimizer: OptimizerFactory | None = None,
        *,
        half: Iterable[Tensor] = (),
        steps: int = 1,
        on_step: OnStep | None = None,
    ) -> None:
        self.parameters = list(parameters)
        device = self.parameters[0].device
        adam = partial(torch.optim.Adam, fused=device.type in ("cuda", "cpu"))
        self.optimizer = (optimizer or adam)(self.parameters, lr=lr)
        self.scaler = torch.amp.GradScaler(device.type, enabled=precision == torch.float16)
        self.most_waiting = 1 if device.type == "cpu" else MOST_WAITING
        self.overflows = 0  # steps left out in a row
        # The scaler looks at all gradients before any is used; else they become float32 a part at a time.
        self._parts = _parts(self.parameters, list(half), math.inf if self.scaler.is_enabled() else PART)
        self._one, self._scale = torch.ones((), device=device), self.scaler.get_scale()
        self._steps, self._done, self._on_step = steps, 0, on_step
        self._waiting: list[Tensor] = []  # of each step not yet reported: its loss, and the scale after it
        self._fetched = time.perf_counter()

    def __call__(self, loss: Tensor, reported: Tensor | None = None) -> None:
        """One step down the gradient of `loss`, a scalar; None: what is `reported` is the loss itself.

        Raises `FloatingPointError` when a loss that is fetched is no longer a number, or when float16 has overflowed
        `MOST_OVERFLOWS` times in a row.
        """
        self.scaler.scale(loss).backward()
        for parameters, half in self._parts:
            _hand_over(half, parameters)
            self.scaler.step(self.optimizer)
            # Freed now, not before the next backward: they would lie beside the activations of the next forward pass.
            self.optimizer.zero_grad(set_to_none=True)
            if half:
                with torch.no_grad():
                    torch._foreach_copy_(half, parameters)
        self.scaler.update()
        self._done += 1
        shown = (loss if reported is None else reported).detach().float()
        self._waiting.append(torch.stack([shown, self.scaler.scale(self._one)]))
        late = time.perf_counter() - self._fetched > LONGEST_WAIT
        if late or len(self._waiting) >= self.most_waiting or self._done == self._steps:
            self._report()

    def _report(self) -> None:
        fetched = torch.stack(self._waiting).tolist()
        first = self._done - len(fetched) + 1
        self._waiting, self._fetched = [], time.perf_counter()
        for index, (loss, scale) in enumerate(fetched, first):
            # In float16 a single overflow is ordinary: the scaler leaves that step out and halves its scale.
            self.overflows = self.overflows + 1 if scale < self._scale else 0
            self._scale = scale
            if self.overflows >= MOST_OVERFLOWS:
                raise FloatingPointError("float16 overflows at every step")
            if not math.isfinite(loss) and not self.scaler.is_enabled():
                raise FloatingPointError("the loss is no longer a finite number")
            if self._on_step:
                self._on_step(Step(index, self._steps, loss=loss))


def _hand_over(half: list[Tensor], parameters: list[Tensor]) -> None:
    """The gradients of `half` become float32 ones of `parameters`, in few kernels."""
    found = [(rounded, rounded.grad, parameter) for rounded, parameter in zip(half, parameters, strict=False)]
    given = [(gradient, torch.empty_like(parameter)) for _, gradient, parameter in found if gradient is not None]
    if given:
        torch._foreach_copy_([own for _, own in given], [gradient for gradient, _ in given])
    own = iter(given)
    for rounded, gradient, parameter in found:
        parameter.grad, rounded.grad = None if gradient is None else next(own)[1], None


def _parts(parameters: list[Tensor], half: list[Tensor], most: float) -> list[tuple[list[Tensor], list[Tensor]]]:
    """The pairs of parameters and their rounded copies in groups of about `most` numbers."""
    groups: list[tuple[list[Tensor], list[Tensor]]] = [([], [])]
    if not half:
        return [(parameters, [])]
    for pair in zip(parameters, half, strict=True):
        if sum(parameter.numel() for parameter in groups[-1][0]) > most:
            groups.append(([], []))
        for group, tensor in zip(groups[-1], pair, strict=True):
            group.append(tensor)
    return groups
