"""When a tab's work is forgotten: a while after it was closed, and never while it is open, however long it rests.

Gradio counts a `gr.State`'s time from when it was last an output, which the session never is, and doesn't know when a
tab comes back after a break in its connection. Open tabs are known by their heartbeat: a request that ends with them.
"""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

SWEEPS = 20  # in that time
_HEARTBEAT = "/heartbeat/"


class OpenTabs:
    """Which sessions have their tab open; forgets the others `keep_seconds` after they were last seen."""

    def __init__(self, keep_seconds: float) -> None:
        self.keep_seconds = keep_seconds
        self._open: Counter[str] = Counter()
        self._seen: dict[str, tuple[Any, float]] = {}  # session: Gradio's time of its last event, when that was noted

    def middleware(self, app: Any) -> Any:
        """Notes which sessions have their heartbeat open."""
        async def watched(scope: Any, receive: Any, send: Any) -> None:
            path = scope.get("path", "")
            if scope["type"] != "http" or _HEARTBEAT not in path:
                await app(scope, receive, send)
                return
            session = path.rpartition("/")[2]
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

        task = asyncio.create_task(sweep())
        try:
            yield
        finally:
            task.cancel()

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
