"""The one thing all tabs share: the loaded models and their editor, loaded in the background while the page opens."""

import contextlib
import logging
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from layerdiffusion import hub
from layerdiffusion.baselines import OWN
from layerdiffusion.edit import Edit
from layerdiffusion.errors import EditError, ModelError, SettingsError
from layerdiffusion.scoring import Score, background_change, result_subjects, score_results
from layerdiffusion.settings import PAPER, Settings, model_settings, preset
from layerdiffusion.ui.examples import ASSETS
from layerdiffusion.ui.follow import follow
from layerdiffusion.ui.options import PageOptions
from layerdiffusion.ui.spaces import UNIT, ZeroGPU, booked, on_zero_gpu, split

if TYPE_CHECKING:
    from layerdiffusion.editor import Editor
    from layerdiffusion.images.layers import Layers
    from layerdiffusion.models.models import Models

GIB = 2**30
PATIENCE = 600  # seconds to wait for a model to load, hub downloads included
log = logging.getLogger(__name__)


class Backend:
    """Loads the models once, in a thread; whoever needs them first waits for them."""

    def __init__(self, options: PageOptions) -> None:
        self.options = options
        self._done = threading.Event()
        self._editor: Editor | None = None
        self._segmenter: Any = None
        self._detector: Any = None
        self.is_miniature = options.model == "miniature"  # the embedded one, as far as is known before it is loaded
        self._usual: float | None = None  # the most out of distribution that a scene of the toybox is
        self._error: str | None = None
        self._lock = threading.Lock()
        self._zero_gpu = ZeroGPU(self._models) if on_zero_gpu() else None

    def start(self) -> None:
        """Load in the background; on ZeroGPU at once, which wants its weights before the first request."""
        if self.options.offline:
            os.environ |= {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
        if self._zero_gpu is not None:
            self._load()
        else:
            threading.Thread(target=self._load, name="load-models", daemon=True).start()

    def _load(self) -> None:
        try:
            from layerdiffusion.models.load import MINIATURE

            editor = self._opened(self.options.model)
            self.is_miniature = editor.models.folder == MINIATURE
            self._editor = editor
        except EditError as error:
            self._error = str(error)
            log.error("%s", error)
        except Exception:
            self._error = "The model can't be loaded; the log of the program says why."
            log.exception("loading the model failed")
        self._done.set()
        if self._editor is not None:
            self._warm_up(self._editor)

    def _opened(self, model: str) -> "Editor":
        import torch

        from layerdiffusion.editor import Editor
        from layerdiffusion.models.load import load_models

        options = self.options
        compiling = options.compile and self._zero_gpu is None  # there torch.compile is not available
        models = load_models(model, options.device, compile=compiling, loras=options.lora)
        limit = options.cache_gb
        editor = Editor(models, None if limit is None else int(limit * GIB), options.sam)
        if self._zero_gpu is None:
            editor.measure()
            return editor
        import peft  # noqa: F401 - once and here, not in every worker

        # Tuned networks are too large to be sent.
        models.model_defaults = replace(models.model_defaults, tune="lora")
        models.defaults, models.quick = replace(models.defaults, tune="lora"), models.family.quick
        models.helpers_device = torch.device("cpu")
        if editor.sam is None and not (models.folder / "sam").is_dir():
            editor.sam = "vit_b"  # a few seconds a picture on a CPU, where ViT-H takes a minute
        editor.cache.remote = self._zero_gpu
        editor.cache.assume(UNIT)
        return editor

    @staticmethod
    def _warm_up(editor: "Editor") -> None:
        """Load the segmenter, so that the first click doesn't wait for it."""
        try:
            editor.models.segmenter(editor.sam)
        except EditError as error:
            log.error("%s", error)

    @property
    def may_download(self) -> bool:
        """Whether a visitor may switch to the model for photographs: its owner allows it, and this is no Space."""
        return self.options.allow_download and not self.options.offline and "SPACE_ID" not in os.environ

    def switch(self, cancel: threading.Event | None) -> Iterator[Any]:
        """("progress", [(bytes, of all)]) while the model for photographs is downloaded; at last, when every tab has
        it, ("done", None).
        """
        yield from follow(self._switch, cancel)

    def _switch(self, report: Callable[[Any], None], stop: threading.Event) -> None:
        from layerdiffusion.progress import Cancelled

        def on_bytes(done: int, of: int) -> None:
            if stop.is_set():
                raise Cancelled("The download was cancelled; what has come is kept.")
            report((done, of))

        if not self.may_download:
            raise EditError("Downloads are not allowed here; start the page with --allow-download.")
        hub.download_model(hub.LAPTOP[0], on_bytes)
        editor = self._opened(hub.LAPTOP[0])
        self._warm_up(editor)
        self.is_miniature, self._editor = False, editor

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
        return self.editor.models.segmenter(self.editor.sam)

    def _models(self) -> "Models":
        assert self._editor is not None
        return self._editor.models

    def window(self, shape: str, photo: tuple[int, int]) -> tuple[int, int]:
        """The size (W, H) of the pictures that are made of a photo of size `photo`."""
        return self.editor.models.window(shape, photo)

    def defaults(self) -> Settings:
        """What an edit takes by itself: the model's own settings, or the quick ones where the card is small."""
        return self.editor.models.defaults if self.ready else self.model_defaults()

    def model_defaults(self) -> Settings:
        """The model's own settings; before it is loaded, the embedded one's as its folder has them."""
        if self.ready:
            return self.editor.models.model_defaults
        return self._embedded()[0].resolve(PAPER)

    def _embedded(self) -> tuple[Settings, Settings | None]:
        """What the embedded model's folder says, where that is the model as far as is known before it is loaded."""
        path = ASSETS / "miniature" / "settings.json"
        there = self.options.model in ("auto", "miniature") and path.is_file()
        return model_settings(path.read_text(encoding="utf-8")) if there else (Settings(), None)

    def opening(self) -> Settings:
        """The settings that the dials open with: the model's own; the quick ones where GPU time is rationed."""
        return self.defaults() if self._zero_gpu is None else self.preset("quick")

    def preset(self, name: str) -> Settings:
        """The settings of a preset for the model, or, before it is loaded, for what it will be as far as is known."""
        if not self.ready:
            return preset(name, self.model_defaults(), self._embedded()[1])
        from layerdiffusion.models.memory import fitting_preset

        return fitting_preset(self.editor.models, name)

    def bookings(self, edit: Edit, settings: Settings) -> list[int]:
        """The seconds of each GPU call that the edit would book now; none where no GPU is lent."""
        if self._zero_gpu is None:
            return []
        editor = self.editor
        return [booked(stages, editor.cache.seconds_per_pass) for stages in split(editor.missing(edit, settings))]

    def check(self, settings: Settings) -> None:
        """Raise a `SettingsError` for settings that this page can't run."""
        if self._zero_gpu is not None and settings.tune == "full":
            raise SettingsError(
                "Here stage 2 can train LoRA only; choose LoRA for it, or run the page on your own GPU."
            )

    def run(
        self, edit: Edit, settings: Settings, cancel: threading.Event | None, subject: Any = None, method: str = OWN
    ) -> Iterator[Any]:
        """("progress", list of `Progress`) several times a second, and at last ("done", the `Result`)."""
        editor = self.editor
        settings = settings.resolve(self.opening())
        self.check(settings)
        yield from follow(
            lambda report, stop: editor.run(edit, settings, report, stop, method=method, subject=subject), cancel
        )

    def generate(
        self, prompt: str, seeds: Sequence[int], settings: Settings, photo: tuple[int, int], cancel: Any
    ) -> Iterator[Any]:
        """The same with backgrounds generated for a photo of that size, one for each seed."""
        editor = self.editor
        yield from follow(
            lambda report, stop: editor.generate_backgrounds(prompt, seeds, settings, report, stop, photo), cancel
        )

    def candidates(self, image: np.ndarray, points: list, labels: list | None, box: Any) -> list[Any]:
        """SAM's candidates for clicks on `image`, beside a running edit; on a GPU a new picture waits for its turn."""
        segmenter = self.segmenter()
        beside = segmenter.device.type == "cpu" or segmenter.knows(image)
        with contextlib.nullcontext() if beside else self.editor.turn():
            return segmenter.candidates(points, labels, box, image=image)

    # What follows takes a turn on the device, as edits do.

    def find(self, image: np.ndarray, words: str) -> list[Any]:
        """The subjects of `image` that the words may mean, the likeliest first; on a CPU beside a running edit."""
        from layerdiffusion.models.find import find, load_detector

        segmenter, models = self.segmenter(), self.editor.models
        if self._detector is None and self.options.detector is not None:
            self._detector = load_detector(self.options.detector, segmenter.device)
        with contextlib.nullcontext() if segmenter.device.type == "cpu" else self.editor.turn():
            return find(models, image, words, segmenter=segmenter, detector=self._detector)

    def out_of_distribution(self, image: Image.Image) -> bool:
        """Whether the picture is further from the toybox than any of its scenes; False where that can't be seen."""
        if not self.ready or self._zero_gpu is not None:  # where it would cost a visitor's GPU time
            return False
        from layerdiffusion.miniature.out_of_distribution import ood_score, ood_threshold

        models = self.editor.models
        with self.editor.turn():
            if self._usual is None:
                self._usual = ood_threshold(models)
            return ood_score(models, image) > self._usual

    def scores(self, images: list[Image.Image], edit: Edit, layers: "Layers") -> Sequence[Score | None]:
        """How well each picture fits the edit, or None where no CLIP can be had."""
        try:
            segmenter = self._quick_segmenter()
            with self.editor.turn():
                return score_results(self.editor.models, edit, layers, images, segmenter)
        except ModelError as error:
            log.warning("%s", error)
            return [None] * len(images)

    def change(self, image: Image.Image, layers: "Layers") -> np.ndarray:
        """Where a result differs from the wanted background, as `background_change` has it."""
        segmenter = self._quick_segmenter()
        with self.editor.turn():
            (subject,) = result_subjects(self.editor.models, layers, [image], segmenter)
        return background_change(image, layers, subject)

    def _quick_segmenter(self) -> Any:
        """What finds the subjects in results; None on a CPU, where a large SAM would take longer than the pictures did,
        and where the model has a judge."""
        models = self.editor.models
        device = models.helpers_device or models.device
        return None if device.type == "cpu" or (models.folder / "judge").is_dir() else self.segmenter()
