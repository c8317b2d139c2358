"""Devices and how each is used: precisions, memory formats, and what is given up for memory."""

from __future__ import annotations

import functools
import importlib.util
import re
from collections.abc import Callable
from dataclasses import dataclass

import torch

from layerdiffusion.errors import ModelError

GIB = 2**30
# What stage 2 of Stable Diffusion v1.4 needs at its peak with float32 weights and Adam, beside Segment Anything, CLIP
# and CUDA itself: predicted from live storage, not measured on a card.
ROOMY = 20 * GIB
LARGE_SAM = 12 * GIB  # free memory from which Segment Anything is its largest
SAM_BYTES = {"vit_h": int(1.2 * GIB), "vit_b": int(0.2 * GIB)}  # in half precision
PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True)
class Profile:
    """How a device is used: what runs in which precision, and what is given up for memory."""

    device: torch.device
    precision: torch.dtype  # of stage 3
    training_precision: torch.dtype  # of stages 1 and 2; what they optimise is float32 all the same
    weights: torch.dtype  # of frozen and tuned networks on the device
    channels_last: bool = True
    checkpointing: bool = False  # stage 2 computes activations again instead of keeping them
    checkpoint_embeddings: bool = False  # stage 1 does
    attention_slicing: bool = False
    eight_bit_adam: bool = False
    compile: bool = False
    batch: int = 16  # pictures sampled at once
    memory: int | None = None  # bytes that were free on the device before the model was loaded, where that is known

    @property
    def low_memory(self) -> bool:
        return self.checkpointing

    @property
    def segmenter(self) -> str:
        """Which of Segment Anything's sizes the device has room for, as `load_sam` calls it."""
        if self.device.type != "cuda":
            return "auto"
        return "vit_h" if self.memory is None or self.memory >= LARGE_SAM else "vit_b"

    @property
    def segmenter_bytes(self) -> int:
        """What Segment Anything takes of the device during an edit; where memory is short it waits in main memory."""
        return 0 if self.low_memory else SAM_BYTES.get(self.segmenter, 0)

    def optimizer(self) -> Callable[..., torch.optim.Optimizer]:
        """Adam for stage 2, as `optimizer(parameters, lr=lr)`."""
        if self.eight_bit_adam:
            from bitsandbytes.optim import Adam8bit

            return Adam8bit
        return functools.partial(torch.optim.Adam, fused=self.device.type in ("cuda", "cpu"))


def device_profile(
    device: str | torch.device | None = None,
    dtype: str | torch.dtype | None = None,
    low_memory: bool | None = None,
    compile: bool = False,
    memory: int | None = None,
) -> Profile:
    """The profile of `device` (None: CUDA if there is one, else the CPU).

    `dtype` (None: what the device is good at) is "float32", "bfloat16" or "float16"; weights in training are
    float32 whatever it is. A CUDA device that trains in half precision samples in float16, which rounds the tuned
    weights least. With `compile`, networks that sample are compiled while edits run (`Compiler`). `memory` (None: ask)
    is how many bytes of a CUDA device are free; `low_memory` (None: fewer than `ROOMY`) saves memory at some cost in
    time. Raises `ModelError` for a device or a dtype there is not.
    """
    device = _device(device)
    precision = _precision(dtype)
    if device.type == "cuda":
        return _cuda_profile(device, precision, low_memory, compile, memory or torch.cuda.mem_get_info(device)[0])
    low_memory = bool(low_memory)
    if device.type == "mps":
        precision = precision or torch.float32
        return Profile(
            device,
            precision,
            torch.float32,
            torch.float32,
            channels_last=False,
            checkpointing=low_memory,
            attention_slicing=True,
            batch=4,
        )
    # A batch of one, as stage 2 has it, gains nothing from bfloat16 on a CPU; a sampling batch nearly halves.
    sampling = precision or (torch.bfloat16 if _cpu_has_bfloat16() else torch.float32)
    return Profile(
        device,
        sampling,
        precision or torch.float32,
        torch.float32,
        checkpointing=low_memory,
        compile=compile,
        batch=2 if low_memory else 16,
    )


def _cuda_profile(
    device: torch.device, precision: torch.dtype | None, low_memory: bool | None, compile: bool, free: int
) -> Profile:
    low_memory = free < ROOMY if low_memory is None else low_memory
    precision = precision or (torch.bfloat16 if torch.cuda.is_bf16_supported(False) else torch.float16)
    # Stage 2 moves a weight by about 1e-4 of itself: bfloat16 rounds a fifth of that away, float16 a fiftieth.
    stored = torch.float32 if precision == torch.float32 else torch.float16
    eight_bit = low_memory and importlib.util.find_spec("bitsandbytes") is not None
    return Profile(
        device,
        stored,
        precision,
        stored,
        # Before 2.14 CUDA's group norm gives back NCHW, and every convolution after it would convert
        # (https://github.com/pytorch/pytorch/issues/111824); bitsandbytes lays its weights out so itself.
        channels_last=torch.__version__ >= "2.14" and not eight_bit,
        checkpointing=low_memory,
        eight_bit_adam=eight_bit,
        memory=free,
        compile=compile,
        batch=2 if low_memory else 16,
    )


def cuda_problem() -> str | None:
    """Why torch, built for CUDA, can't use it here, and what to do; None where it can, or was never to."""
    if torch.version.cuda is None:
        return None
    if not torch.cuda.is_available():
        return "There is no NVIDIA card with a driver that works here; if there should be one, update its driver."
    built = [int(found[1]) for name in torch.cuda.get_arch_list() if (found := re.match(r"sm_(\d+)", name))]
    major, minor = torch.cuda.get_device_capability()
    if built and 10 * major + minor < min(built):
        return (
            f"This card's compute capability is {major}.{minor}, and torch {torch.__version__} is built for "
            f"{min(built) / 10:.1f} and later; install a torch that is built for it."
        )
    return None


def _device(device: str | torch.device | None) -> torch.device:
    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() and not cuda_problem() else "cpu")
    try:
        chosen = torch.device(device)
    except RuntimeError as error:
        raise ModelError(f"There is no device called {device}; use cuda, mps or cpu.") from error
    available = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not available.get(chosen.type, False):
        raise ModelError(f"The device {device} is not available on this machine; use cpu.")
    if chosen.type == "cuda" and (chosen.index or 0) >= torch.cuda.device_count():
        raise ModelError(f"There is no {device}: this machine has {torch.cuda.device_count()} CUDA device(s).")
    return chosen


def _precision(dtype: str | torch.dtype | None) -> torch.dtype | None:
    if dtype is None:
        return None
    chosen = PRECISIONS.get(dtype) if isinstance(dtype, str) else dtype
    if chosen not in PRECISIONS.values():
        raise ModelError(f"There is no dtype {dtype} here; use {', '.join(PRECISIONS)}.")
    return chosen


def _cpu_has_bfloat16() -> bool:
    """Whether the CPU multiplies bfloat16 itself; emulated, it is slower than float32."""
    checks = (getattr(torch.cpu, name, None) for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"))
    return any(check() for check in checks if check)
