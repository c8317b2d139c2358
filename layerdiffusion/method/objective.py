"""Eq. 1, the denoising objective under a mask, and what all three stages share around it.

Shapes: B pictures, C latent channels, latent grid h × w, L tokens of width D. Noise schedule and prediction
type are the model's own, read from its `DDIMScheduler`. Words
come as a `Condition`, whatever a model's family makes of them.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import cast

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from layerdiffusion.method.types import Checkpointed, NoiseScheduler, OptimizerFactory
from layerdiffusion.models.family import Condition

MOST_OVERFLOWS = 12  # from 65,536 the scale is then 16: what overflows still does so for another reason
MOST_WAITING, LONGEST_WAIT = 25, 0.5  # steps and seconds for which a GPU's losses are not fetched
UPLOADED = 100  # draws that go to a device together: an upload waits for all that is queued there
PART = 2**27  # gradients that are float32 at once beside half-precision weights: 0.5 GiB


@dataclass(frozen=True)
class Step:
    """What a stage hands to its `on_step` callback after each step; `index` counts from 1 to `steps`."""

    index: int
    steps: int
    loss: float | None = None  # stages 1 and 2: what was minimised, before this step's update
    x0: Tensor | None = None  # stage 3: (B, C, h, w), the clean latents predicted at this step


OnStep = Callable[[Step], None]


def draw_noise_and_timestep(
    shape: tuple[int, ...], scheduler: NoiseScheduler, generator: torch.Generator, noise_offset: float = 0.0
) -> tuple[Tensor, Tensor]:
    """One ε of `shape` (1, C, h, w), then one t (1,), uniform over the whole noise schedule.

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
    timestep = torch.randint(0, steps, (1,), generator=generator, device=generator.device)
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


def predict(
    unet: nn.Module, latents: Tensor, timesteps: Tensor, condition: Condition, precision: torch.dtype
) -> Tensor:
    """f(x_t, t, e): the model's prediction, (B, C, h, w), float32, computed in `precision`.

    That is the network's own where its weights have it already; else it computes under autocast, which costs a
    conversion of each weight.
    """
    weight = next(unet.parameters(), None)
    if weight is not None and weight.dtype == precision:
        latents, condition = latents.to(precision), condition.map(lambda tensor: tensor.to(precision))
        return unet(latents, timesteps, **condition.arguments(latents)).sample.float()
    with autocast(latents.device, precision):
        return unet(latents, timesteps, **condition.arguments(latents)).sample.float()


def prediction_target(scheduler: NoiseScheduler, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
    """What f is compared with: ε for an epsilon model, and the model's own target for any other.

    A v-prediction model outputs v = √ᾱ·ε − √(1−ᾱ)·x0, and given x_t, v − v̂ = (ε − ε̂) / √ᾱ: the same error,
    weighted as in that model's own training. Dividing it back would train the noisiest steps by next to
    nothing.
    """
    kind = scheduler.config.prediction_type
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


def autocast(device: torch.device, precision: torch.dtype) -> contextlib.AbstractContextManager[object]:
    """Mixed precision for `precision` bfloat16 or float16; for float32, nothing."""
    if precision == torch.float32:
        return contextlib.nullcontext()
    return torch.autocast(device.type, dtype=precision)


class OptimizerStep:
    """Adam on float32 `parameters`, and the report of each of `steps` steps to `on_step`.

    `optimizer` is called as `optimizer(parameters, lr=lr)`: `torch.optim.Adam` or one with its interface; None:
    Adam, on CUDA or a CPU as one kernel. A float16 backward is scaled up, so that small gradients survive it. Where
    the network computes with rounded copies of `parameters`, these are `half`: they get the gradients, and new
    values after each step.

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
        # As one kernel: a step of the miniature's stage 2 takes a CPU 114 ms so, and 134 ms with many.
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

    def __call__(self, loss: Tensor) -> None:
        """One step down the gradient of `loss`, a scalar.

        Raises `FloatingPointError` when a loss that is fetched is no longer a number, or when float16 has overflowed
        `MOST_OVERFLOWS` times in a row.
        """
        self.scaled(loss).backward()
        self.update(loss)

    def scaled(self, loss: Tensor) -> Tensor:
        """What to take the gradients of, for `update`."""
        return self.scaler.scale(loss)

    def update(self, loss: Tensor) -> None:
        """The step along the gradients of `scaled`, and the report of `loss`, a scalar."""
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
        self._waiting.append(torch.stack([loss.detach().float(), self.scaler.scale(self._one)]))
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


@contextlib.contextmanager
def train_mode(module: nn.Module, mode: bool = True) -> Iterator[nn.Module]:
    """Put the module into training (or evaluation) mode, and each of its parts back as it was."""
    before = [(part, part.training) for part in module.modules()]
    try:
        yield module.train(mode)
    finally:
        for part, training in before:
            part.training = training


@contextlib.contextmanager
def frozen(module: nn.Module) -> Iterator[nn.Module]:
    """Evaluation mode and no gradient to any parameter, and each back as it was."""
    before = [(parameter, parameter.requires_grad) for parameter in module.parameters()]
    try:
        with train_mode(module, False):
            yield module.requires_grad_(False)
    finally:
        for parameter, requires_grad in before:
            parameter.requires_grad_(requires_grad)


@contextlib.contextmanager
def checkpointed(unet: nn.Module, on: bool) -> Iterator[None]:
    """Compute the network's activations again in its backward pass instead of holding them, where this is `on`.

    It has no dropout: with no random state to put back, a CUDA graph can hold it.
    """
    if not on:
        yield
        return
    network = cast(Checkpointed, unet)
    network.enable_gradient_checkpointing(partial(checkpoint, use_reentrant=False, preserve_rng_state=False))
    try:
        yield
    finally:
        network.disable_gradient_checkpointing()
