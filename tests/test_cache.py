"""The cache beside a running edit: whoever only looks at it never meets an entry on its way out."""

from __future__ import annotations

import sys
import threading
import time
from typing import NamedTuple

import numpy as np
import pytest
import torch
from PIL import Image

from layerdiffusion.cache import LRU, RUN, SKIP, Run, StageCache, Work, stage
from layerdiffusion.editor import Editor
from layerdiffusion.models.oom import is_out_of_memory


@pytest.fixture
def often_interrupted():
    """Threads take turns after every few steps, so that what can go wrong between two does."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


def test_the_cache_is_read_while_another_thread_drops_entries(often_interrupted):
    cache, end, errors = LRU(200), threading.Event(), []

    def look() -> None:
        while not end.is_set():
            try:
                for key in range(40):
                    if str(key) in cache:
                        cache.get(str(key))
            except Exception as error:
                errors.append(error)

    readers = [threading.Thread(target=look) for _ in range(3)]
    for reader in readers:
        reader.start()
    finish = time.monotonic() + 1
    number = 0
    while time.monotonic() < finish:
        cache.put(str(number % 40), [0.0] * 2)  # 64 bytes each: three at a time
        number += 1
    end.set()
    for reader in readers:
        reader.join()
    assert not errors and number > 100
    assert cache.size <= 200 and len(cache) == 3


@stage(lambda **_: Work(1, 1.0))
def double(models, report, number, mask=None):
    return 2 * number


@stage(lambda **_: Work(1, 1.0))
def add(models, report, first, second):
    return first + second


@stage()
def nothing(models, report, number):
    return number


def asked(function=double, name="sampling", **inputs):
    return Run()(name, function, **inputs)


def compute(cache, stages):
    return cache.compute(stages, None, cache.reporter(stages, None, None))


def test_a_key_is_made_of_the_inputs_the_function_and_the_stages_before():
    picture = Image.new("RGB", (2, 2))
    assert asked(number=picture).key == asked(number=picture.copy()).key
    others = [
        asked(number=2),
        asked(number=1, mask=np.zeros((2, 2), bool)),
        asked(number=picture),
        asked(number=Image.new("RGB", (2, 2), "red")),
        asked(add, first=1, second=2),
        asked(add, first=asked(number=1), second=2),
        asked(add, first=asked(number=2), second=2),
        asked(add, first=2, second=asked(number=1)),
    ]
    assert len({asked(number=1).key, *(other.key for other in others)}) == len(others) + 1


def test_a_stage_gets_the_values_of_the_stages_it_names_and_runs_once():
    cache, run = StageCache(10_000), Run()
    first = run("embeddings", double, number=3)
    last = run("sampling", add, first=first, second=1)
    values = compute(cache, run.stages)
    assert (values[first], values[last]) == (6, 7)
    assert cache.plan(run.stages) == {"embeddings": "reuse", "sampling": "reuse"} and not cache.missing(run.stages)
    assert cache.get(last) == 7 and cache.get(asked(number=5)) is None
    assert cache.status(asked(number=5)) == RUN and cache.status(asked(nothing, number=5)) == SKIP


class Large(NamedTuple):
    number: int
    leave: threading.Event | None = None
    on_device: bool = True

    def off_device(self):
        assert self.leave is not None and self.leave.wait(10)
        return self._replace(number=-self.number, on_device=False)


@stage(lambda **_: Work(1, 1.0))
def tuned(models, report, leave):
    return Large(6, leave.event)


@stage(lambda **_: Work(1, 1.0))
def add_one(models, report, large, second):
    return large.number + second


class Named:
    """An event whose name stands for it in a key."""

    def __init__(self) -> None:
        self.event = threading.Event()

    def __repr__(self) -> str:
        return "an event"


def test_what_lies_on_a_device_is_used_there_and_leaves_it_after_the_turn(tiny_v_models):
    editor, leave, run = Editor(tiny_v_models), Named(), Run()
    first = run("finetune", tuned, leave=leave)
    last = run("sampling", add_one, large=first, second=1)
    with pytest.raises(TypeError), editor.turn():
        compute(editor.cache, [first, asked(add_one, large=first, second="no number")])
    with editor.turn():  # in whose time the value is on its way
        values = compute(editor.cache, [first, last])
        assert (values[first].number, values[last]) == (6, 7)
    leave.event.set()
    finish = time.monotonic() + 10
    while editor.cache.get(first).on_device and time.monotonic() < finish:
        time.sleep(0.01)
    assert editor.cache.get(first).number == -6 and editor.cache.plan([first])["finetune"] == "reuse"


@pytest.mark.parametrize(
    "words",
    [
        "CUDA out of memory. Tried to allocate 2.00 GiB",
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
        "cuDNN error: CUDNN_STATUS_ALLOC_FAILED",
        "GET was unable to find an engine to execute this computation",
        "[enforce fail at alloc_cpu.cpp:121] DefaultCPUAllocator: can't allocate memory",
    ],
)
def test_out_of_memory_is_known_however_it_is_said(words):
    assert is_out_of_memory(RuntimeError(words))
    assert not is_out_of_memory(RuntimeError("shape '[2, 3]' is invalid for input of size 5"))


def test_the_cache_keeps_to_its_limit_and_drops_what_was_unused_longest():
    cache = LRU(1000)
    for key in "abc":
        cache.put(key, torch.zeros(100))  # 400 bytes each
        if key == "b":
            assert cache.get("a") is not None
    assert "b" not in cache
    assert "a" in cache
    assert "c" in cache
    assert cache.size == 800
    cache.put("large", torch.zeros(1000))
    assert "large" not in cache
    assert cache.size == 800
