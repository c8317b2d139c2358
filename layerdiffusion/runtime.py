"""What runs an edit, whatever its method: stages keyed by their inputs, a cache for them, and turns on the device."""

from __future__ import annotations

import contextlib
import gc
import hashlib
import itertools
import threading
import time
import traceback
from collections import OrderedDict
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar, cast

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from layerdiffusion.errors import EditError
from layerdiffusion.models.family import Condition
from layerdiffusion.models.memory import is_out_of_memory
from layerdiffusion.models.profile import GIB
from layerdiffusion.progress import STAGES, Cancelled, OnProgress, Reporter

if TYPE_CHECKING:
    from layerdiffusion.models.load import Models

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)
RUN, REUSE, SKIP = "run", "reuse", "skip"  # what there is to do for a stage: all of it, nothing (cached), no steps
SMALLER = "close what else uses the device, or choose a smaller model"
MEMORY_ADVICE = dict.fromkeys(("embeddings", "finetune"), f"lower draws, {SMALLER}")  # by stage: what can help there
_MISSING = object()


class OutOfMemory(EditError):
    """The device's memory doesn't hold the edit."""


@dataclass(frozen=True, eq=False)
class Stage(Generic[T_co]):  # type: ignore[explicit-any]
    """A part of a method that is cached by itself.

    `run(models, report, **inputs)` gets `inputs` and nothing else, so that what it depends on is in its key. An
    input may be an earlier `Stage`: `run` then gets that stage's value, and the key depends on that stage's key.
    """

    name: str  # one of progress.STAGES
    inputs: Mapping[str, object] | None  # None: not known before the stages ahead have run
    steps: int  # 0: there is nothing to optimize, and `run` does it at once
    cost: float  # of a step, in forward passes of one picture through the network
    run: Callable[..., T_co]  # type: ignore[explicit-any]  # the inputs are its keyword arguments
    remedy: str = "lower guidance_scale, embedding_lr or finetune_lr"  # where its numbers are no longer finite
    stored: Callable[..., T_co] | None = None  # type: ignore[explicit-any]  # its value, moved off the device

    @cached_property
    def key(self) -> str | None:
        """The hash of the inputs and of the function they go to; None while they are not known."""
        if self.inputs is None:
            return None
        parts = [(name, value.key if isinstance(value, Stage) else value) for name, value in self.inputs.items()]
        return digest(self.run.__module__, self.run.__qualname__, *(part for pair in parts for part in pair))


class Elsewhere(Protocol):
    """Runs stages on a device that is not this process's, such as one that is lent by the call."""

    def together(self, stages: Sequence[Stage[object]]) -> list[Stage[object]]:
        """The first of `stages`, with those behind it that go to the device in one call."""
        ...

    def run(self, stages: Sequence[Stage[object]], report: Reporter) -> Generator[object, None, None]:
        """What each stage comes to; of earlier stages their `inputs` have the values."""
        ...


class Finished:
    """What stages came to, by `finished[stage]`, and the seconds that each took in this run."""

    def __init__(self) -> None:
        self._values: dict[Stage[object], object] = {}
        self.seconds: dict[str, float] = {}

    def __getitem__(self, stage: Stage[T]) -> T:
        return cast(T, self._values[stage])

    def __contains__(self, stage: Stage[object]) -> bool:
        return stage in self._values

    def add(self, stage: Stage[T], value: T, seconds: float) -> None:
        self._values[stage] = value
        self.seconds[stage.name] = self.seconds.get(stage.name, 0.0) + seconds


class Runtime:
    """One set of models on its device, and the finished stages of all edits; safe to share between threads.

    Whoever touches the models takes a `turn`. `plan` and `estimate` only look at the cache, beside a running edit.
    `cache_limit` bounds the finished stages that are kept, in bytes of main memory; by default one GiB, or room for
    two tuned networks if that is more.
    """

    def __init__(self, models: Models, cache_limit: int | None = None) -> None:
        self.models = models
        if cache_limit is None:
            parameters = sum(parameter.numel() for parameter in models.master.parameters())
            cache_limit = max(GIB, int(2.5 * parameters * models.profile.weights.itemsize))
        # Apart, so that one large tuned network does not push out the small results it was made from.
        shares = dict.fromkeys(("background", "inversion"), 1 / 64)
        shares |= {"embeddings": 1 / 16, "finetune": 27 / 32, "sampling": 1 / 16}
        self._caches = {stage: StageCache(int(cache_limit * share)) for stage, share in shares.items()}
        self._device = threading.Lock()
        self.elsewhere: Elsewhere | None = None  # None: stages run here
        self.seconds_per_pass: dict[str, float] = {}  # seen so far, by stage

    @contextlib.contextmanager
    def turn(self, cancel: threading.Event | None = None) -> Iterator[None]:
        """The device for one piece of work at a time; whoever waits can still cancel, which raises `Cancelled`.

        Where stages run elsewhere there is nothing to wait for.
        """
        if self.elsewhere is not None:
            yield
            return
        while not self._device.acquire(timeout=0.1):
            if cancel is not None and cancel.is_set():
                raise Cancelled("The edit was cancelled while it waited for its turn.")
        try:
            yield
        finally:
            self._device.release()
            # The stages that followed used what lies on the device there; whoever waits for them needn't for a copy.
            for cache in self._caches.values():
                if cache.forms:
                    threading.Thread(target=cache.settle).start()

    def status(self, stage: Stage[T]) -> str:
        """What there is to do for the stage now: `RUN`, `REUSE` or `SKIP`."""
        if not stage.steps:
            return SKIP
        return REUSE if stage.key is not None and stage.key in self._caches[stage.name] else RUN

    def plan(self, stages: Sequence[Stage[object]]) -> dict[str, str]:
        """The `status` of each stage, by name."""
        return {stage.name: self.status(stage) for stage in stages}

    def cached(self, stage: Stage[T]) -> T | None:
        """The stage's value where it is finished, else None."""
        return cast("T | None", self._caches[stage.name].get(stage.key))

    def estimate(self, stages: Sequence[Stage[object]]) -> float | None:
        """Seconds that the stages would take now, by the speeds seen so far; None before any was."""
        return seconds_of([stage for stage in stages if self.status(stage) == RUN], dict(self.seconds_per_pass))

    def assume(self, seconds: float) -> None:
        """Go by so many seconds for one forward pass of one picture, until a run has shown better."""
        self.seconds_per_pass = dict.fromkeys(STAGES, seconds)

    def reporter(
        self, stages: Sequence[Stage[object]], on_progress: OnProgress | None, cancel: threading.Event | None
    ) -> Reporter:
        """A `Reporter` for these stages that knows the speeds seen so far, and adds to them."""
        work: dict[str, tuple[int, float]] = {}
        for stage in stages:
            if self.status(stage) == RUN:
                work[stage.name] = work.get(stage.name, (0, 0.0))[0] + stage.steps, stage.cost
        return Reporter(self.seconds_per_pass, work, on_progress, cancel)

    def run_stages(self, stages: Sequence[Stage[object]], report: Reporter) -> Finished:
        """The stages one after the other, each from the cache where it is finished; to be called in a `turn`.

        Raises an `EditError`; whatever is raised, finished stages stay in the cache.
        """
        finished = Finished()
        for index, stage in enumerate(stages):
            if stage in finished:  # made in one call with the one before it
                continue
            started = time.perf_counter()
            cache, reusable = self._caches[stage.name], self.status(stage) == REUSE
            value = cache.get(stage.key, _MISSING)
            if value is not _MISSING:
                finished.add(stage, value, time.perf_counter() - started)
                if reusable:
                    report.reused(stage.name)
                continue
            report.check()
            for made, value in self._make(stages[index:], finished, report):
                report.finish(made.steps)
                self._caches[made.name].put(made.key, value, made.stored if self.elsewhere is None else None)
                finished.add(made, value, time.perf_counter() - started)
                started = time.perf_counter()
        return finished

    def _make(
        self, stages: Sequence[Stage[object]], finished: Finished, report: Reporter
    ) -> Iterator[tuple[Stage[object], object]]:
        """What the first of `stages` comes to; elsewhere also those missing that go there with it."""
        if self.elsewhere is None:
            yield stages[0], run_stage(self.models, stages[0], finished, report)
            return
        missing = list(itertools.takewhile(lambda stage: self.cached(stage) is None, stages))
        batch = self.elsewhere.together(missing)
        with contextlib.closing(self.elsewhere.run(with_values(batch, finished), report)) as values:
            for value, stage in zip(values, batch, strict=True):
                yield stage, value

    def clear_cache(self) -> None:
        """Forget every finished stage."""
        for cache in self._caches.values():
            cache.clear()

    @property
    def cache_size(self) -> int:
        """Bytes held by the finished stages."""
        return sum(cache.size for cache in self._caches.values())


def run_stage(models: Models, stage: Stage[T], finished: Finished, report: Reporter) -> T:
    """What the stage comes to, earlier ones' values taken from `finished`; raises an `EditError`."""
    inputs = {
        name: finished[given] if isinstance(given, Stage) else given for name, given in (stage.inputs or {}).items()
    }
    with _in_words(stage):
        return stage.run(models, report, **inputs)


def with_values(stages: Sequence[Stage[object]], finished: Finished) -> list[Stage[object]]:
    """The same stages with the values of finished ones among their inputs: all that another process needs."""
    bound: dict[object, Stage[object]] = {}
    for stage in stages:
        inputs = {
            name: bound.get(given) or finished[given] if isinstance(given, Stage) else given
            for name, given in (stage.inputs or {}).items()
        }
        bound[stage] = replace(stage, inputs=inputs)
    return list(bound.values())


def seconds_of(stages: Sequence[Stage[object]], speeds: Mapping[str, float]) -> float | None:
    """Seconds that the stages take at `speeds`, seconds of a pass by stage; None where there is no speed yet."""
    if not speeds:
        return None
    usual = sum(speeds.values()) / len(speeds)
    return sum(stage.steps * stage.cost * speeds.get(stage.name, usual) for stage in stages)


class StageCache:
    """Values by key, the longest unused dropped when they outgrow `limit` bytes; safe to share between threads."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.size = 0
        self.forms: dict[str, Callable[[object], object]] = {}  # in which values are still to be kept
        self._entries: OrderedDict[str, tuple[object, int]] = OrderedDict()
        self._lock = threading.Lock()

    def __contains__(self, key: object) -> bool:
        with self._lock:
            return key in self._entries

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: str | None, default: object = None) -> object:
        """The value, now the last to be dropped; `default` if there is none."""
        with self._lock:
            if key is None or key not in self._entries:
                return default
            self._entries.move_to_end(key)
            return self._entries[key][0]

    def put(self, key: str | None, value: object, form: Callable[[object], object] | None = None) -> None:
        """Keep the value, unless it alone is over the limit; from the next `settle` on as `form` makes it."""
        size = _size(value)
        with self._lock:
            if key is None or size > self.limit or key in self._entries:
                return
            self._entries[key] = value, size
            if form is not None:
                self.forms[key] = form
            self.size += size
            while self.size > self.limit:
                self.size -= self._entries.popitem(last=False)[1][1]

    def settle(self) -> None:
        """Keep every value in the form it was to have, of the same size; meanwhile others may read it as it was."""
        while True:
            with self._lock:
                if not self.forms:
                    return
                key, form = self.forms.popitem()
                value = self._entries.get(key, (_MISSING,))[0]
            if value is not _MISSING:
                value = form(value)
                with self._lock:
                    if key in self._entries:
                        self._entries[key] = value, self._entries[key][1]

    def clear(self) -> None:
        with self._lock:
            self._entries.clear()
            self.size = 0


def digest(*parts: object) -> str:
    """A hash of pictures, arrays and whatever else is the same when it prints the same."""
    whole = hashlib.sha256()
    for part in parts:
        if isinstance(part, Image.Image):
            part = (part.size, hashlib.sha256(part.tobytes()).hexdigest())
        elif isinstance(part, np.ndarray):
            part = (part.shape, hashlib.sha256(part.tobytes()).hexdigest())
        whole.update(repr(part).encode() + b"\0")
    return whole.hexdigest()


def finite(values: Tensor) -> Tensor:
    """The `values`, of any shape. Raises `FloatingPointError` where one of them is not finite."""
    if not values.isfinite().all():
        raise FloatingPointError
    return values


def training_generator(stage: str, seed: int) -> torch.Generator:
    """Each stage's own noise: no stage trains on the very noise that another starts from."""
    return torch.Generator().manual_seed(int(digest(stage, seed)[:14], 16))


def free_memory(error: Exception) -> None:
    """Give back what the work that ended in `error` holds on the device."""
    traceback.clear_frames(error.__traceback__)
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


@contextlib.contextmanager
def _in_words(stage: Stage[T]) -> Iterator[None]:
    """What can go wrong in a stage, as one sentence to the user."""
    try:
        yield
    except Cancelled as error:
        traceback.clear_frames(error.__traceback__)  # the copy in training goes now, not with the exception
        raise
    except FloatingPointError as error:
        raise EditError(
            f"The {stage.name} stage diverged: its numbers are no longer finite; {stage.remedy}."
        ) from error
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        free_memory(error)
        advice = MEMORY_ADVICE.get(stage.name, SMALLER)
        raise OutOfMemory(f"The {stage.name} stage needs more memory than there is; {advice}.") from error


def _size(value: object) -> int:
    """Bytes of a cached value."""
    if isinstance(value, Tensor | Condition):
        return value.nbytes
    if isinstance(value, Image.Image):
        return 3 * value.width * value.height
    if isinstance(value, dict):
        return sum(map(_size, value.values()))
    if isinstance(value, list | tuple):
        return sum(map(_size, value))
    return 32
