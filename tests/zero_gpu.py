"""ZeroGPU, stood in for: a `spaces` package whose GPU calls run in forked workers on pickled arguments.

As in the package's own `zero/wrappers.py` (0.51): a task has one worker for all visitors, forked at its first call and
again once it has died or its task has raised; what it yields comes back pickled; closing the handler asks the task to
stop at its next `yield`; of an exception nothing but its class's name comes back. As in its `zero/client.py`, a booking
of half a card is compared with the quota times the card's `duration_factor`; all of it is taken off, which is the most
that a call can cost.
"""

from __future__ import annotations

import contextlib
import inspect
import multiprocessing
import pickle
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any, NamedTuple

import gradio as gr

FACTOR = 1.5  # `zero/configs.json`: the `duration_factor` of the RTX Pro 6000
FORK = multiprocessing.get_context("fork")
ENDED = "ended"


class Call(NamedTuple):
    """One booking."""

    seconds: int
    given: list[Any]  # stages, or SAM's pictures, as the worker gets them


class Worker:
    """A forked process that runs what it is sent."""

    def __init__(self, task: Callable[..., Iterator[Any]]) -> None:
        self.calls, self.answers, self.stop = FORK.SimpleQueue(), FORK.SimpleQueue(), FORK.Event()
        self.process = FORK.Process(target=self._serve, args=(task,), daemon=True)
        self.process.start()
        threading.Thread(target=self._bury, daemon=True).start()

    def _bury(self) -> None:
        """Whoever waits for a dead worker's answer gets None."""
        self.process.join()
        with contextlib.suppress(ValueError):
            self.answers._wlock.release()  # it may have died while it held it
        self.answers.put(None)

    def _serve(self, task: Callable[..., Iterator[Any]]) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        while True:
            probe, arguments = self.calls.get()
            self.stop.clear()
            thread = threading.Thread(target=self._answer, args=(probe or task, pickle.loads(arguments)))
            thread.start()
            thread.join()
            self.answers.put((ENDED, None))

    def _answer(self, task: Callable[..., Iterator[Any]], arguments: tuple[Any, ...]) -> None:
        values = task(*arguments)
        try:
            for value in values:
                if self.stop.is_set():
                    values.close()
                    return
                self.answers.put(("value", value))
        except Exception as error:
            self.answers.put(("error", type(error).__name__))


class Spaces:
    """The stand-in and what it has seen."""

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self.forks = 0
        self.workers: dict[Any, Worker | None] = {}  # by task, those that wait for a call
        self.left: float = float("inf")  # seconds of the visitor's quota

    def GPU(  # noqa: N802
        self, duration: Callable[..., int], size: str | None = None
    ) -> Callable[[Callable[..., Any]], Callable[..., Iterator[Any]]]:
        assert size in (None, "large", "xlarge")

        def decorate(task: Callable[..., Any]) -> Callable[..., Iterator[Any]]:
            assert inspect.isgeneratorfunction(task), "no other task can be cancelled"

            def call(*arguments: Any) -> Iterator[Any]:
                seconds, pickled = duration(*arguments), pickle.dumps(arguments)
                requested = seconds * 2 if size == "xlarge" else round(seconds * FACTOR)
                if requested > self.left:
                    words = f"You have exceeded your GPU quota ({requested}s requested vs. {self.left}s left)."
                    raise gr.Error(words, title="ZeroGPU quota exceeded", print_exception=False)
                self.left -= requested
                self.calls.append(Call(seconds, pickle.loads(arguments[1])))
                worker, self.workers[task] = self.workers.get(task), None
                if worker is None or not worker.process.is_alive():
                    worker, self.forks = Worker(task), self.forks + 1
                yield from self._follow(task, worker, None, pickled)

            return call

        return decorate

    def _follow(
        self, task: Callable[..., Any], worker: Worker, probe: Callable[..., Any] | None, arguments: bytes
    ) -> Iterator[Any]:
        worker.calls.put((probe, arguments))
        while (answer := worker.answers.get()) is not None:
            kind, value = answer
            if kind == ENDED:
                self.workers[task] = worker
                return
            if kind == "error":
                worker.process.kill()
                raise gr.Error(value, title="ZeroGPU worker error", print_exception=False)
            try:
                yield value
            except GeneratorExit:
                worker.stop.set()
                while (answer := worker.answers.get()) is not None and answer[0] != ENDED:
                    pass
                self.workers[task] = worker if answer else None
                raise
        raise gr.Error("GPU task aborted", title="ZeroGPU worker error", print_exception=False)

    def ask(self, probe: Callable[[], Iterator[Any]]) -> list[Any]:
        """What a generator at the top of a module yields in the worker, where there is only one."""
        ((task, worker),) = self.workers.items()
        assert worker is not None
        return list(self._follow(task, worker, probe, pickle.dumps(())))

    def kill(self) -> None:
        """End whatever worker runs, as the hub does when the time is over."""
        for child in multiprocessing.active_children():
            child.kill()
            child.join()

    def install(self, monkeypatch: Any) -> Spaces:
        """Make it what `import spaces` finds, on a Space with ZeroGPU."""
        package = ModuleType("spaces")
        package.__spec__, package.GPU = ModuleSpec("spaces", None), self.GPU
        monkeypatch.setitem(sys.modules, "spaces", package)
        monkeypatch.setenv("SPACES_ZERO_GPU", "true")
        return self
