"""The button that downloads the model for photographs and switches to it, where the server's owner allows it."""

from collections.abc import Iterator
from typing import Any

from layerdiffusion.ui.backend import Backend
from layerdiffusion.ui.handlers.badge import badge
from layerdiffusion.ui.jobs import Work, connect_cancel, connect_job, followed
from layerdiffusion.ui.page import Page
from layerdiffusion.ui.session import Session
from layerdiffusion.ui.widgets.dials import dial_values
from layerdiffusion.ui.widgets.progress import DownloadView, waiting_html

CANCELLED = '<p class="ld-plan"><b>Cancelled.</b> Files that have come are kept.</p>'


def connect(page: Page, backend: Backend, refresh: dict[str, Any]) -> None:
    """Wire the button and its Cancel, if there are any."""
    controls = page.header.laptop
    if controls is None:
        return
    outputs = [page.header.badge, page.header.notice, *page.dials.components]
    connect_job(controls.start, controls, switcher(backend), [page.state], outputs, lambda _: CANCELLED, refresh)
    connect_cancel(controls, page.state)


def switcher(backend: Backend) -> Work:
    def switch(session: Session) -> Iterator[tuple[Any, ...]]:
        yield (waiting_html("Looking for the model …"),)
        yield from followed(session, DownloadView(), backend.switch)
        yield "", badge(backend), "", *dial_values(backend.opening())

    return switch
