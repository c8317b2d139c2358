"""The cache beside a running edit: whoever only looks at it never meets an entry on its way out."""

from __future__ import annotations

import sys
import threading
import time

import numpy as np
import pytest

from layerdiffusion.models.memory import is_out_of_memory
from layerdiffusion.runtime import RUN, SKIP, Runtime, Stage, StageCache


@pytest.fixture
def often_interrupted():
    """Threads take turns after every few steps, so that what can go wrong between two does."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


def test_the_cache_is_read_while_another_thread_drops_entries(often_interrupted):
    cache, end, errors = StageCache(200), threading.Event(), []

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


def double(models, report, number, mask=None):
    return 2 * number


def add(models, report, first, second):
    return first + second


def stage(run=double, steps=1, **inputs) -> Stage:
    return Stage("sampling", inputs, steps, 1.0, run)


def test_a_key_is_made_of_the_inputs_the_function_and_the_stages_before():
    assert stage(number=1).key == stage(number=1).key
    others = [
        stage(number=2),
        stage(number=1, mask=np.zeros((2, 2), bool)),
        stage(add, first=1, second=2),
        stage(add, first=stage(number=1), second=2),
        stage(add, first=stage(number=2), second=2),
        stage(add, first=2, second=stage(number=1)),
    ]
    assert len({stage(number=1).key, *(other.key for other in others)}) == len(others) + 1
    assert Stage("sampling", None, 1, 1.0, double).key is None


def test_a_stage_gets_the_values_of_the_stages_it_names_and_runs_once(tiny_v_models):
    runtime = Runtime(tiny_v_models)
    first = Stage("embeddings", {"number": 3}, 1, 1.0, double)
    last = stage(add, first=first, second=1)
    with runtime.turn():
        finished = runtime.run_stages([first, last], runtime.reporter([first, last], None, None))
    assert (finished[first], finished[last]) == (6, 7)
    assert runtime.plan([first, last]) == {"embeddings": "reuse", "sampling": "reuse"}
    assert runtime.cached(last) == 7 and runtime.cached(stage(number=5)) is None
    assert runtime.status(stage(number=5)) == RUN and runtime.status(stage(steps=0, number=5)) == SKIP


def test_what_lies_on_a_device_is_used_there_and_leaves_it_after_the_turn(tiny_v_models):
    runtime, leave, left = Runtime(tiny_v_models), threading.Event(), threading.Event()

    def moved(value):
        leave.wait(10)
        left.set()
        return -value

    first = Stage("finetune", {"number": 3}, 1, 1.0, double, stored=moved)
    last, fails = stage(add, first=first, second=1), stage(add, first=first, second="no number")
    with pytest.raises(TypeError), runtime.turn():
        runtime.run_stages([first, fails], runtime.reporter([first, fails], None, None))
    with runtime.turn():  # in whose time the value is on its way
        finished = runtime.run_stages([first, last], runtime.reporter([first, last], None, None))
        assert (finished[first], finished[last]) == (6, 7)
    leave.set()
    assert left.wait(10)
    finish = time.monotonic() + 10
    while runtime.cached(first) != -6 and time.monotonic() < finish:
        time.sleep(0.01)
    assert runtime.cached(first) == -6 and runtime.plan([first])["finetune"] == "reuse"


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
