"""The one thing all tabs share: the loaded models and their editor, loaded in the background while the page opens."""

import json
import logging
import os
import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from layerdiffusion.edit import Edit
from layerdiffusion.errors import EditError, ModelError
from layerdiffusion.settings import PAPER, Settings
from layerdiffusion.ui.examples import ASSETS
from layerdiffusion.ui.options import Options
from layerdiffusion.ui.spaces import UNIT, gpu, on_zero_gpu

if TYPE_CHECKING:
    from layerdiffusion.editor import Editor
    from layerdiffusion.progress import Progress

GIB = 2**30
PULSE = 0.2  # seconds between two looks at an edit in progress
PATIENCE = 600  # seconds to wait for a model to load, hub downloads included
log = logging.getLogger(__name__)


class Backend:
    """Loads the models once, in a thread; whoever needs them first waits for them."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self._done = threading.Event()
        self._editor: Editor | None = None
        self._segmenter: Any = None
        self._miniature = options.model == "miniature"  # as far as is known before it is loaded
        self._usual: float | None = None  # the most out of distribution that a scene of the toybox is
        self._error: str | None = None
        self._lock = threading.Lock()
        self.run = gpu(self.seconds)(self._run)
        self.generate = gpu(lambda prompt, seeds, settings, photo, cancel: 10 * len(seeds))(self._generate)
        self.compare = gpu(self.compared_seconds)(self._compare)
        self.candidates = gpu(lambda image, points, labels, box: 10)(self._candidates)
        self.out_of_distribution = gpu(lambda image: 5)(self._out_of_distribution)
        self.scores = gpu(lambda images, prompt: 10)(self._scores)

    def start(self) -> None:
        """Load in the background; on ZeroGPU at once, which wants its weights before the first request."""
        if self.options.offline:
            os.environ |= {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
        if on_zero_gpu():
            self._load()
        else:
            threading.Thread(target=self._load, name="load-models", daemon=True).start()

    def _load(self) -> None:
        try:
            from layerdiffusion.editor import Editor
            from layerdiffusion.models.load import MINIATURE, load_models

            models = load_models(self.options.model, self.options.device)
            limit = self.options.cache_gb
            editor = Editor(models, None if limit is None else int(limit * GIB))
            if on_zero_gpu():
                editor.runtime.assume(UNIT)
            else:
                editor.measure()
            self._miniature = models.folder == MINIATURE
            self._editor = editor
        except EditError as error:
            self._error = str(error)
            log.error("%s", error)
        except Exception:
            self._error = "The model can't be loaded; the log of the program says why."
            log.exception("loading the model failed")
        self._done.set()
        if self._editor is not None:
            try:
                self.segmenter()
            except EditError as error:
                log.error("%s", error)

    @property
    def ready(self) -> bool:
        return self._done.is_set() and self._editor is not None

    @property
    def loading(self) -> bool:
        return not self._done.is_set()

    @property
    def editor(self) -> "Editor":
        """The editor, once there is one; raises `ModelError` when there will be none."""
        if not self._done.wait(PATIENCE):
            raise ModelError("The model is still loading; try again in a minute.")
        if self._editor is None:
            raise ModelError(self._error or "There is no model.")
        return self._editor

    def segmenter(self) -> Any:
        """The `Segmenter`: the one asked for, else the model's own."""
        editor = self.editor
        with self._lock:
            if self._segmenter is None:
                if self.options.sam is None:
                    self._segmenter = editor.models.segmenter()
                else:
                    from layerdiffusion.models.sam import load_sam
                    from layerdiffusion.models.segmenter import Segmenter

                    self._segmenter = Segmenter(load_sam(self.options.sam, editor.models.device))
            return self._segmenter

    @property
    def is_miniature(self) -> bool:
        """Whether it is the embedded model, as far as is known before it is loaded."""
        return self._miniature

    def window(self, shape: str, photo: tuple[int, int]) -> tuple[int, int]:
        """The size (W, H) of the pictures that are made of a photo of size `photo`."""
        return self.editor.models.window(shape, photo)

    def defaults(self) -> Settings:
        """The model's own settings; before it is loaded, the embedded one's as its folder has them."""
        if self.ready:
            return self.editor.models.defaults
        if self.options.model in ("auto", "miniature"):
            path = ASSETS / "miniature" / "settings.json"
            if path.is_file():
                return Settings.from_dict(json.loads(path.read_text(encoding="utf-8"))).resolve(PAPER)
        return PAPER

    def seconds(self, edit: Edit, settings: Settings, cancel: Any = None) -> float:
        """How long the edit would take now."""
        return self.editor.estimate(edit, settings) or 60.0

    def compared_seconds(self, name: str, edit: Edit, settings: Settings, cancel: Any = None) -> float:
        """How long a baseline would take now."""
        return self.editor.estimate(edit, settings, name) or 60.0

    def _run(self, edit: Edit, settings: Settings, cancel: threading.Event | None) -> Iterator[Any]:
        """("progress", list of `Progress`) several times a second, and at last ("done", the `Result`)."""
        editor = self.editor
        yield from follow(lambda report, stop: editor.run(edit, settings, report, stop), cancel)

    def _generate(
        self, prompt: str, seeds: Sequence[int], settings: Settings, photo: tuple[int, int], cancel: Any
    ) -> Iterator[Any]:
        """The same with backgrounds generated for a photo of that size, one for each seed."""
        editor = self.editor
        yield from follow(
            lambda report, stop: editor.generate_backgrounds(prompt, seeds, settings, report, stop, photo), cancel
        )

    def _compare(self, name: str, edit: Edit, settings: Settings, cancel: threading.Event | None) -> Iterator[Any]:
        """The same with a baseline's pictures."""
        editor = self.editor
        yield from follow(lambda report, stop: editor.run(edit, settings, report, stop, method=name), cancel)

    # What follows takes a turn on the device, as edits do.

    def _candidates(self, image: np.ndarray, points: list, labels: list | None, box: Any) -> list[Any]:
        segmenter = self.segmenter()
        with self.editor.runtime.turn():
            return segmenter.candidates(points, labels, box, image=image)

    def _out_of_distribution(self, image: Image.Image) -> bool:
        """Whether the picture is further from the toybox than any of its scenes; False before the model is there."""
        if not self.ready:
            return False
        from layerdiffusion.miniature.out_of_distribution import ood_score, ood_threshold

        models = self.editor.models
        with self.editor.runtime.turn():
            if self._usual is None:
                self._usual = ood_threshold(models)
            return ood_score(models, image) > self._usual

    def _scores(self, images: list[Image.Image], prompt: str) -> list[float] | None:
        """CLIP's cosine of each picture and the prompt; None where no CLIP can be had."""
        from layerdiffusion.models.clip import clip_score

        try:
            with self.editor.runtime.turn():
                return clip_score(self.editor.models, images, prompt)
        except ModelError as error:
            log.warning("%s", error)
            return None

    def scores_or_none(self, result: Any) -> list[float | None]:
        """For each of the result's pictures its score, or None where there is none."""
        return self.scores(result.images, result.edit.prompt) or [None] * len(result.images)


def follow(
    work: Callable[[Callable[["Progress"], None], threading.Event], Any], cancel: threading.Event | None
) -> Iterator[Any]:
    """Run `work(on_progress, cancel)` in a thread: ("progress", what it reports) now and then, ("done", its value).

    Closing the generator, as Gradio does when a tab is closed, cancels the work and waits for its last step.
    """
    cancel = cancel or threading.Event()
    events: queue.SimpleQueue = queue.SimpleQueue()
    end = object()
    outcome: dict[str, Any] = {}

    def run() -> None:
        try:
            outcome["value"] = work(events.put, cancel)
        except BaseException as error:  # handed to whoever follows
            outcome["error"] = error
        events.put(end)

    thread = threading.Thread(target=run, name="edit", daemon=True)
    thread.start()
    finished = False
    try:
        while not finished:
            batch = [events.get()]
            thread.join(PULSE)
            while not events.empty():
                batch.append(events.get())
            finished = end in batch
            if steps := [event for event in batch if event is not end]:
                yield "progress", steps
    finally:
        if not finished:
            cancel.set()
        thread.join()
    if "error" in outcome:
        raise outcome["error"]
    yield "done", outcome["value"]
