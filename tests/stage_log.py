"""What the meter of a fake card counts in each stage of an edit."""

from __future__ import annotations

import contextlib
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from types import SimpleNamespace

import pytest
import torch
from fake_cuda import GIB, Card
from torch.nn.modules.module import register_module_forward_pre_hook

from layerdiffusion import cache
from layerdiffusion.models._torchvision import ensure_torchvision
from layerdiffusion.progress import Progress, Reporter

ensure_torchvision()  # before diffusers

from diffusers import UNet2DConditionModel  # noqa: E402


class Log:
    """What the card's meter counts in each stage of an edit: of a step, its launches and waits; of a stage, the peak.

    A step is from the last call of the network to the report of its loss or picture.
    """

    def __init__(self, card: Card) -> None:
        self.card, self.stage = card, ""
        self.launches: dict[str, int] = {}
        self.waits: dict[str, Counter[str]] = {}
        self.peaks: dict[str, float] = {}
        self._before: tuple[int, Counter[str]] = 0, Counter()

    @contextlib.contextmanager
    def running(self) -> Iterator[Log]:
        def called(module: torch.nn.Module, inputs: object) -> None:
            if isinstance(module, UNet2DConditionModel):
                self._mark()

        begin, meter = Reporter.begin, self.card.meter

        def begun(report: Reporter, stage: str) -> None:
            meter.reset()
            self.stage = stage
            begin(report, stage)

        meter.reset()
        handle = register_module_forward_pre_hook(called)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Reporter, "begin", begun)
            try:
                yield self
            finally:
                handle.remove()
                self._peak()

    def _mark(self) -> None:
        meter = self.card.meter
        self._before = meter.launches, meter.waits.copy()
        self._peak()

    def __call__(self, event: Progress) -> None:
        meter = self.card.meter
        launches, waits = self._before
        self.launches[event.stage] = meter.launches - launches
        self.waits[event.stage] = meter.waits - waits
        self._peak()

    def _peak(self) -> None:
        self.peaks[self.stage] = max(self.peaks.get(self.stage, 0), self.card.meter.peak / GIB)


class AtOnce:
    """In place of a thread: fake tensors are one thread's at a time."""

    def __init__(self, target: Callable[[], None]) -> None:
        self.start = target


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """While this lasts the package starts no thread."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cache, "threading", SimpleNamespace(**{**vars(threading), "Thread": AtOnce}))
        yield
