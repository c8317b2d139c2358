"""However a job ends, its button comes back and the tab can start the next."""

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from types import SimpleNamespace

import gradio as gr
import pytest

from layerdiffusion.errors import EditError
from layerdiffusion.progress import Cancelled, Progress
from layerdiffusion.ui.handlers.jobs import begin, followed, idle, job, limit_waiting, refused, stop
from layerdiffusion.ui.session import Session
from layerdiffusion.ui.widgets.progress import ProgressView


@pytest.fixture
def session() -> Session:
    session = Session()
    begin(session)
    return session


def handler(work):
    return partial(job, work, 2, "It is cancelled.")


def test_a_line_alone_leaves_the_outputs_as_they_are(session):
    def work(session, word):
        yield (word,)
        yield "done", 1, 2

    assert [*handler(work)(session, "hello")] == [
        (gr.skip(), gr.skip(), "hello", gr.skip(), gr.skip()),
        (gr.skip(), gr.skip(), "done", 1, 2),
        (*idle(), gr.skip(), gr.skip(), gr.skip()),
    ]
    assert not session.running


def test_cancel_is_no_error(session):
    def work(session):
        yield ("half",)
        raise Cancelled("stop")

    *buttons, line, first, second = [*handler(work)(session)][-1]
    assert tuple(buttons) == idle() and "It is cancelled." in line and first == second == gr.skip()
    assert not session.running


def test_an_error_is_raised_after_the_button_is_back(session):
    def work(session):
        raise EditError("no")
        yield

    updates = handler(work)(session)
    assert next(updates) == (*idle(), "", gr.skip(), gr.skip())
    with pytest.raises(EditError, match="no"):
        next(updates)
    assert not session.running


def test_a_closed_tab_ends_the_work_and_frees_the_session(session):
    ended = threading.Event()

    def work(session):
        try:
            while True:
                yield ("on",)
        finally:
            ended.set()

    updates = handler(work)(session)
    next(updates)
    updates.close()
    assert ended.is_set() and not session.running


def test_one_job_at_a_time(session):
    with pytest.raises(EditError, match="still running"):
        begin(session)


def test_a_full_queue_refuses_jobs_in_plain_words_and_no_click():
    async def push(**event):
        return True, "its number", "success"

    waiting = {"device": SimpleNamespace(queue=[None] * 8)}
    queue = SimpleNamespace(event_queue_per_concurrency_id=waiting, push=push)
    fns = {0: SimpleNamespace(concurrency_id="device"), 1: SimpleNamespace(concurrency_id="clicks")}
    limit_waiting(SimpleNamespace(_queue=queue, fns=fns), 8)

    def ask(fn: int):
        answer = queue.push(body=SimpleNamespace(fn_index=fn), request=None, username=None)
        with ThreadPoolExecutor() as pool:  # this thread may have a loop of its own: the browser's
            return pool.submit(asyncio.run, answer).result()

    assert ask(0) == (False, "8 people are waiting already; try again in a minute.", "queue_full")
    assert ask(1)[0]
    waiting["device"].queue.pop()
    assert ask(0)[0]


def test_a_job_that_the_full_queue_refused_can_be_started_again(session):
    *buttons, line = refused(session)
    assert tuple(buttons) == idle() and "try again" in line and not session.running
    begin(session)
    updates = handler(lambda session: (update for update in ()))(session)
    list(updates)
    assert refused(session) == gr.skip(), "it ran, and gave its button back itself"


def test_following_shows_each_step_and_returns_the_result(session):
    def run(cancel):
        yield "progress", [Progress("sampling", 1, 4)]
        yield "done", "result"

    shown = []

    def work():
        result = yield from followed(session, ProgressView({"sampling": "run"}), run)
        shown.append(result)

    assert ["step 1 of 4" in line for (line,) in work()] == [True] and shown == ["result"]
    stop(session)
    with pytest.raises(Cancelled):
        next(followed(session, ProgressView({}), run))
