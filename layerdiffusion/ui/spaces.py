"""Hugging Face Spaces with ZeroGPU: a GPU for as long as some stages need one; elsewhere nothing changes.

There a GPU call runs in a forked process that serves the next visitor as well. It gets the stages with their inputs,
and sends back what each comes to, which only this process caches.
"""

from __future__ import annotations

import importlib.util
import itertools
import os
import pickle
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from layerdiffusion.errors import EditError
from layerdiffusion.ui.follow import follow

if TYPE_CHECKING:
    from layerdiffusion.cache import Stage
    from layerdiffusion.models.models import Models
    from layerdiffusion.progress import Reporter

SLACK = 1.4  # a call that ends too early costs more than a booking that is a little too long
SETUP = 5  # seconds until the weights are on the GPU, as assumed: no run there has been timed yet
LEAST, MOST = 10, 300  # seconds of a booking
UNIT = 0.03  # seconds of one forward pass of one 512 × 512 picture there, until a call has shown the true ones
SIZE = "large"  # half a card, 48 GB; the whole one costs twice as much
CHARGED = 1.5  # of a booking of that size, before it is compared with what is left (`spaces` 0.51, `zero/client.py`)
# GPU seconds a day without an account, with a free one and with Pro (hub documentation, Spaces ZeroGPU).
VISITOR, ACCOUNT, PRO = 120, 300, 2400
BOOKINGS = (("background",), ("inversion", "embeddings", "finetune"), ("sampling",))  # stages that share a GPU call
CUT_OFF = "The GPU was taken back before the edit was done; press Run again: finished stages are still there."


def on_zero_gpu() -> bool:
    """Whether GPUs are lent by the call: Spaces says so, and the `spaces` package is there to ask for one."""
    lent = os.environ.get("SPACES_ZERO_GPU", "").lower() in ("1", "t", "true", "yes")
    return lent and importlib.util.find_spec("spaces") is not None


def with_login() -> bool:
    """Whether visitors can log in to their Hugging Face account: the Space has `hf_oauth` in its front matter."""
    return bool(os.environ.get("SPACE_ID") and os.environ.get("OAUTH_CLIENT_ID"))


@dataclass(frozen=True)
class _Made:
    """What a stage has come to, pickled here: multiprocessing would take shared memory for each of its tensors."""

    value: bytes


class ZeroGPU:
    """Runs stages on a GPU that is lent by the call; the cache's `RemoteRunner`.

    `models` is asked for the loaded models in the worker, which has them from before it was forked.
    """

    def __init__(self, models: Callable[[], Models]) -> None:
        import spaces

        self._models = models
        self._call = spaces.GPU(duration=lambda seconds, *_: seconds, size=SIZE)(self._work)

    def together(self, stages: Sequence[Stage[object]]) -> list[Stage[object]]:
        """The first of `stages`, with those that share its booking."""
        return next(split(stages))

    def run(self, stages: Sequence[Stage[object]], report: Reporter) -> Generator[object, None, None]:
        """What each stage comes to, from one GPU call; raises an `EditError`, or Gradio's for a quota or a queue."""
        try:
            speeds = dict(report.seconds_per_pass)
            with closing(self._call(booked(stages, speeds), pickle.dumps(stages), speeds, report.work)) as batches:
                for events, speeds in batches:
                    report.seconds_per_pass.update(speeds)
                    for event in events:
                        if isinstance(event, _Made):
                            yield pickle.loads(event.value)
                        elif isinstance(event, EditError):
                            raise event
                        else:
                            report.forward(event)
        except Exception as error:
            if getattr(error, "title", "") == "ZeroGPU worker error":
                raise EditError(CUT_OFF) from error
            raise

    def _work(self, seconds: int, pickled: bytes, speeds: dict[str, float], work: dict) -> Iterator[Any]:
        """In the worker: (what was reported, the speeds) now and then; an `EditError` is reported, as no words of
        an error but Gradio's own come back.

        It takes no lock and looks at no cache: what it has of them is a copy from the moment of the fork.
        """
        import torch

        from layerdiffusion.cache import OnDevice
        from layerdiffusion.progress import Reporter

        torch.set_num_threads(1)  # the pool of OpenMP's threads does not survive a fork

        def run(put: Callable[[Any], None], cancel: Any) -> None:
            report, values = Reporter(speeds, work, put, cancel), dict[Any, Any]()
            for stage in pickle.loads(pickled):
                values[stage] = made = stage.with_values(values).run(self._models(), report)
                report.finish(stage.name, stage.work.steps, 0.0)
                # The process that asked for it has no GPU.
                put(_Made(pickle.dumps(made.off_device() if isinstance(made, OnDevice) else made)))

        try:
            with closing(follow(run, None)) as events:
                for kind, reported in events:
                    if kind == "progress":
                        yield reported, dict(speeds)
        except EditError as error:
            yield [error.with_traceback(None)], dict(speeds)


def split(stages: Sequence[Stage[object]]) -> Iterator[list[Stage[object]]]:
    """The stages of each booking."""
    place = {name: number for number, names in enumerate(BOOKINGS) for name in names}
    for _, group in itertools.groupby(stages, lambda stage: place[stage.name]):
        yield list(group)


def booked(stages: Sequence[Stage[object]], speeds: Mapping[str, float]) -> int:
    """How many seconds to book for the stages of one GPU call."""
    from layerdiffusion.cache import seconds_of

    return round(min(max(SETUP + SLACK * (seconds_of(stages, speeds) or 0.0), LEAST), MOST))


def charged(bookings: Sequence[int]) -> int:
    """How many seconds of a daily quota the bookings are compared with."""
    return sum(round(CHARGED * seconds) for seconds in bookings)


def quota_sentence(bookings: Sequence[int]) -> str:
    """What a visitor reads of the bookings of an edit before it runs; empty where there are none."""
    if not bookings:
        return ""
    whole = charged(bookings)
    parts = f" ({' + '.join(map(str, bookings))})" if len(bookings) > 1 else ""
    cost = f"It books {sum(bookings)} seconds of GPU time{parts}, which count as {whole}"
    if whole <= VISITOR:
        return f"{cost}; without an account you have {VISITOR} a day, with a free one {ACCOUNT}."
    if whole <= ACCOUNT:
        return f"{cost}, more than the {VISITOR} a day without an account: log in to Hugging Face, or choose Quick."
    pro = f"a Pro account has {PRO}"
    return f"{cost}, more than the {ACCOUNT} a day of a free account: choose Quick or fewer steps; {pro}."
