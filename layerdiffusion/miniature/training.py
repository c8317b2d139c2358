"""The one training loop that every part of the miniature uses: timed, resumable to the step, averaged.

A part hands over its modules and a function that gives the loss of a step. Everything random in a step comes from the
generators the loop hands to it, seeded by (seed, step): a run that is stopped and resumed sees the batches it would
have seen.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from tqdm import tqdm

from layerdiffusion.models.profile import device_profile

OUTER = ("embedding", "conv_in", "conv_out", "norm")


@dataclass(frozen=True)
class Plan:
    """How long and how fast to train a part. `minutes` are wall time, those of earlier resumed runs not counted."""

    folder: Path
    minutes: float
    seed: int = 0
    device: str = "cpu"
    save_every: float = 120.0  # seconds


@dataclass(frozen=True)
class Rates:
    """The optimiser's knobs. The rate warms up, stays, and falls to zero over the last `cooldown` of the minutes."""

    lr: float
    weight_decay: float = 0.01
    betas: tuple[float, float] = (0.9, 0.99)
    warmup: int = 100
    cooldown: float = 0.25
    ema: float = 0.999
    clip: float = 1.0
    muon: bool = False  # orthogonalised updates (torch.optim.Muon) for the inner matrices and convolutions
    outer: tuple[str, ...] = OUTER  # parts of the names of weights that Muon leaves to AdamW

    def continued(self) -> Rates:
        """For training on from trained weights whose optimizer is gone: slower, with a shorter memory."""
        return replace(self, lr=self.lr / 2, warmup=20, ema=min(self.ema, 0.995), cooldown=0.5)


def autocast(device: str | torch.device) -> torch.autocast:
    """bfloat16 where the hardware multiplies it; emulated, a training step takes 25 times as long as in float32."""
    kind = torch.device(device).type
    native = kind == "cuda" or device_profile(device).precision == torch.bfloat16
    return torch.autocast(kind, torch.bfloat16, enabled=native)


class Muon(torch.optim.Optimizer):
    """Momentum made orthogonal (Jordan et al. 2024, https://kellerjordan.github.io/posts/muon/), in float32.

    `torch.optim.Muon` iterates in bfloat16, which a CPU without it emulates. Updates are scaled to AdamW's size
    (Liu et al. 2025, https://arxiv.org/abs/2502.16982), so that one learning rate serves both.
    """

    def __init__(self, params: Iterable[nn.Parameter], lr: float, weight_decay: float, momentum: float = 0.95):
        super().__init__(params, dict(lr=lr, weight_decay=weight_decay, momentum=momentum))

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for matrix in group["params"]:
                if matrix.grad is None:
                    continue
                state = self.state[matrix]
                buffer = state.setdefault("momentum_buffer", torch.zeros_like(matrix.grad))
                buffer.lerp_(matrix.grad, 1 - group["momentum"])
                update = orthogonalised(matrix.grad.lerp(buffer, group["momentum"]))
                matrix.mul_(1 - group["lr"] * group["weight_decay"])
                matrix.add_(update, alpha=-0.2 * group["lr"] * math.sqrt(max(matrix.shape)))


def orthogonalised(matrix: torch.Tensor, steps: int = 5) -> torch.Tensor:
    """U Vᵀ of the matrix U S Vᵀ, nearly: all singular values come out between about 0.7 and 1.2.

    Newton and Schulz's iteration with the quintic's coefficients of Muon's reference implementation. Every step
    multiplies by a polynomial of the Gram matrix, and these commute: of a matrix that is far wider than high, the small
    Gram matrix alone is iterated, and the matrix multiplied once.
    """
    a, b, c = 3.4445, -4.7750, 2.0315
    x = matrix.T if matrix.shape[0] > matrix.shape[1] else matrix
    x = x / x.norm().clamp_min(1e-7)
    gram = x @ x.T
    if x.shape[1] > 2 * x.shape[0]:
        identity = torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
        product = identity
        for step in range(steps):
            factor = torch.addmm(gram, gram, gram, beta=b, alpha=c) + a * identity
            product = factor @ product if step else factor
            gram = factor @ gram @ factor if step < steps - 1 else gram
        x = product @ x
    else:
        for _ in range(steps):
            x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
            gram = x @ x.T
    return x.T if matrix.shape[0] > matrix.shape[1] else x


class Optimizer:
    """AdamW, or Muon for every weight with two dimensions or more between the first layers and the last.

    Muon takes matrices: a convolution's weight is shown to it as (out, in × height × width), a view of the same memory.
    """

    def __init__(self, modules: nn.ModuleDict, rates: Rates):
        inner: list[nn.Parameter] = []
        outer: list[nn.Parameter] = []
        for name, parameter in modules.named_parameters():
            if parameter.requires_grad:
                matrix = rates.muon and parameter.ndim >= 2 and not any(word in name for word in rates.outer)
                (inner if matrix else outer).append(parameter)
        self.pairs = [(p, nn.Parameter(p.detach().view(p.shape[0], -1))) for p in inner]
        lr, decay = rates.lr, rates.weight_decay
        self.parts: list[torch.optim.Optimizer] = [
            torch.optim.AdamW(outer, lr, betas=rates.betas, weight_decay=decay, fused=True)
        ]
        if inner:
            self.parts.append(Muon([view for _, view in self.pairs], lr, decay))

    def step(self) -> None:
        for parameter, view in self.pairs:
            view.grad = None if parameter.grad is None else parameter.grad.view_as(view)
        for part in self.parts:
            part.step()

    def state_dict(self) -> list[dict]:
        return [part.state_dict() for part in self.parts]

    def load_state_dict(self, states: list[dict]) -> None:
        for part, state in zip(self.parts, states, strict=True):
            part.load_state_dict(state)


StepLoss = Callable[[int, np.random.Generator, torch.Generator], torch.Tensor]


class Averaged:
    """Exponential moving average of the modules' floating-point weights, in float32."""

    def __init__(self, modules: nn.ModuleDict, decay: float):
        self.decay = decay
        self.weights = {k: v.detach().float().clone() for k, v in modules.state_dict().items() if v.is_floating_point()}

    @torch.no_grad()
    def update(self, modules: nn.ModuleDict, step: int) -> None:
        # Early on a long memory would only remember the initial weights.
        decay = min(self.decay, (1 + step) / (10 + step))
        live = modules.state_dict()
        average = list(self.weights.values())
        torch._foreach_lerp_(average, [live[k].float() for k in self.weights], 1 - decay)


class _Run:
    """A training as its checkpoint has it: weights, their averages, optimizer, steps, seconds and the loss curve."""

    def __init__(self, part: str, modules: nn.ModuleDict, plan: Plan, rates: Rates) -> None:
        plan.folder.mkdir(parents=True, exist_ok=True)
        self.checkpoint, self.curve_file = plan.folder / f"{part}.pt", plan.folder / f"{part}.losses.json"
        self.modules, self.clip = modules, rates.clip
        self.parameters = [p for p in modules.parameters() if p.requires_grad]
        self.optimizer, self.average = Optimizer(modules, rates), Averaged(modules, rates.ema)
        self.step, self.seconds_before = 0, 0.0
        self.curve: list[list[float]] = []
        if self.checkpoint.exists():
            saved = torch.load(self.checkpoint, map_location=plan.device, weights_only=True)
            modules.load_state_dict(saved["modules"])
            self.average.weights = saved["average"]
            self.optimizer.load_state_dict(saved["optimizer"])
            self.step, self.seconds_before = saved["step"], saved["seconds"]
            self.curve = json.loads(self.curve_file.read_text()) if self.curve_file.exists() else []
        self.start = time.monotonic()

    @property
    def elapsed(self) -> float:
        """Seconds of this run, without those of the runs that it goes on from."""
        return time.monotonic() - self.start

    def update(self, loss: torch.Tensor) -> None:
        self.modules.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.parameters, self.clip)
        self.optimizer.step()
        self.step += 1
        self.average.update(self.modules, self.step)

    def save(self) -> None:
        state = {"modules": self.modules.state_dict(), "average": self.average.weights, "step": self.step,
                 "optimizer": self.optimizer.state_dict(), "seconds": self.seconds_before + self.elapsed}  # fmt: skip
        torch.save(state, self.checkpoint.with_suffix(".part"))
        os.replace(self.checkpoint.with_suffix(".part"), self.checkpoint)
        self.curve_file.write_text(json.dumps(self.curve))


def save_half(network: nn.Module, folder: Path) -> None:
    """Write the network's `model.safetensors`, float16, to `folder`, which is made."""
    folder.mkdir(parents=True, exist_ok=True)
    state = network.state_dict().items()
    weights = {k: (v.half() if v.is_floating_point() else v).cpu().contiguous() for k, v in state}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def load_half(network: nn.Module, folder: Path) -> None:
    """Give the network the weights that `save_half` wrote, in float32; it is frozen, in eval mode."""
    state = load_file(folder / "model.safetensors").items()
    network.load_state_dict({k: v.float() if v.is_floating_point() else v for k, v in state})
    network.eval().requires_grad_(False)


def fit(part: str, modules: nn.ModuleDict, loss_of: StepLoss, plan: Plan, rates: Rates) -> nn.ModuleDict:
    """Train `modules` on `loss_of(step, numpy rng, torch generator)` for `plan.minutes`; the averaged weights.

    `plan.folder/part.pt` is written now and then and resumed from; `part.losses.json` keeps the loss curve as
    [step, seconds, mean loss since the last entry]. Weights are float32; see `autocast`.
    """
    run = _Run(part, modules, plan, rates)
    modules.train()
    budget, first, saved = 60 * plan.minutes, run.step, 0.0
    losses: list[float] = []
    bar = tqdm(total=round(budget), unit="s", desc=part, mininterval=5)
    while (elapsed := run.elapsed) < budget:
        warm = min(1.0, (run.step - first + 1) / rates.warmup)
        cool = min(1.0, (1 - elapsed / budget) / max(rates.cooldown, 1e-9))
        for group in (group for part in run.optimizer.parts for group in part.param_groups):
            group["lr"] = rates.lr * warm * cool
        numbers = np.random.default_rng([plan.seed, run.step])
        generator = torch.Generator().manual_seed(plan.seed * 1_000_003 + run.step)
        with autocast(plan.device):
            loss = loss_of(run.step, numbers, generator)
        run.update(loss)
        losses.append(float(loss.detach()))
        if not math.isfinite(losses[-1]):
            raise FloatingPointError(f"the loss of {part} is {losses[-1]} at step {run.step}")
        if run.step % 50 == 0:
            run.curve.append([run.step, round(run.seconds_before + run.elapsed, 1), float(np.mean(losses))])
            bar.set_postfix(step=run.step, loss=f"{np.mean(losses):.4f}")
            losses = []
        bar.update(round(run.elapsed) - bar.n)
        if run.elapsed - saved > plan.save_every:
            run.save()
            saved = run.elapsed
    bar.close()
    run.save()
    modules.load_state_dict(run.average.weights, strict=False)
    return modules.eval()
