"""Hugging Face Spaces with ZeroGPU: a GPU for as long as an edit needs one; elsewhere nothing changes."""

import importlib.util
import inspect
import os
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from functools import wraps
from typing import Any

from layerdiffusion.errors import EditError

SLACK = 1.4  # a queue that ends an edit too early costs more than a booking that is a little too long
LEAST, MOST = 20, 300  # seconds
UNIT = 0.03  # seconds of one forward pass of one 512 × 512 picture there; no GPU is there to measure it at the start


def on_zero_gpu() -> bool:
    """Whether GPUs are lent by the call: Spaces says so, and the `spaces` package is there to ask for one."""
    lent = os.environ.get("SPACES_ZERO_GPU", "").lower() in ("1", "t", "true", "yes")
    return lent and importlib.util.find_spec("spaces") is not None


def gpu(seconds: Callable[..., float]) -> Callable[[Callable], Callable]:
    """A decorator: the function runs with a GPU booked for `seconds(*its arguments)`; elsewhere it is left as it is.

    There it runs in another process, from which ZeroGPU brings back the words of no error but Gradio's own: an
    `EditError` comes back as a value, and is raised here.
    """
    if not on_zero_gpu():
        return lambda function: function
    import spaces

    book = spaces.GPU(duration=lambda *args, **kwargs: booked(seconds(*args, **kwargs)))
    return lambda function: _raising(book(_telling(function)))


@dataclass(frozen=True)
class _Refusal:
    error: EditError


def _telling(function: Callable) -> Callable:
    """The function, or generator, with a `_Refusal` for its last value where it would raise an `EditError`."""

    @wraps(function)
    def generate(*args: Any, **kwargs: Any) -> Iterator[Any]:
        try:
            yield from function(*args, **kwargs)
        except EditError as error:
            yield _Refusal(error)

    @wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        try:
            return function(*args, **kwargs)
        except EditError as error:
            return _Refusal(error)

    return generate if inspect.isgeneratorfunction(function) else call


def _raising(function: Callable) -> Callable:
    """What `_telling` turned into a value is raised again."""

    @wraps(function)
    def generate(*args: Any, **kwargs: Any) -> Iterator[Any]:
        with closing(function(*args, **kwargs)) as values:
            for value in values:
                yield _known(value)

    @wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        return _known(function(*args, **kwargs))

    return generate if inspect.isgeneratorfunction(function) else call


def _known(value: Any) -> Any:
    if isinstance(value, _Refusal):
        raise value.error
    return value


def booked(seconds: float) -> int:
    """How long to book for an edit that is expected to take so many seconds."""
    return int(min(max(SLACK * seconds, LEAST), MOST))
