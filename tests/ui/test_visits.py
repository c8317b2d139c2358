"""A closed tab's work is forgotten in its time, an open tab's never."""

import threading
from datetime import datetime
from types import SimpleNamespace

import pytest

from layerdiffusion.ui.launch import OpenTabs

KEEP = 100.0


class Holder(SimpleNamespace):
    """As much of Gradio's `StateHolder` as there is to forget in."""

    def __init__(self) -> None:
        super().__init__(session_data={}, time_last_used={}, lock=threading.Lock())

    def event(self, session: str) -> None:
        self.session_data[session] = object()
        self.time_last_used[session] = datetime.now()


@pytest.fixture
def tabs() -> OpenTabs:
    return OpenTabs(KEEP)


@pytest.fixture
def holder() -> Holder:
    return Holder()


def test_a_session_is_forgotten_after_its_time(tabs, holder):
    holder.event("closed")
    tabs.forget_closed(holder, 0)
    tabs.forget_closed(holder, KEEP)
    assert "closed" in holder.session_data
    tabs.forget_closed(holder, KEEP + 1)
    assert not holder.session_data and not holder.time_last_used


def test_an_open_tab_loses_nothing_and_its_time_starts_when_it_closes(tabs, holder):
    holder.event("open")
    tabs._open["open"] += 1
    for now in range(0, 1000, 50):
        tabs.forget_closed(holder, now)
    del tabs._open["open"]
    tabs.forget_closed(holder, 950 + KEEP)
    assert "open" in holder.session_data
    tabs.forget_closed(holder, 951 + KEEP)
    assert not holder.session_data


def test_every_event_starts_the_time_anew(tabs, holder):
    for now in range(0, 1000, 90):
        holder.event("used")
        tabs.forget_closed(holder, now)
        tabs.forget_closed(holder, now + 80)
        assert "used" in holder.session_data
