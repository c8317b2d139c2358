"""Hugging Face Spaces with ZeroGPU: a GPU for as long as an edit needs one; elsewhere nothing changes."""

import importlib.util
import os
from collections.abc import Callable

SLACK = 1.4  # a queue that ends an edit too early costs more than a booking that is a little too long
LEAST, MOST = 20, 300  # seconds


def on_zero_gpu() -> bool:
    """Whether GPUs are lent by the call: Spaces says so, and the `spaces` package is there to ask for one."""
    lent = os.environ.get("SPACES_ZERO_GPU", "").lower() in ("1", "t", "true", "yes")
    return lent and importlib.util.find_spec("spaces") is not None


def gpu(seconds: Callable[..., float]) -> Callable[[Callable], Callable]:
    """A decorator: the function runs with a GPU booked for `seconds(*its arguments)`; elsewhere it is left as it is."""
    if not on_zero_gpu():
        return lambda function: function
    import spaces

    return spaces.GPU(duration=lambda *args, **kwargs: booked(seconds(*args, **kwargs)))


def booked(seconds: float) -> int:
    """How long to book for an edit that is expected to take so many seconds."""
    return int(min(max(SLACK * seconds, LEAST), MOST))
