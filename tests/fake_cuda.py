"""A CUDA device that isn't there: tensors without contents, but with its device, types, layouts and sizes.

`FakeTensorMode` runs the package's own code on them. What mixes devices or types raises, as it would on a card;
launches, waits of the host and the memory of live tensors are counted by a `Meter`. The CPU build of torch can do all
but two things, which `_autograd_passes` adds: a guard for the device, and an answer to whether there is an accelerator.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import sys
import types
import weakref
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

GIB = 2**30
# Which launch nothing: they look at the same memory in another way, or only set it aside.
VIEWS = {
    *(
        "view",
        "_unsafe_view",
        "t",
        "transpose",
        "permute",
        "expand",
        "unsqueeze",
        "squeeze",
        "slice",
        "select",
        "split",
    ),
    *("chunk", "detach", "alias", "as_strided", "unbind", "lift_fresh", "split_with_sizes", "unflatten", "diagonal"),
    *("empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided", "record_stream"),
}

DEVICE = torch.ops.prim.device.default


class Meter(TorchDispatchMode):
    """Counts `launches` on the card, `waits` of the host by place, and live bytes, `now` and at `peak`."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = self.launches = 0
        self.by = Counter()
        self.waits: Counter[str] = Counter()  # for a value or a copy: by the line of the package that asked
        self._live: dict[int, int] = {}

    def reset(self) -> None:
        """Count the peak from what is live now."""
        self.peak = self.now

    def __torch_dispatch__(self, func, kinds, args=(), kwargs=None):
        if func is DEVICE:  # which autograd asks of every tensor, time and again
            return args[0].device
        name = func.overloadpacket.__name__
        if name == "_local_scalar_dense":
            return self._value(args[0])
        with _unknown(args[0]) if name == "_to_copy" else contextlib.nullcontext():
            made = func(*args, **kwargs or {})
        if isinstance(made, torch.Tensor):
            made_on = self._track(made)
        else:
            made_on = any([self._track(each) for each in tree_leaves(made) if isinstance(each, torch.Tensor)])
        if name in ("copy_", "_to_copy"):
            source = args[1] if name == "copy_" else args[0]
            if source.device.type == "cuda" and not made_on:
                self.waits[_place()] += 1
        if made_on and name not in VIEWS:
            self.launches += 1
            self.by[name] += 1
        return made

    def _value(self, tensor: torch.Tensor) -> bool | float | int:
        """A number in place of the one there isn't; what the CPU holds for true stays so."""
        if tensor.device.type == "cuda":
            self.waits[_place()] += 1
        elif (constant := getattr(tensor, "constant", None)) is not None:
            return constant.item()
        return True if tensor.dtype == torch.bool else 0.5 if tensor.dtype.is_floating_point else 1

    def _track(self, tensor: torch.Tensor) -> bool:
        """Whether the tensor is on the card; its memory counts from now until the last of it is gone."""
        if tensor.device.type != "cuda":
            return False
        storage = tensor.untyped_storage()
        if storage._cdata not in self._live:
            size = -(-storage.nbytes() // 512) * 512  # the allocator's smallest block
            self._live[storage._cdata] = size
            self.now += size
            self.peak = max(self.peak, self.now)
            weakref.finalize(storage, self._free, storage._cdata)
        return True

    def _free(self, key: int) -> None:
        self.now -= self._live.pop(key, 0)


def _place() -> str:
    """The function of the package, or else of a library, that asks."""
    frame = sys._getframe(2)
    while frame is not None:
        path = Path(frame.f_code.co_filename)
        if "layerdiffusion" in path.parts and path.parts[-1] != Path(__file__).name and "tests" not in path.parts:
            return f"{path.stem}.{frame.f_code.co_name}"
        frame = frame.f_back
    return "elsewhere"


@contextlib.contextmanager
def _unknown(tensor: torch.Tensor) -> Iterator[None]:
    """Meanwhile the fake tensor doesn't know the one value it may have, which would be moved to the card in earnest."""
    constant = getattr(tensor, "constant", None)
    if constant is not None:
        tensor.constant = None
    try:
        yield
    finally:
        if constant is not None:
            tensor.constant = constant


class Card:
    """A fake card: its memory in bytes, its compute capability, and what a `Meter` counted on it."""

    def __init__(self, meter: Meter, memory: float, capability: tuple[int, int]) -> None:
        self.meter, self.memory, self.capability = meter, memory, capability
        self.taken = 0.0  # by the driver's context and whatever else a test supposes

    @property
    def free(self) -> int:
        return int(self.memory - self.taken - self.meter.now)


@contextlib.contextmanager
def fake_card(gib: float = 80, capability: tuple[int, int] = (8, 0)) -> Iterator[Card]:
    """While this lasts there is one CUDA device, of so much memory, and every tensor is fake."""
    meter = Meter()
    card = Card(meter, gib * GIB, capability)
    with _autograd_passes(), pytest.MonkeyPatch.context() as patch, torch.autograd.set_multithreading_enabled(False):
        answers = {
            "is_available": lambda: True,
            "device_count": lambda: 1,
            "current_device": lambda: 0,
            "is_bf16_supported": lambda *_: card.capability >= (8, 0),
            "get_device_capability": lambda *_: card.capability,
            "get_device_name": lambda *_: "a fake card",
            "get_arch_list": lambda: [],
            "mem_get_info": lambda *_: (card.free, int(card.memory)),
            "memory_allocated": lambda *_: meter.now,
            "max_memory_allocated": lambda *_: meter.peak,
            "reset_peak_memory_stats": lambda *_: meter.reset(),
            "empty_cache": lambda: None,
            "synchronize": lambda *_: None,
            "get_device_properties": lambda *_: types.SimpleNamespace(
                total_memory=int(card.memory), name="a fake card", major=card.capability[0], minor=card.capability[1]
            ),
        }
        for name, answer in answers.items():
            patch.setattr(torch.cuda, name, answer)
        patch.setattr(F, "scaled_dot_product_attention", functools.partial(_attention, card))
        patch.setattr(FakeTensor, "numpy", lambda self: np.zeros(tuple(self.shape), str(self.dtype).split(".")[1]))
        patch.setattr(nn.Module, "_apply", _with_new_parameters)
        lifts = torch._C._only_lift_cpu_tensors()
        torch._C._set_only_lift_cpu_tensors(True)  # `torch.tensor(1, device="cuda")` is made on the CPU, then moved
        try:
            with FakeTensorMode(allow_non_fake_inputs=True), meter:
                yield card
        finally:
            torch._C._set_only_lift_cpu_tensors(lifts)


def _attention(
    card: Card, query, key, value, attn_mask=None, dropout_p=0.0, is_causal=False, scale=None, enable_gqa=False
):
    """The kernel that a card of that age chooses; the CPU build has none to choose."""
    half = query.dtype in (torch.float16, torch.bfloat16)
    if attn_mask is None and half and card.capability >= (8, 0) and query.shape[-1] <= 256:
        flash = torch.ops.aten._scaled_dot_product_flash_attention
        return flash(query, key, value, dropout_p, is_causal, scale=scale)[0]
    graded = torch.is_grad_enabled() and any(each.requires_grad for each in (query, key, value))
    efficient = torch.ops.aten._scaled_dot_product_efficient_attention
    return efficient(query, key, value, attn_mask, graded, dropout_p, is_causal, scale=scale)[0]


def _with_new_parameters(module: nn.Module, convert, recurse: bool = True) -> nn.Module:
    """`nn.Module._apply`, which would turn a fake tensor of one device into one of another in its place, and can't."""
    for part in module.modules():
        for name, parameter in part._parameters.items():
            if parameter is not None:
                part._parameters[name] = nn.Parameter(convert(parameter.detach()), parameter.requires_grad)
        for name, buffer in part._buffers.items():
            part._buffers[name] = buffer if buffer is None else convert(buffer)
    return module


@contextlib.contextmanager
def _autograd_passes() -> Iterator[None]:
    """Let the CPU build's autograd pass over CUDA tensors; a build with CUDA needs nothing.

    torch sets a guard that does nothing in place of one that finds no devices: one is put there first. Its hooks then
    answer yes where they are asked `isBuilt`, `isAvailable` and `hasPrimaryContext`, the first three of their table.
    """
    if torch.backends.cuda.is_built():
        yield
        return
    # What has no kernel for CUDA here comes apart into seven launches; never called, it is there to be chosen.
    whole = torch.library.Library("aten", "IMPL")
    whole.impl("silu_backward", lambda grad, given: grad, "CUDA")
    word, cuda = ctypes.c_void_p, 1
    nothing, yes = (
        ctypes.CFUNCTYPE(ctypes.c_int64, word)(lambda _: 0),
        ctypes.CFUNCTYPE(ctypes.c_bool, word)(lambda _: 1),
    )
    guards = (word * 20).in_dll(ctypes.CDLL(_library("c10")), "_ZN3c104impl26device_guard_impl_registryE")
    if not guards[cuda]:
        table = (word * 64)(*[ctypes.cast(nothing, word).value] * 64)
        guard = word(ctypes.addressof(table))
        guards[cuda] = ctypes.addressof(guard)
        torch._C._ensureCUDADeviceGuardSet()
    get_hooks = ctypes.CDLL(_library("torch_cpu"))._ZN2at6detail12getCUDAHooksEv
    get_hooks.restype = word
    hooks = word.from_address(get_hooks())
    own = hooks.value
    before = 2 * ctypes.sizeof(word)  # what lies before a class's table, and then its two destructors
    answers = (word * 96).from_buffer_copy((word * 96).from_address(own - before))
    answers[4:7] = [ctypes.cast(yes, word).value] * 3
    hooks.value = ctypes.addressof(answers) + before
    try:
        yield
    finally:
        hooks.value = own
        whole._destroy()


def _library(name: str) -> str:
    return str(next((Path(torch.__file__).parent / "lib").glob(f"lib{name}.*")))
