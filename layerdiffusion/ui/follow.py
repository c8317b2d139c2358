"""Work in a thread, followed step by step."""

import contextvars
import queue
import threading
from collections.abc import Callable, Generator
from typing import Any

PULSE = 0.2  # seconds between two looks at work in progress


def follow(work: Callable[[Callable[[Any], None], threading.Event], Any], cancel: threading.Event | None) -> Generator:
    """Run `work(report, cancel)` in a thread: ("progress", what it reports) now and then, ("done", its value).

    Closing the generator, as Gradio does when a tab is closed, cancels the work and waits for its last step. The
    thread has the caller's context, by which ZeroGPU knows whose request it is.
    """
    cancel = cancel or threading.Event()
    events: queue.SimpleQueue = queue.SimpleQueue()
    end = object()
    outcome: dict[str, Any] = {}

    def run() -> None:
        try:
            outcome["value"] = work(events.put, cancel)
        except BaseException as error:  # handed to whoever follows
            outcome["error"] = error
        events.put(end)

    thread = threading.Thread(target=contextvars.copy_context().run, args=(run,), name="edit", daemon=True)
    thread.start()
    finished = False
    try:
        while not finished:
            batch = [events.get()]
            thread.join(PULSE)
            while not events.empty():
                batch.append(events.get())
            finished = end in batch
            if steps := [event for event in batch if event is not end]:
                yield "progress", steps
    finally:
        if not finished:
            cancel.set()
        thread.join()
    if "error" in outcome:
        raise outcome["error"]
    yield "done", outcome["value"]
