"""What all event handlers of the page share: who waits for whom, and what stays out of sight."""

from typing import Any

import gradio as gr

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
