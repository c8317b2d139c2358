"""One mask means the same from Python, on the command line, on the page and over HTTP, of photo and reference."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from pictures import smooth
from PIL import Image

from layerdiffusion.edit import Edit
from layerdiffusion.errors import EditError, MaskError

SIZE = 96, 64


def subject() -> np.ndarray:
    """A subject on 32.3 % of the photo."""
    y, x = np.mgrid[: SIZE[1], : SIZE[0]]
    mask = np.hypot((x - 55) / 28.95, (y - 26) / 21.85) <= 1
    assert round(100 * mask.mean(), 1) == 32.3
    return mask


def drawn(colour: tuple[int, int, int, int]) -> Image.Image:
    return Image.fromarray(np.where(subject()[..., None], colour, (0, 0, 0, 0)).astype(np.uint8))


def cut_out() -> Image.Image:
    return Image.fromarray(np.dstack([smooth(*SIZE), np.where(subject(), 255, 0).astype(np.uint8)]))


MASKS: dict[str, Callable[[], Image.Image]] = {
    "white on transparent": lambda: drawn((255, 255, 255, 255)),
    "half-opaque red on transparent": lambda: drawn((255, 0, 0, 128)),
    "black ink on transparent": lambda: drawn((0, 0, 0, 255)),
    "a cut-out": cut_out,
    "zeros and ones": lambda: Image.fromarray(subject().astype(np.uint8)),
    "red on black": lambda: drawn((255, 0, 0, 255)).convert("RGB"),
    "twice the size": lambda: Image.fromarray(subject()).resize((2 * SIZE[0], 2 * SIZE[1])),
}
WRONG: dict[str, tuple[Callable[[], Image.Image], str]] = {
    "dim": (lambda: Image.linear_gradient("L").resize(SIZE).point(lambda value: value // 3), "white"),
    "black": (lambda: Image.new("L", SIZE), "empty"),
    "another shape": (lambda: Image.fromarray(subject().T), "another shape"),
}


class Caught(EditError):
    """Raised instead of running the edit."""


@pytest.fixture
def ways(tmp_path, tiny_folder, monkeypatch, capfd) -> dict[str, Callable[[Path, bool], np.ndarray]]:
    """Each way in, as a function of a mask's file, and whether it is the reference's; it returns what was read."""
    from layerdiffusion.__main__ import main
    from layerdiffusion.editor import Editor
    from layerdiffusion.ui.api import editing
    from layerdiffusion.ui.marks import MarkedPicture

    photo, good = tmp_path / "photo.png", tmp_path / "good.png"
    Image.fromarray(smooth(*SIZE)).save(photo)
    Image.fromarray(subject()).save(good)
    words = "a dog on ice"

    def mask_of(edit: Edit, reference: bool) -> np.ndarray:
        return edit.background_mask if reference else edit.object_mask

    def python(path: Path, reference: bool) -> np.ndarray:
        if reference:
            return Edit(photo, good, photo, path, prompt=words).background_mask
        return Edit(photo, path, prompt=words).object_mask

    def command(path: Path, reference: bool) -> np.ndarray:
        edits = []

        def run(self, edit, *args, **options):
            edits.append(edit)
            raise Caught("Enough.")

        monkeypatch.setattr(Editor, "run", run)
        flags = ["--image", photo, "--mask", good if reference else path, "--prompt", words, "--model", tiny_folder]
        flags += ["--reference", photo, "--reference-mask", path] if reference else []
        assert main(["edit", *map(str, flags), "--device", "cpu"]) == 2
        if not edits:
            raise MaskError(capfd.readouterr().err.strip().splitlines()[-1])
        return mask_of(edits[0], reference)

    def page(path: Path, reference: bool) -> np.ndarray:
        marked = MarkedPicture()
        marked.show(Image.open(photo).convert("RGB"))
        marked.load_mask(path.read_bytes())
        return marked.mask

    def http(path: Path, reference: bool) -> np.ndarray:
        edits = []

        def run(edit, *args, **options):
            edits.append(edit)
            raise Caught("Enough.")

        masks = (good.read_bytes(), photo.read_bytes(), path.read_bytes()) if reference else (path.read_bytes(),)
        named = dict(zip(("mask", "reference", "reference_mask"), masks, strict=False))
        try:
            next(editing(SimpleNamespace(run=run))(photo.read_bytes(), prompt=words, **named))
        except Caught:
            return mask_of(edits[0], reference)
        raise AssertionError("the edit was not run")

    return {"python": python, "command": command, "page": page, "http": http}


@pytest.mark.parametrize("reference", [False, True], ids=["photo", "reference"])
@pytest.mark.parametrize("kind", MASKS)
def test_a_mask_means_the_same_by_every_way_in(ways, tmp_path, kind, reference):
    path = tmp_path / "mask.png"
    MASKS[kind]().save(path)
    for name, read in ways.items():
        mask = read(path, reference)
        assert round(100 * mask.mean(), 1) == 32.3, name
        assert (mask & subject()).sum() == (mask | subject()).sum(), name


@pytest.mark.parametrize("reference", [False, True], ids=["photo", "reference"])
@pytest.mark.parametrize("kind", WRONG)
def test_what_marks_nothing_is_refused_by_every_way_in(ways, tmp_path, kind, reference):
    path = tmp_path / "mask.png"
    make, words = WRONG[kind]
    make().save(path)
    for name, read in ways.items():
        with pytest.raises(MaskError) as error:
            read(path, reference)
        assert words in str(error.value) and str(error.value).endswith("."), name


@pytest.mark.parametrize("way", ["command", "http"])
def test_a_click_on_a_picture_that_is_reduced_lands_on_the_same_place(tmp_path, tiny_folder, monkeypatch, way):
    from layerdiffusion.__main__ import main
    from layerdiffusion.models.models import Models
    from layerdiffusion.ui.api import segmenter

    monkeypatch.setattr("layerdiffusion.images.io.WORKING_PIXELS", 2000)
    photo = tmp_path / "photo.png"
    Image.fromarray(smooth(*SIZE)).save(photo)
    asked = []

    def ask(*given, image=None):
        asked.extend(given if image is None else (image, *given))
        raise Caught("Enough.")

    if way == "command":
        monkeypatch.setattr(Models, "segmenter", lambda self, name: SimpleNamespace(mask=ask))
        flags = ["--image", photo, "--prompt", "a dog", "--point", "55.5,25.5", "--box", "0,0,96,64"]
        assert main(["edit", *map(str, flags), "--model", str(tiny_folder), "--device", "cpu"]) == 2
    else:
        with pytest.raises(Caught):
            next(segmenter(SimpleNamespace(candidates=ask))(photo.read_bytes(), [[55.5, 25.5]], None, [0, 0, 96, 64]))
    pixels, points, _, box = asked
    assert np.asarray(pixels).shape == (32, 48, 3)
    assert points == [(27.75, 12.75)]
    assert tuple(box) == (0, 0, 48, 32)
