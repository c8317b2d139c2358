"""When a tab's work is forgotten: a while after it was closed, and never while it is open, however long it rests.

And when a call is ended that nobody listens to. Gradio ends the calls of those whom it sees leave; whoever sends a
call and is gone before they listen to its answer was never there to be seen.

Gradio counts a `gr.State`'s time from when it was last an output, which the session never is, and doesn't know when a
tab comes back after a break in its connection. Open tabs are known by requests that end with them: their heartbeat,
and the answers that they listen to.
"""

import asyncio
import math
import re
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

SWEEPS = 20  # in that time
PATIENCE = {"/queue/join": 4.0, "/call/": 60.0}  # seconds until a call is listened to: a program's, one typed by hand
LOOK = 0.5  # seconds between two looks at the calls
_LISTENS = re.compile(r"/heartbeat/([^/?]+)|/queue/data\?(?:.*&)?session_hash=([^&]+)|/call/[^?]+/([^/?]+)")


class OpenTabs:
    """Which sessions have their tab open; forgets the others `keep_seconds` after they were last seen."""

    def __init__(self, keep_seconds: float) -> None:
        self.keep_seconds = keep_seconds
        self._open: Counter[str] = Counter()  # requests by session, or by call where there is no session
        self._seen: dict[str, tuple[Any, float]] = {}  # session: Gradio's time of its last event, when that was noted

    def middleware(self, app: Any) -> Any:
        """Counts the requests that end with their tab."""

        async def watched(scope: Any, receive: Any, send: Any) -> None:
            asked = f"{scope.get('path', '')}?{scope.get('query_string', b'').decode('latin-1')}"
            listens = _LISTENS.search(asked) if scope.get("method") == "GET" else None
            session = next(filter(None, listens.groups())) if listens else ""
            self._open[session] += 1
            try:
                await app(scope, receive, send)
            finally:
                self._open[session] -= 1
                if not self._open[session]:
                    del self._open[session]

        return watched

    @asynccontextmanager
    async def lifespan(self, app: Any) -> AsyncIterator[None]:
        """Forget on time for as long as the server runs."""

        async def sweep() -> None:
            while True:
                await asyncio.sleep(self.keep_seconds / SWEEPS)
                self.forget_closed(app.state_holder, time.monotonic())

        async def listen() -> None:
            while True:
                await asyncio.sleep(LOOK)
                await self.end_unheard(app.get_blocks()._queue, time.monotonic())

        tasks = [asyncio.create_task(task()) for task in (sweep, listen)]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()

    async def end_unheard(self, queue: Any, now: float) -> None:
        """End the calls in Gradio's `queue` that nobody has listened to for too long; `now` in seconds."""
        waiting = [event for line in queue.event_queue_per_concurrency_id.values() for event in line.queue]
        for event in [*waiting, *(event for job in queue.active_jobs for event in job or ())]:
            patience = next((PATIENCE[way] for way in PATIENCE if way in event.request.url.path), math.inf)
            if event.session_hash not in self._open and now - event.enqueue_time > patience:
                await queue.clean_events(session_hash=event.session_hash)

    def forget_closed(self, holder: Any, now: float) -> None:
        """Drop the sessions of Gradio's `StateHolder` whose time has come; `now` in seconds."""
        for session in list(holder.session_data):
            last_event = holder.time_last_used.get(session)
            before, noted = self._seen.get(session, (None, now))
            if session in self._open or last_event != before:
                self._seen[session] = last_event, now
            elif now - noted > self.keep_seconds:
                with holder.lock:
                    holder.session_data.pop(session, None)
                    holder.time_last_used.pop(session, None)
        self._seen = {session: seen for session, seen in self._seen.items() if session in holder.session_data}
