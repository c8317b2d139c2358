"""Stages, each run once for what it depends on, and a cache of what they came to, safe to share between threads.

A stage is a function and its inputs, and these are its key: nothing is declared twice, and nothing can be left out.

    run = Run()
    fitted = run("embeddings", fit_embeddings, prompts=("a dog jumping", "on ice"), steps=500)
    images = run("sampling", sample_pictures, fitted=fitted, seeds=(0, 1))  # nothing has been computed yet
    values = cache.compute(run.stages, models, report)  # now it is, as far as it isn't cached

An earlier stage among the inputs counts by its key, and its value is what the function gets. `plan` and `estimate`
look at the same stages and compute nothing.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Generic, NamedTuple, Protocol, TypeVar, cast, runtime_checkable

import numpy as np
from PIL import Image

from layerdiffusion.models.oom import plain_errors
from layerdiffusion.progress import STAGES, OnProgress, Reporter

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)
Function = TypeVar("Function", bound=Callable[..., Any])
RUN, REUSE, SKIP = "run", "reuse", "skip"  # a stage's status: to be computed, cached, without steps
# Shares of the limit, so that one large tuned network does not push out the small results it was made from.
SHARES = {"background": 1 / 64, "inversion": 1 / 64, "embeddings": 1 / 16, "finetune": 27 / 32, "sampling": 1 / 16}
DIVERGED = "lower guidance_scale, embedding_lr or finetune_lr"
_MISSING = object()


class Work(NamedTuple):
    """How long a stage takes, as far as that is known before it runs."""

    steps: int = 0  # 0: there is nothing to optimise or to sample
    passes: float = 0.0  # forward passes of one picture through the network that a step takes the time of


def stage(work: Callable[..., Work] = lambda **_: Work(), remedy: str = DIVERGED) -> Callable[[Function], Function]:
    """Make a function a stage: it is called as `function(models, report, **inputs)`.

    `work` gets the inputs as keywords; `remedy` is what to do where the stage's numbers are no longer finite.
    """

    def mark(function: Function) -> Function:
        function.work, function.remedy = work, remedy  # type: ignore[attr-defined]
        return function

    return mark


@dataclass(frozen=True, eq=False, repr=False)
class Stage(Generic[T_co]):
    """A function of `stage`, and the inputs it is called with; an input may be an earlier `Stage`."""

    name: str  # one of progress.STAGES
    function: Callable[..., T_co]
    inputs: Mapping[str, object]

    @cached_property
    def key(self) -> str:
        """The hash of the function and of its inputs."""
        parts = (part for pair in self.inputs.items() for part in pair)
        return digest(self.function.__module__, self.function.__qualname__, *parts)

    def __repr__(self) -> str:
        """What it is among a later stage's inputs: see `digest`."""
        return self.key

    @cached_property
    def work(self) -> Work:
        return cast(Work, self.function.work(**self.inputs))  # type: ignore[attr-defined]

    def run(self, models: object, report: Reporter) -> T_co:
        """What the function comes to, once no input is a stage any more. Raises an `EditError`."""
        if self.work.steps:
            report.begin(self.name)
        with plain_errors(self.name, self.function.remedy):  # type: ignore[attr-defined]
            return self.function(models, report, **self.inputs)

    def with_values(self, values: Mapping[Stage[Any], object]) -> Stage[T_co]:
        """The same with the values of earlier stages in their place: all that another process needs to run it."""
        inputs = self.inputs.items()
        found = {name: values.get(given, given) if isinstance(given, Stage) else given for name, given in inputs}
        return replace(self, inputs=found)


class Run:
    """Writes down the stages of an edit, in the order in which they are asked for."""

    def __init__(self) -> None:
        self.stages: list[Stage[Any]] = []

    def __call__(self, name: str, function: Callable[..., T], /, **inputs: object) -> Stage[T]:
        self.stages.append(Stage(name, function, inputs))
        return self.stages[-1]


class RemoteRunner(Protocol):
    """Runs stages on a device that is not this process's, such as one that is lent by the call."""

    def together(self, stages: Sequence[Stage[Any]]) -> list[Stage[Any]]:
        """The first of `stages`, with those after it that go to the device in one call."""
        ...

    def run(self, stages: Sequence[Stage[Any]], report: Reporter) -> Generator[object, None, None]:
        """The value of each stage; an input that is a stage is one of those before it."""
        ...


@runtime_checkable
class OnDevice(Protocol):
    """A value that may occupy the device for a while."""

    on_device: bool

    def off_device(self) -> object:
        """The same, of the same size, in main memory."""
        ...


class LRU:
    """Values by key, the longest unused dropped when they outgrow `limit` bytes; safe to share between threads."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.size = 0
        self.on_device: set[str] = set()  # keys of values that `settle` is to move
        self._entries: OrderedDict[str, tuple[object, int]] = OrderedDict()
        self._lock = threading.Lock()

    def __contains__(self, key: object) -> bool:
        with self._lock:
            return key in self._entries

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: str, default: object = None) -> object:
        """The value, now the last to be dropped; `default` if there is none."""
        with self._lock:
            if key not in self._entries:
                return default
            self._entries.move_to_end(key)
            return self._entries[key][0]

    def put(self, key: str, value: object) -> None:
        """Keep the value, unless it alone is over the limit."""
        size = size_of(value)
        with self._lock:
            if size > self.limit or key in self._entries:
                return
            self._entries[key] = value, size
            if isinstance(value, OnDevice) and value.on_device:
                self.on_device.add(key)
            self.size += size
            while self.size > self.limit:
                self.size -= self._entries.popitem(last=False)[1][1]

    def settle(self) -> None:
        """Move what occupies the device into main memory; meanwhile others may read it where it was."""
        while True:
            with self._lock:
                if not self.on_device:
                    return
                key = self.on_device.pop()
                value = self._entries.get(key, (_MISSING,))[0]
            if isinstance(value, OnDevice):
                moved = value.off_device()
                with self._lock:
                    if key in self._entries:
                        self._entries[key] = moved, self._entries[key][1]

    def clear(self) -> None:
        with self._lock:
            self._entries.clear()
            self.size = 0


def size_of(value: object) -> int:
    """Bytes of a cached value."""
    if isinstance(value, Image.Image):
        return 3 * value.width * value.height
    if isinstance(value, dict):
        return sum(map(size_of, value.values()))
    if isinstance(value, list | tuple):
        return sum(map(size_of, value))
    return getattr(value, "nbytes", 32)


class StageCache:
    """The finished stages of all edits, up to `limit` bytes, and the speeds at which stages ran.

    `compute` is for whoever has the turn on the device; all else only looks, beside a running edit.
    """

    def __init__(self, limit: int) -> None:
        self._values = {name: LRU(int(limit * share)) for name, share in SHARES.items()}
        self.remote: RemoteRunner | None = None  # None: stages run here
        self.seconds_per_pass: dict[str, float] = {}  # seen so far, by stage

    def get(self, stage: Stage[T], default: object = None) -> T | None:
        """The stage's value where it is finished."""
        return cast("T | None", self._values[stage.name].get(stage.key, default))

    def status(self, stage: Stage[Any]) -> str:
        """What there is to do for the stage now: `RUN`, `REUSE` or `SKIP`."""
        if not stage.work.steps:
            return SKIP
        return REUSE if stage.key in self._values[stage.name] else RUN

    def plan(self, stages: Sequence[Stage[Any]]) -> dict[str, str]:
        """The `status` of each stage, by name."""
        return {stage.name: self.status(stage) for stage in stages}

    def missing(self, stages: Sequence[Stage[Any]]) -> list[Stage[Any]]:
        """Those that have steps to take."""
        return [stage for stage in stages if self.status(stage) == RUN]

    def estimate(self, stages: Sequence[Stage[Any]]) -> float | None:
        """Seconds that the stages would take now, by the speeds seen so far; None before any was."""
        return seconds_of(self.missing(stages), dict(self.seconds_per_pass))

    def assume(self, seconds: float) -> None:
        """Go by so many seconds for one forward pass of one picture, until a run has shown better."""
        self.seconds_per_pass = dict.fromkeys(STAGES, seconds)

    def reporter(
        self, stages: Sequence[Stage[Any]], on_progress: OnProgress | None, cancel: threading.Event | None
    ) -> Reporter:
        """A `Reporter` for these stages that knows the speeds seen so far, and adds to them."""
        work: dict[str, tuple[int, float]] = {}
        for stage in self.missing(stages):
            work[stage.name] = work.get(stage.name, (0, 0.0))[0] + stage.work.steps, stage.work.passes
        return Reporter(self.seconds_per_pass, work, on_progress, cancel)

    def compute(self, stages: Sequence[Stage[Any]], models: object, report: Reporter) -> dict[Stage[Any], Any]:
        """The value of each stage, from the cache or by its function; raises an `EditError`.

        Whatever is raised, finished stages stay in the cache.
        """
        values: dict[Stage[Any], Any] = {}
        for index, stage in enumerate(stages):
            if stage in values:  # computed in one call with the one before it
                continue
            began, reused, value = time.perf_counter(), self.status(stage) == REUSE, self.get(stage, _MISSING)
            if value is not _MISSING:
                values[stage] = value
                report.finish(stage.name, 0, time.perf_counter() - began)
                if reused:
                    report.reused(stage.name)
                continue
            report.check()
            if self.remote is not None:
                self._compute_remotely(stages[index:], values, report)
                continue
            values[stage] = stage.with_values(values).run(models, report)
            self._finish(stage, values[stage], report, began)
        return values

    def _compute_remotely(self, stages: Sequence[Stage[Any]], values: dict[Stage[Any], Any], report: Reporter) -> None:
        """The first of `stages`, and those missing ones that go there with it."""
        assert self.remote is not None
        batch = self.remote.together([*itertools.takewhile(lambda stage: self.get(stage) is None, stages)])
        bound: dict[Stage[Any], Any] = dict(values)
        for stage in batch:
            bound[stage] = stage.with_values(bound)
        began = time.perf_counter()
        with contextlib.closing(self.remote.run([bound[stage] for stage in batch], report)) as found:
            for value, stage in zip(found, batch, strict=True):
                values[stage] = value
                self._finish(stage, value, report, began)
                began = time.perf_counter()

    def _finish(self, stage: Stage[Any], value: object, report: Reporter, began: float) -> None:
        report.finish(stage.name, stage.work.steps, time.perf_counter() - began)
        self._values[stage.name].put(stage.key, value)

    def settle(self) -> None:
        """Move what occupies the device into main memory, without letting anybody wait."""
        if self.remote is None and any(values.on_device for values in self._values.values()):
            threading.Thread(target=self._settle).start()

    def _settle(self) -> None:
        for values in self._values.values():
            values.settle()

    def clear(self) -> None:
        """Forget every finished stage."""
        for values in self._values.values():
            values.clear()

    @property
    def size(self) -> int:
        """Bytes of the finished stages."""
        return sum(values.size for values in self._values.values())


def seconds_of(stages: Sequence[Stage[Any]], speeds: Mapping[str, float]) -> float | None:
    """Seconds that the stages take at `speeds`, seconds of a pass by stage; None where there is no speed yet."""
    if not speeds:
        return None
    usual = sum(speeds.values()) / len(speeds)
    return sum(stage.work.steps * stage.work.passes * speeds.get(stage.name, usual) for stage in stages)


def digest(*parts: object) -> str:
    """A hash of pictures, arrays, stages and whatever else is the same when it prints the same."""
    whole = hashlib.sha256()
    for part in parts:
        whole.update(repr(_printable(part)).encode() + b"\0")
    return whole.hexdigest()


def _printable(part: object) -> object:
    if isinstance(part, Image.Image):
        return part.size, hashlib.sha256(part.tobytes()).hexdigest()
    if isinstance(part, np.ndarray):
        return part.shape, hashlib.sha256(part.tobytes()).hexdigest()
    return part
