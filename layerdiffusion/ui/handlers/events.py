"""What all event handlers of the page share: who waits for whom, and what stays out of sight."""

from typing import Any

import gradio as gr

QUEUE = "device"
IN_TURN: dict[str, Any] = {"concurrency_id": QUEUE, "concurrency_limit": 1}  # whatever runs a network: one at a time
QUIET: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}


def event_data(event: gr.EventData) -> dict[str, Any]:
    """What the browser sent with a component's own event; it may be anything."""
    return event._data if isinstance(event._data, dict) else {}
