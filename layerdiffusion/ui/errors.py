"""Whatever goes wrong, the user reads one sentence, and the log has the rest."""

import functools
import html
import inspect
import logging
from collections.abc import Callable
from typing import Any

import gradio as gr

from layerdiffusion.errors import EditError

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


def friendly(function: Callable) -> Callable:
    """The event handler with every exception turned into one sentence."""
    if inspect.isgeneratorfunction(function):

        @functools.wraps(function)
        def wrapped(*args: Any) -> Any:
            try:
                yield from function(*args)
            except Exception as error:
                raise sentence(error) from None

    else:

        @functools.wraps(function)
        def wrapped(*args: Any) -> Any:
            try:
                return function(*args)
            except Exception as error:
                raise sentence(error) from None

    return wrapped
