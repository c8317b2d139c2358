"""What all event handlers of the page share: who waits for whom, and one sentence for whatever goes wrong."""

import functools
import html
import inspect
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import gradio as gr

from layerdiffusion.errors import EditError
from layerdiffusion.ui.spaces import on_zero_gpu

QUEUE = "device"
# There each has a GPU of its own. Two edits at once on two cores took 0.75 of the time of one after the other: the
# first would come later by half, and the second no sooner than before by more than a quarter.
AT_ONCE = 8 if on_zero_gpu() else 1
IN_TURN: dict[str, Any] = {"concurrency_id": QUEUE, "concurrency_limit": AT_ONCE}  # jobs
BESIDE: dict[str, Any] = {"concurrency_id": "clicks", "concurrency_limit": 4}  # what doesn't wait for them
SCORING: dict[str, Any] = {"concurrency_id": "inspection", "concurrency_limit": 1}  # what nobody waits for
QUIET: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}


def event_data(event: gr.EventData) -> dict[str, Any]:
    """What the browser sent with a component's own event; it may be anything."""
    return event._data if isinstance(event._data, dict) else {}


log = logging.getLogger(__name__)
SURPRISE = "Something went wrong here, and it is not your doing; try again, or reload the page."


def sentence(error: Exception) -> gr.Error:
    """The error as the page shows it; what the user typed may be in it, so it is escaped."""
    if isinstance(error, gr.Error):
        return error
    if isinstance(error, EditError):
        return gr.Error(html.escape(str(error), quote=False), title="Not yet", print_exception=False)
    log.exception("an event handler failed", exc_info=error)
    return gr.Error(SURPRISE, title="Sorry", print_exception=False)


def warn(error: Exception) -> None:
    """The same as a passing note, for handlers that go on."""
    shown = sentence(error)
    gr.Warning(shown.message, title=shown.title)


@contextmanager
def _sentences() -> Iterator[None]:
    try:
        yield
    except Exception as error:
        raise sentence(error) from None


def friendly(function: Callable) -> Callable:
    """The event handler, a function or a `partial` of one, with every exception turned into one sentence."""
    if inspect.isgeneratorfunction(function):

        def wrapped(*args: Any) -> Any:
            with _sentences():
                yield from function(*args)

    else:

        def wrapped(*args: Any) -> Any:
            with _sentences():
                return function(*args)

    functools.update_wrapper(wrapped, function)
    if isinstance(function, functools.partial):  # by its annotations Gradio sees that the event itself is wanted
        wrapped.__annotations__ = function.func.__annotations__
    return wrapped


def listen(
    event: Callable[..., Any],
    function: Callable,
    inputs: Any = None,
    outputs: Any = None,
    then: dict[str, Any] | None = None,
    **options: Any,
) -> Any:
    """Wire a component's `event`, as in `button.click`, to the handler; after it, however it ends, to `then`."""
    heard = event(friendly(function), inputs, outputs, **{**QUIET, **options})
    return heard.then(**then) if then else heard
