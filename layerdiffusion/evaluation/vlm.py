"""An optional judge: a vision-language model behind any address that speaks OpenAI's chat API."""

from __future__ import annotations

import base64
import json
import os
import re
import urllib.error
import urllib.request
from collections.abc import Sequence
from typing import Any

from PIL import Image

from layerdiffusion.edit import Edit
from layerdiffusion.errors import EditError
from layerdiffusion.images.io import png_bytes

SCALES = ("action", "subject", "background")
MOST = 5  # of a rating, as in the paper's user study; 1 is the least
TIMEOUT = 120.0  # seconds
KEY = "OPENAI_API_KEY"  # the environment variable whose value, if any, is sent as the bearer token
PROMPT = """You compare an edited photo with what was asked for. The first picture is the photo, {background}the last \
one the result. The edit asked for: "{prompt}". Rate the result on three scales from 1 (not at all) to 5 (perfectly):
"action": its subject does and looks as the words ask;
"subject": apart from what the words change, its subject is the very one of the photo;
"background": its background is {wanted}.
Answer with JSON alone, as in {{"action": 3, "subject": 4, "background": 2}}."""


class VlmJudge:
    """Asks the model `model` at `url`, such as http://127.0.0.1:8000/v1, what it makes of results.

    A value of `OPENAI_API_KEY` is sent as the bearer token, and written nowhere.
    """

    def __init__(self, url: str, model: str) -> None:
        self.url, self.model = url.rstrip("/"), model

    def __call__(
        self, edit: Edit, photo: Image.Image, background: Image.Image | None, images: Sequence[Image.Image]
    ) -> tuple[list[dict[str, int]], dict[str, Any]]:
        """For each result "vlm_action", "vlm_subject" and "vlm_background", 1 to 5; and what was asked and answered.

        `photo` and `background`, None where there is no reference, are as the model that edits sees them. Raises an
        `EditError` where the address doesn't answer, or not as asked.
        """
        wanted = {
            "reference": "that of the second picture",
            "keep": "that of the photo",
            "generate": "as the words ask",
        }
        second = "and " if background is None else "the second one the background that is wanted, and "
        prompt = PROMPT.format(prompt=edit.prompt, background=second, wanted=wanted[edit.background])
        answers = [self._ask(prompt, [p for p in (photo, background, image) if p is not None]) for image in images]
        found = [self._rating(answer) for answer in answers]
        return found, {"model": self.model, "url": self.url, "prompt": prompt, "answers": answers}

    def _ask(self, prompt: str, pictures: Sequence[Image.Image]) -> str:
        urls = [f"data:image/png;base64,{base64.b64encode(png_bytes(picture)).decode()}" for picture in pictures]
        content = [{"type": "text", "text": prompt}, *({"type": "image_url", "image_url": {"url": u}} for u in urls)]
        body = {"model": self.model, "temperature": 0, "messages": [{"role": "user", "content": content}]}
        headers = {"Content-Type": "application/json"}
        if key := os.environ.get(KEY):
            headers["Authorization"] = f"Bearer {key}"
        try:
            request = urllib.request.Request(f"{self.url}/chat/completions", json.dumps(body).encode(), headers)
            with urllib.request.urlopen(request, timeout=TIMEOUT) as reply:
                return str(json.load(reply)["choices"][0]["message"]["content"])
        except (OSError, ValueError, LookupError, TypeError) as error:  # refused, an error status, or no such answer
            words = f"status {error.code}" if isinstance(error, urllib.error.HTTPError) else str(error)
            raise EditError(
                f"The judge at {self.url} didn't answer ({words}); check --judge-url and --judge-model."
            ) from error

    def _rating(self, answer: str) -> dict[str, int]:
        found = re.search(r"\{[^{}]*\}", answer)
        try:
            rating = json.loads(found[0]) if found else {}
        except ValueError:
            rating = {}
        if not all(type(rating.get(scale)) is int and 1 <= rating[scale] <= MOST for scale in SCALES):
            raise EditError(
                f"The judge {self.model} answered {answer[:60]!r}, not a rating from 1 to {MOST} on each scale; "
                "try another one."
            )
        return {f"vlm_{scale}": rating[scale] for scale in SCALES}
